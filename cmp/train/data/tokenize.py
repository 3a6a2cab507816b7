"""Texts, and rows of texts, to token ids, on all cores. Called by `cache`.

Threads, not processes: the tokenizer's Rust code runs without Python's lock, so `workers` threads that each tokenize a
chunk keep `workers` cores busy while this thread reads on, and no text is copied between processes.
"""

import contextlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from cmp.train.data.forms import RowTexts

CHUNK_CHARACTERS = 512 * 1024
CHUNK_DOCUMENTS = 4096
LONG_DOCUMENT_CHARACTERS = 1_000_000  # longer ones go in pieces: several cores, and a tenth of the memory
CHUNKS_AHEAD = 2  # per worker
PIECE_END = re.compile(r"(?<=\S)\n(?=\S)")

T = TypeVar("T", str, RowTexts)
Encode = Callable[[list[str]], list[np.ndarray]]


@dataclass(frozen=True)
class Chunk:
    """Tokens of consecutive stretches, end to end: `ids` is flat, `lengths` (stretches,) says where each ends."""

    ids: np.ndarray
    lengths: np.ndarray


def encoder(tokenizer: Any) -> tuple[Encode, np.dtype]:
    """A function from texts to their token ids, and the smallest type that holds every id.

    Nothing is added to a text (no BOS, no template), cut or padded, whatever the tokenizer was saved with. The
    tokenizer itself is not changed. One that exists in Python only works too, on one core.
    """
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda texts: [
            np.array(ids, dtype) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]
        ], dtype
    rust = type(backend).from_str(backend.to_str())
    rust.no_truncation()
    rust.no_padding()

    def encode(texts: list[str]) -> list[np.ndarray]:
        return [np.array(encoding.ids, dtype) for encoding in rust.encode_batch_fast(texts, add_special_tokens=False)]

    return encode, dtype


def tokenize(items: Iterable[T], encode_chunk: Callable[[list[T]], Chunk], workers: int) -> Iterator[Chunk]:
    """The tokens of every item, in order, with at most a few chunks in memory.

    Args:
        items: texts, or rows of them, whose `len` is in characters; read in this thread, a little ahead.
        encode_chunk: `encode_texts` or `encode_rows`, with all but the items given.
        workers: how many threads tokenize.
    """
    with _one_thread_per_call(), ThreadPoolExecutor(workers, thread_name_prefix="tokenize") as pool:
        waiting: deque[Future[Chunk]] = deque()
        try:
            for chunk in _chunks(items):
                waiting.append(pool.submit(encode_chunk, chunk))
                if len(waiting) > CHUNKS_AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Lists of items of about `CHUNK_CHARACTERS` together."""
    chunk: list[T] = []
    characters = 0
    for item in items:
        chunk.append(item)
        characters += len(item)
        if characters >= CHUNK_CHARACTERS or len(chunk) >= CHUNK_DOCUMENTS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def encode_texts(encode: Encode, texts: list[str]) -> Chunk:
    """One stretch of tokens for each text."""
    ids = _encode_whole(encode, texts)
    return Chunk(np.concatenate(ids), np.fromiter(map(len, ids), np.int64, len(ids)))


def encode_rows(encode: Encode, end_id: int | None, rows: list[RowTexts]) -> Chunk:
    """Three stretches for each row: context, prompt, and the answer with its end; a row without an answer has none.

    The answer's tokens are those that it has after its prompt, whose last token may not be cut there alone (a word
    piece with the space before it); where the two are merged across the border, it is tokenized on its own.

    Args:
        encode: see `encoder`.
        end_id: the token that ends an answer; None where the tokenizer has none.
        rows: the texts.
    """
    contexts = _encode_whole(encode, [row.context for row in rows])
    prompts = encode([row.prompt for row in rows])
    both = encode([row.prompt + row.answer for row in rows])
    end = [] if end_id is None else [end_id]
    stretches: list[np.ndarray] = []
    for row, context, prompt, whole in zip(rows, contexts, prompts, both, strict=True):
        if not row.answer:
            stretches += [context[:0]] * 3
            continue
        splits = np.array_equal(whole[: len(prompt)], prompt)
        answer = whole[len(prompt) :] if splits else encode([row.answer])[0]
        stretches += [context, prompt, np.concatenate([answer, np.array(end, answer.dtype)])]
    return Chunk(np.concatenate(stretches), np.fromiter(map(len, stretches), np.int64, len(stretches)))


def _encode_whole(encode: Encode, texts: Sequence[str]) -> list[np.ndarray]:
    """The tokens of each text, however long."""
    pieces = [pieces_of(text) for text in texts]
    encoded = iter(encode(list(chain.from_iterable(pieces))))
    return [np.concatenate([next(encoded) for _ in some]) for some in pieces]


def pieces_of(text: str) -> list[str]:
    """The text, or if it is very long its pieces: cut after a single line break between two words.

    There no tokenizer in use merges across, so the tokens are those of the whole text (a sentencepiece model that marks
    the beginning of a text may add one token per million characters).
    """
    pieces = []
    start = 0
    while len(text) - start > LONG_DOCUMENT_CHARACTERS:
        end = PIECE_END.search(text, start + LONG_DOCUMENT_CHARACTERS // 2)
        if end is None:
            break
        pieces.append(text[start : end.end()])
        start = end.end()
    return [*pieces, text[start:]]


@contextlib.contextmanager
def _one_thread_per_call() -> Iterator[None]:
    """Keep the tokenizer's own thread pool out of it, so that `workers` is what it says."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
