"""The two doors of this package: `prepare_data` for a search, `open_data` for a trial.

Window arithmetic is in `windows`, tokens come from `cache`; here they are joined for one trial's settings.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmp.space.settings import TrialSettings, Window
from cmp.train.data.cache import SPLITS, Column, TokenCache, cached_tokens
from cmp.train.data.repeats import count_repeats
from cmp.train.data.windows import (
    Cut,
    PairWindows,
    Part,
    TextWindows,
    WindowSet,
    require_windows,
    split_documents,
    windows_per_document,
)


@dataclass(frozen=True)
class TrialData:
    """What one trial trains and is validated on, and what nobody looks at before the search has ended.

    Args:
        train: windows to train on.
        validation: windows of held-out documents; all that is decided is decided on them.
        test: windows of other held-out documents, which decide nothing.
        summary: of the whole data set.
    """

    train: WindowSet
    validation: WindowSet
    test: WindowSet
    summary: "DataSummary"

    @property
    def fingerprint(self) -> str:
        """Of the tokens and how they are cut and split; the same for all trials of a space."""
        return self.summary.fingerprint


@dataclass(frozen=True)
class DataSummary:
    """What became of a data set: counts for the person who starts a search.

    Args:
        documents: read, of all splits; a pair is one document.
        tokens: in them.
        train_windows: windows to train on.
        validation_windows: windows to validate on.
        test_windows: windows that decide nothing.
        dropped_documents: too short for one window, or empty.
        dropped_tokens: in no window: those documents' and the ends of others; of pairs, what was cut off.
        repeated_documents: held out though, but for case and spaces, the same text stands in another split.
        seconds: that tokenization took, when it was done.
        tokens_per_second: of tokenization, all cores together.
        from_cache: True where nothing had to be tokenized now.
        own_splits: of "train", "validation" and "test" those that the data set brought; the others are held out here.
        cache: folder of the tokens.
        fingerprint: of the tokens and how they are cut and split; the same for all trials of a space, on all machines.
        revision: the hub's commit, where known.
    """

    documents: int
    tokens: int
    train_windows: int
    validation_windows: int
    test_windows: int
    dropped_documents: int
    dropped_tokens: int
    repeated_documents: int
    seconds: float
    tokens_per_second: float
    from_cache: bool
    own_splits: tuple[str, ...]
    cache: Path
    fingerprint: str
    revision: str | None

    @property
    def counts(self) -> dict[str, int | str]:
        """What a journal and a model card keep of it."""
        names = ["documents", "tokens", "train_windows", "validation_windows", "test_windows"]
        names += ["dropped_documents", "dropped_tokens", "repeated_documents"]
        revision = {"revision": self.revision} if self.revision else {}
        return {name: getattr(self, name) for name in names} | revision


def prepare_data(
    settings: TrialSettings, window: Window, *, progress: bool = False, tokenizer: Any = None
) -> DataSummary:
    """Tokenize the data set if that has not been done, and say what a search will find in it.

    Args:
        settings: any trial of the space; only what names the data, the model and their places matters.
        window: how the space cuts documents.
        progress: show a bar where a person is watching.
        tokenizer: the model's, where it is at hand; else it is loaded.

    Raises:
        DataError: the data cannot be read, or leave no window to train, validate or test on.
    """
    cache = cached_tokens(settings, tokenizer or _load_tokenizer(settings), progress=progress)
    return _opened(cache, settings, window).summary


def open_data(settings: TrialSettings, window: Window, *, tokenizer: Any = None) -> TrialData:
    """The windows of one trial, mapped from the cache; tokenizes only where `prepare_data` has not.

    Args:
        settings: the trial's.
        window: the space's.
        tokenizer: the model's, where it is at hand; else it is loaded.

    Raises:
        DataError: as `prepare_data`.
    """
    return _opened(cached_tokens(settings, tokenizer or _load_tokenizer(settings)), settings, window)


def _opened(cache: TokenCache, settings: TrialSettings, window: Window) -> TrialData:
    counts = _window_counts(cache, window)
    parts = _parts(counts)
    cut = Cut(window.context_len, 0 if settings.rmb_only else settings.cmp_len, settings.seq_len)
    sets, kept_tokens = _window_sets(cache, parts, window, cut)
    rows, tokens = sum(cache.facts["rows"].values()), sum(cache.facts["tokens"].values())
    seconds = cache.facts["seconds"]
    summary = DataSummary(
        documents=rows // 2 if cache.pairs else rows,
        tokens=tokens,
        train_windows=len(sets["train"]),
        validation_windows=len(sets["validation"]),
        test_windows=len(sets["test"]),
        dropped_documents=sum(int(np.count_nonzero(some == 0)) for some in counts.values()),
        dropped_tokens=tokens - kept_tokens,
        repeated_documents=count_repeats(parts, {name: column.hashes for name, column in cache.columns.items()}),
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        from_cache=cache.was_there,
        own_splits=tuple(cache.columns),
        cache=cache.folder,
        fingerprint=_fingerprint(cache, window),
        revision=cache.facts["revision"],
    )
    return TrialData(sets["train"], sets["validation"], sets["test"], summary)


def _load_tokenizer(settings: TrialSettings) -> Any:
    from cmp.model.loading import load_tokenizer

    return load_tokenizer(settings.model_string)


def _fingerprint(cache: TokenCache, window: Window) -> str:
    content = json.dumps([cache.content, asdict(window)])
    return hashlib.sha256(content.encode()).hexdigest()[:24]


Parts = dict[str, tuple[str, Part]]
"""For each of `SPLITS` the column that it comes from and its part of that."""


def _window_counts(cache: TokenCache, window: Window) -> dict[str, np.ndarray]:
    """(documents,) windows of each document, by the splits that the data set brought itself; a pair is one window."""
    columns = cache.columns.items()
    if cache.pairs:
        return {name: np.all(column.lengths.reshape(-1, 2) > 0, axis=1).astype(np.int64) for name, column in columns}
    window_len = window.context_len + window.target_len
    return {name: windows_per_document(column.lengths, window_len) for name, column in columns}


def _parts(counts: dict[str, np.ndarray]) -> Parts:
    """What is whose: a split that the data set did not bring itself is held out of "train"."""
    held_out = split_documents(counts["train"], [name for name in SPLITS if name not in counts])
    own = {name: Part(np.arange(len(n)), np.zeros(len(n), np.int64), n) for name, n in counts.items()}
    return {name: ("train", held_out[name]) if name in held_out else (name, own[name]) for name in SPLITS}


def _window_sets(cache: TokenCache, parts: Parts, window: Window, cut: Cut) -> tuple[dict[str, WindowSet], int]:
    """Windows by split, in the order of `SPLITS`, and the tokens in them."""
    sets, kept_tokens = (_pair_sets if cache.pairs else _text_sets)(cache, parts, window, cut)
    longest = max(int(column.lengths.max(initial=0)) for column in cache.columns.values())
    window_len = 1 if cache.pairs else window.context_len + window.target_len
    require_windows({name: len(windows) for name, windows in sets.items()}, longest, window_len)
    return sets, kept_tokens


def _text_sets(cache: TokenCache, parts: Parts, window: Window, cut: Cut) -> tuple[dict[str, WindowSet], int]:
    """The windows, and the tokens in them."""
    window_len = window.context_len + window.target_len
    sets: dict[str, WindowSet] = {
        name: _part_windows(cache.columns[source], part, window_len, cut) for name, (source, part) in parts.items()
    }
    return sets, sum(len(windows) for windows in sets.values()) * window_len


def _part_windows(column: Column, part: Part, window_len: int, cut: Cut) -> TextWindows:
    """Windows of a part; where one document holds several parts, its spare tokens lie behind the first, "train"."""
    slack = column.lengths[part.documents] % window_len
    starts = column.offsets[:-1][part.documents] + part.first * window_len + np.where(part.first > 0, slack, 0)
    return TextWindows(column.tokens, starts, part.counts, window_len, cut, slack)


def _pair_sets(cache: TokenCache, parts: Parts, window: Window, cut: Cut) -> tuple[dict[str, WindowSet], int]:
    """The pairs, and the tokens that the longest cut keeps of them."""
    whole = Cut(window.context_len, window.context_len, window.target_len)
    sets: dict[str, WindowSet] = {}
    kept_tokens = 0
    for name, (source, part) in parts.items():
        column, chosen = cache.columns[source], part.documents[part.counts > 0]
        sets[name] = PairWindows(column.tokens, column.offsets, chosen, cut)
        kept_tokens += PairWindows(column.tokens, column.offsets, chosen, whole).kept_tokens()
    return sets, kept_tokens
