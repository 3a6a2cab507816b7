"""Documents to token ids, on all cores. Called by `cache`.

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
from typing import Any

import numpy as np

CHUNK_CHARACTERS = 512 * 1024
CHUNK_DOCUMENTS = 4096
LONG_DOCUMENT_CHARACTERS = 1_000_000  # longer ones go in pieces: several cores, and a tenth of the memory
CHUNKS_AHEAD = 2  # per worker
PIECE_END = re.compile(r"(?<=\S)\n(?=\S)")

Encode = Callable[[list[str]], list[np.ndarray]]


@dataclass(frozen=True)
class Chunk:
    """Tokens of consecutive texts, end to end: `ids` is flat, `lengths` (texts,) says where each ends."""

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


def tokenize(texts: Iterable[str], encode: Encode, workers: int) -> Iterator[Chunk]:
    """The tokens of every text, in order, with at most a few chunks in memory.

    Args:
        texts: read in this thread, a little ahead.
        encode: see `encoder`.
        workers: how many threads tokenize.
    """
    with _one_thread_per_call(), ThreadPoolExecutor(workers, thread_name_prefix="tokenize") as pool:
        waiting: deque[Future[Chunk]] = deque()
        try:
            for chunk in _chunks(texts):
                waiting.append(pool.submit(_encode_chunk, encode, chunk))
                if len(waiting) > CHUNKS_AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _chunks(texts: Iterable[str]) -> Iterator[list[list[str]]]:
    """Lists of texts, each text a list of pieces, of about `CHUNK_CHARACTERS` together."""
    chunk: list[list[str]] = []
    characters = 0
    for text in texts:
        chunk.append(pieces_of(text))
        characters += len(text)
        if characters >= CHUNK_CHARACTERS or len(chunk) >= CHUNK_DOCUMENTS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _encode_chunk(encode: Encode, texts: Sequence[list[str]]) -> Chunk:
    pieces = encode(list(chain.from_iterable(texts)))
    counts = np.fromiter(map(len, texts), np.int64, len(texts))
    ends = np.cumsum([0, *map(len, pieces)])
    lengths = np.diff(ends[np.cumsum(np.concatenate(([0], counts)))])
    return Chunk(np.concatenate(pieces), lengths)


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
