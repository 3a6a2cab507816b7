"""Tokenized documents on disk: made once, mapped into memory by every trial. Called by `train.data`.

    <data root>/tokens/<fingerprint>/       of a hub data set, a link from the fingerprint with its commit
        train.arrow         Arrow IPC file, one column `tokens` of lists, one row per document
        train.rows.arrow    of rows: `golds` (all right answers), `max_new_tokens` (0 where not said), `group`
        validation.arrow    where the data set has its own validation split
        test.arrow          where it has its own test split
        train.hashes.npy    of each document's text, to find those that stand in two splits; for the others likewise
        facts.json          counts, time taken, what the fingerprint was made of

Values of the column lie flat in the file as uint16 (uint32 where the vocabulary needs it), so reading them copies
nothing. Of rows, three lists in turn are context, prompt and answer, all empty where something was missing; rows of one
`group` have the same context. A folder appears by rename when it is complete;
whoever wants it meanwhile waits at a lock. A killed tokenization leaves a `.partial` folder; the next one removes it.
"""

import hashlib
import json
import os
import shutil
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import numpy as np

from cmp.space.cache_root import cache_root
from cmp.space.hub_names import at_commit, commit_of
from cmp.space.locks import one_at_a_time
from cmp.space.settings import TrialSettings
from cmp.store import is_disk_full, sync
from cmp.train.data.columns import Document
from cmp.train.data.documents import Documents, data_identity, open_documents
from cmp.train.data.errors import DataError
from cmp.train.data.forms import RowNotes, form_of
from cmp.train.data.progress import clock, progress_bar
from cmp.train.data.repeats import text_hash
from cmp.train.data.rows import Row
from cmp.train.data.tokenize import Chunk, Encode, encode_rows, encode_texts, encoder, tokenize
from cmp.train.data.windows import SPLITS

FORMAT = 4  # raise when what is written, or how documents are read or tokenized, changes
HASHES = ".hashes.npy"


@dataclass(frozen=True)
class Column:
    """Tokens of one split: those of stretch r are `tokens[offsets[r] : offsets[r + 1]]`.

    Args:
        tokens: flat, uint16 or uint32, memory-mapped.
        offsets: (stretches + 1,) int64.
        hashes: (documents,) uint64, see `repeats`; of rows, of each context.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    hashes: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """(stretches,) tokens of each."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class RowFacts:
    """What rows have beside their tokens.

    Args:
        golds: a list of texts for each row: a pyarrow array, memory-mapped.
        max_new_tokens: (rows,) int64, 0 where the data do not say.
        groups: (rows,) int64, the same for rows with the same context, counted from 0.
    """

    golds: Any
    max_new_tokens: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class TokenCache:
    """A complete cache folder, opened.

    Args:
        folder: where it is.
        fingerprint: of everything that shapes its content, as far as that is known without reading the text.
        facts: what `facts.json` holds.
        columns: by split.
        rows: by split, where documents are rows of context, prompt and answer.
        was_there: False where this call tokenized it.
    """

    folder: Path
    fingerprint: str
    facts: dict[str, Any]
    columns: dict[str, Column]
    rows: dict[str, RowFacts]
    was_there: bool

    @property
    def choices(self) -> dict[str, list[int]]:
        """The answers of a classification, with their tokens; empty where answers are free."""
        return dict(self.facts["choices"])

    @property
    def content(self) -> str:
        """What the tokens are, wherever their text came from: the same on every machine that has the same text."""
        return json.dumps([FORMAT, self.facts["content"], self.facts["tokenizer"], self.facts["per_document"]])


def cached_tokens(settings: TrialSettings, tokenizer: Any, *, progress: bool = False) -> TokenCache:
    """Open the tokenized documents of a data set, tokenizing them first if nobody has yet.

    Args:
        settings: which data set, and where caches are.
        tokenizer: of the model that will read the tokens.
        progress: show a bar where a person is watching.

    Raises:
        DataError: the data cannot be read, hold no text, or there is no space for their tokens.
    """
    with clock("looking at the data", show=progress):
        identity = _identity(settings, tokenizer)
    fingerprint = cache_fingerprint(identity, tokenizer)
    folder = cache_root(settings.data_root) / "tokens" / fingerprint
    was_there = (folder / "facts.json").is_file()
    if not was_there:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder.with_suffix(".lock")) as alone:
            was_there = (folder / "facts.json").is_file()
            if not was_there:
                fill = partial(_fill, settings=settings, tokenizer=tokenizer, identity=identity, progress=progress)
                _make(folder, fill, alone=alone)
    opened = _open(folder, fingerprint, was_there)
    if "hub" in identity:
        _name_by_commit(opened, settings, tokenizer)
    return opened


