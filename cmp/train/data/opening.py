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
from cmp.train.data.cache import Column, TokenCache, cached_tokens
from cmp.train.data.repeats import count_repeats
from cmp.train.data.row_sets import longest_prompt, row_sets, rows_per_context
from cmp.train.data.windows import (
    Cut,
    Dropped,
    Part,
    Parts,
    TextWindows,
    WindowSet,
    parts_of,
    require_windows,
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
        documents: read, of all splits; a row is one document.
        tokens: in them.
        train_windows: windows to train on.
        validation_windows: windows to validate on.
        test_windows: windows that decide nothing.
        dropped_documents: too short for one window, or empty; of rows, see `Dropped`.
        dropped_tokens: in no window: those documents' and the ends of others; of rows, what was cut off.
        repeated_documents: held out though, but for case and spaces, the same text (of rows, the same context) stands
            in another split.
        seconds: that tokenization took, when it was done.
        tokens_per_second: of tokenization, all cores together.
        from_cache: True where nothing had to be tokenized now.
        own_splits: of "train", "validation" and "test" those that the data set brought; the others are held out here.
        cache: folder of the tokens.
        fingerprint: of the tokens and how they are cut and split; the same for all trials of a space, on all machines.
        revision: the hub's commit, where known.
        rows: whether documents are rows of context, prompt and answer.
        longest_prompt: tokens of the longest prompt that is read.
        long_prompts: rows left out for their prompt.
        cut_contexts: rows that lost a part of their context, in trials with the longest one.
        cut_answers: rows that lost the end of their answer.
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
    rows: bool = False
    longest_prompt: int = 0
    long_prompts: int = 0
    cut_contexts: int = 0
    cut_answers: int = 0

    @property
    def counts(self) -> dict[str, int | str]:
        """What a journal and a model card keep of it."""
        names = ["documents", "tokens", "train_windows", "validation_windows", "test_windows"]
        names += ["dropped_documents", "dropped_tokens", "repeated_documents"]
        names += ["long_prompts", "cut_contexts", "cut_answers"] if self.rows else []
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
    cut = _cut(settings, window)
    counts = _window_counts(cache, window, cut)
    parts = parts_of(counts)
    if cache.rows:
        sets, dropped = row_sets(cache, parts, cut, window.context_len, may_cut=settings.cut != "error")
    else:
        sets, dropped = _text_sets(cache, parts, window, cut)
    stretches, tokens = sum(cache.facts["stretches"].values()), sum(cache.facts["tokens"].values())
    seconds = cache.facts["seconds"]
    summary = DataSummary(
        documents=stretches // cache.facts["per_document"],
        tokens=tokens,
        train_windows=len(sets["train"]),
        validation_windows=len(sets["validation"]),
        test_windows=len(sets["test"]),
        dropped_documents=dropped.documents,
        dropped_tokens=dropped.tokens,
        repeated_documents=count_repeats(parts, {name: column.hashes for name, column in cache.columns.items()}),
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        from_cache=cache.was_there,
        own_splits=tuple(cache.columns),
        cache=cache.folder,
        fingerprint=_fingerprint(cache, settings, window),
        revision=cache.facts["revision"],
        rows=bool(cache.rows),
        longest_prompt=0 if settings.rmb_only else longest_prompt(cache, settings.prompt_len),
        long_prompts=dropped.long_prompts,
        cut_contexts=dropped.cut_contexts,
        cut_answers=dropped.cut_answers,
    )
    return TrialData(sets["train"], sets["validation"], sets["test"], summary)


def _load_tokenizer(settings: TrialSettings) -> Any:
    from cmp.model.loading import load_tokenizer

    return load_tokenizer(settings.model_string, trust_remote_code=settings.trust_remote_code)


def _fingerprint(cache: TokenCache, settings: TrialSettings, window: Window) -> str:
    cut = [settings.prompt_len, settings.cut] if cache.rows else []
    content = json.dumps([cache.content, asdict(window), *cut])
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def _cut(settings: TrialSettings, window: Window) -> Cut:
    """What a trial reads of a window."""
    return Cut(
        boundary=window.context_len,
        context_len=0 if settings.rmb_only else settings.cmp_len,
        target_len=settings.seq_len,
        prompt_len=settings.prompt_len,
        keeps_end=settings.cut == "start",
    )


def _window_counts(cache: TokenCache, window: Window, cut: Cut) -> dict[str, np.ndarray]:
    """(documents,) windows of each document, by the splits that the data set brought; of rows, rows of each context."""
    if cache.rows:
        return rows_per_context(cache, cut)
    window_len = window.context_len + window.target_len
    return {name: windows_per_document(column.lengths, window_len) for name, column in cache.columns.items()}


def _text_sets(cache: TokenCache, parts: Parts, window: Window, cut: Cut) -> tuple[dict[str, WindowSet], Dropped]:
    """Windows by split, in the order of `SPLITS`, and what never becomes one.

    Raises:
        DataError: none is left for a split.
    """
    window_len = window.context_len + window.target_len
    sets: dict[str, WindowSet] = {
        name: _part_windows(cache.columns[source], part, window_len, cut) for name, (source, part) in parts.items()
    }
    lengths = [column.lengths for column in cache.columns.values()]
    longest = max(int(some.max(initial=0)) for some in lengths)
    require_windows({name: len(windows) for name, windows in sets.items()}, longest, window_len)
    kept_tokens = sum(len(windows) for windows in sets.values()) * window_len
    too_short = sum(int((some < window_len).sum()) for some in lengths)
    return sets, Dropped(too_short, sum(cache.facts["tokens"].values()) - kept_tokens)


def _part_windows(column: Column, part: Part, window_len: int, cut: Cut) -> TextWindows:
    """Windows of a part; where one document holds several parts, its spare tokens lie behind the first, "train"."""
    slack = column.lengths[part.documents] % window_len
    starts = column.offsets[:-1][part.documents] + part.first * window_len + np.where(part.first > 0, slack, 0)
    return TextWindows(column.tokens, starts, part.counts, window_len, cut, slack)