def _identity(settings: TrialSettings, tokenizer: Any) -> dict[str, Any]:
    identity = data_identity(settings) | {"end": _end_id(tokenizer)}
    return identity | ({"chat": getattr(tokenizer, "chat_template", None)} if settings.chat_template else {})


def _name_by_commit(cache: TokenCache, settings: TrialSettings, tokenizer: Any) -> None:
    """Let the tokens be found also by the commit that the hub's name stood for, which trials go by."""
    commit = cache.facts["revision"]
    if commit is None or commit_of(settings.dataset) is not None:
        return
    pinned = replace(settings, dataset=at_commit(settings.dataset, commit))
    link = cache.folder.with_name(cache_fingerprint(_identity(pinned, tokenizer), tokenizer))
    with suppress(OSError):  # it is there, or links are not to be had: then they are tokenized a second time
        link.symlink_to(cache.folder.name)


def cache_fingerprint(identity: dict[str, Any], tokenizer: Any) -> str:
    """Hash of the format, the data's identity and the whole tokenizer."""
    content = json.dumps([FORMAT, identity, tokenizer_fingerprint(tokenizer)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hash of what the tokenizer does to a text: its vocabulary, merges, normalizer and splitting rules."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = (
        backend.to_str()
        if backend is not None
        else json.dumps([repr(type(tokenizer)), tokenizer.get_vocab()], sort_keys=True)
    )
    return hashlib.sha256(content.encode()).hexdigest()


def _make(folder: Path, fill: Callable[[Path], None], *, alone: bool) -> None:
    """Fill a partial folder and give it its name. Where nobody else does the same, older partial ones are dead."""
    for dead in folder.parent.glob(f"{folder.name}.*.partial") if alone else ():
        shutil.rmtree(dead, ignore_errors=True)
    partial_folder = folder.with_suffix(f".{uuid4().hex}.partial")
    partial_folder.mkdir()
    try:
        fill(partial_folder)
        if not (folder / "facts.json").is_file():
            if folder.is_symlink():  # to tokens that are gone
                folder.unlink()
            shutil.rmtree(folder, ignore_errors=True)
            partial_folder.rename(folder)
    except OSError as error:
        if is_disk_full(error):
            raise DataError(
                "data_root", f"no space left for tokens in {folder.parent}; choose another data_root"
            ) from error
        raise
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def _fill(folder: Path, settings: TrialSettings, tokenizer: Any, identity: dict[str, Any], progress: bool) -> None:
    documents = open_documents(settings)
    encode, dtype = encoder(tokenizer)
    workers = settings.n_data_procs or _cores()
    began = time.perf_counter()
    stretches, tokens = {}, {}
    choices: dict[str, list[int]] = {}
    content = hashlib.sha256()
    for name in (name for name in SPLITS if name in documents.splits):
        some = _documents(documents, name, progress)
        if documents.layout is None:
            hashes = array("Q")
            chunks = tokenize(_hashed(cast(Iterator[str], some), hashes), partial(encode_texts, encode), workers)
        else:
            notes = RowNotes(form_of(documents.layout, settings, tokenizer), cast(Iterator[Row], some))
            hashes = notes.hashes
            chunks = tokenize(notes.texts(), partial(encode_rows, encode, _end_id(tokenizer)), workers)
        column = _write_column(folder / f"{name}.arrow", chunks, dtype)
        stretches[name], tokens[name] = column.stretches, column.tokens
        content.update(f"{name} {column.digest}\n".encode())
        np.save(folder / f"{name}{HASHES}", np.frombuffer(hashes, np.uint64))
        if documents.layout is not None:
            _write_arrow(folder / f"{name}.rows.arrow", notes.table())
            content.update(notes.digest())
            choices = choices or _choice_tokens(documents.choices, notes, encode)
    if not sum(tokens.values()):
        raise DataError(_what_to_read(settings), f"{settings.dataset} holds no text: every document is empty")
    facts = {
        "stretches": stretches,
        "per_document": 1 if documents.layout is None else 3,
        "tokens": tokens,
        "content": content.hexdigest(),
        "choices": choices,
        "seconds": time.perf_counter() - began,
        "workers": workers,
        "revision": documents.revision,
        "dataset": settings.dataset,
        "identity": identity,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "format": FORMAT,
    }
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        sync(path)


def _end_id(tokenizer: Any) -> int | None:
    """The token that ends an answer."""
    return getattr(tokenizer, "eos_token_id", None)


def _what_to_read(settings: TrialSettings) -> str:
    """The setting that a data set without any text is blamed on."""
    named = ("answer_column", "text_column")
    return next((name for name in named if getattr(settings, name) is not None), "dataset")


def _hashed(texts: Iterable[str], hashes: "array[int]") -> Iterator[str]:
    """The texts; the hash of each that was read is added to `hashes`."""
    for text in texts:
        hashes.append(text_hash(text))
        yield text


def _documents(documents: Documents, name: str, progress: bool) -> Iterator[Document]:
    """The documents of a split, with a bar that counts them."""
    split = documents.splits[name]
    return progress_bar(split.documents(), f"tokenizing {name}", split.total, show=progress)


def _choice_tokens(words: tuple[str, ...], notes: RowNotes, encode: Encode) -> dict[str, list[int]]:
    """The tokens of each choice as they follow a prompt, without the end of an answer."""
    if not words or notes.first is None:
        return {}
    chunk = encode_rows(encode, None, [notes.form.texts(notes.first, answer=word) for word in words])
    ends = np.cumsum(chunk.lengths)
    answers = zip((ends - chunk.lengths)[2::3], ends[2::3], strict=True)
    return {word: chunk.ids[start:end].tolist() for word, (start, end) in zip(words, answers, strict=True)}


@dataclass(frozen=True)
class _Written:
    """A column on the disk: how many stretches and tokens, and a hash of them."""

    stretches: int
    tokens: int
    digest: str


def _write_column(path: Path, chunks: Iterable[Chunk], dtype: np.dtype) -> _Written:
    """Write tokens into an Arrow file, a list for each stretch.

    Tokens go to a raw file first: an Arrow file of one record batch, which alone is flat in memory, needs its length
    before its content.
    """
    import pyarrow

    raw = path.with_suffix(".raw")
    lengths = []
    digest = hashlib.sha256(dtype.str.encode())
    with raw.open("wb") as stream:
        for chunk in chunks:
            ids = chunk.ids.astype(dtype, copy=False).data
            stream.write(ids)
            digest.update(ids)
            lengths.append(chunk.lengths)
    offsets = np.concatenate([[0], *lengths]).cumsum(dtype=np.int64)
    digest.update(offsets.data)
    tokens = np.memmap(raw, dtype, mode="r") if offsets[-1] else np.empty(0, dtype)
    column = pyarrow.LargeListArray.from_arrays(offsets, pyarrow.array(tokens))
    _write_arrow(path, pyarrow.record_batch([column], names=["tokens"]))
    raw.unlink()
    return _Written(len(offsets) - 1, int(offsets[-1]), digest.hexdigest())


def _write_arrow(path: Path, batch: Any) -> None:
    import pyarrow

    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _open(folder: Path, fingerprint: str, was_there: bool) -> TokenCache:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    names = [name for name in SPLITS if name in facts["stretches"]]
    columns = {name: _open_column(folder, name) for name in names}
    has_rows = facts["per_document"] == 3
    rows = {name: _open_rows(folder / f"{name}.rows.arrow") for name in names} if has_rows else {}
    return TokenCache(folder, fingerprint, facts, columns, rows, was_there)


def _open_column(folder: Path, name: str) -> Column:
    """Map a column into memory; the arrays keep the map alive."""
    column = _map_arrow(folder / f"{name}.arrow").column("tokens").chunk(0)
    hashes = np.load(folder / f"{name}{HASHES}", mmap_mode="r")
    return Column(column.values.to_numpy(), column.offsets.to_numpy(), hashes)


def _open_rows(path: Path) -> RowFacts:
    table = _map_arrow(path)
    golds, limits, groups = (table.column(name).chunk(0) for name in ("golds", "max_new_tokens", "group"))
    return RowFacts(golds, limits.to_numpy(), groups.to_numpy())


def _map_arrow(path: Path) -> Any:
    import pyarrow

    return pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()


def _cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
