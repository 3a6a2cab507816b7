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
from cmp.train.data.windows import (
    VALIDATION_SHARE,
    Cut,
    Dropped,
    PairWindows,
    TextWindows,
    WindowSet,
    require_windows,
    split_documents,
    windows_per_document,
)


@dataclass(frozen=True)
class TrialData:
    """What one trial trains and is validated on.

    Args:
        train: windows to train on.
        validation: windows of held-out documents.
        summary: of the whole data set.
    """

    train: WindowSet
    validation: WindowSet
    summary: "DataSummary"

    @property
    def fingerprint(self) -> str:
        """Of the tokens and how they are cut and split; the same for all trials of a space."""
        return self.summary.fingerprint


@dataclass(frozen=True)
class DataSummary:
    """What became of a data set: counts for the person who starts a search.

    Args:
        documents: read, of both splits; a pair is one document.
        tokens: in them.
        train_windows: windows to train on.
        validation_windows: windows to validate on.
        dropped_documents: too short for one window, or empty.
        dropped_tokens: in no window: those documents' and the ends of others; of pairs, what was cut off.
        seconds: that tokenization took, when it was done.
        tokens_per_second: of tokenization, all cores together.
        from_cache: True where nothing had to be tokenized now.
        own_validation: whether the data set brought its own validation split.
        cache: folder of the tokens.
        fingerprint: of the tokens and how they are cut and split; the same for all trials of a space.
        revision: the hub's commit, where known.
    """

    documents: int
    tokens: int
    train_windows: int
    validation_windows: int
    dropped_documents: int
    dropped_tokens: int
    seconds: float
    tokens_per_second: float
    from_cache: bool
    own_validation: bool
    cache: Path
    fingerprint: str
    revision: str | None

    @property
    def counts(self) -> dict[str, int | str]:
        """What a journal and a model card keep of it."""
        names = ("documents", "tokens", "train_windows", "validation_windows", "dropped_documents", "dropped_tokens")
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
        DataError: the data cannot be read, or leave no window to train or validate on.
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
    train, validation, dropped = _window_sets(cache, settings, window)
    rows, tokens = sum(cache.facts["rows"].values()), sum(cache.facts["tokens"].values())
    seconds = cache.facts["seconds"]
    summary = DataSummary(
        documents=rows // 2 if cache.pairs else rows,
        tokens=tokens,
        train_windows=len(train),
        validation_windows=len(validation),
        dropped_documents=dropped.documents,
        dropped_tokens=dropped.tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        from_cache=cache.was_there,
        own_validation="validation" in cache.columns,
        cache=cache.folder,
        fingerprint=_fingerprint(cache, window),
        revision=cache.facts["revision"],
    )
    return TrialData(train, validation, summary)


def _load_tokenizer(settings: TrialSettings) -> Any:
    from cmp.model.backbone import load_tokenizer

    return load_tokenizer(settings.model_string)


def _fingerprint(cache: TokenCache, window: Window) -> str:
    content = json.dumps([cache.fingerprint, cache.facts["revision"], cache.facts["tokens"], asdict(window)])
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def _window_sets(cache: TokenCache, settings: TrialSettings, window: Window) -> tuple[WindowSet, WindowSet, Dropped]:
    cut = Cut(window.context_len, 0 if settings.rmb_only else settings.cmp_len, settings.seq_len)
    return _pair_sets(cache, window, cut) if cache.pairs else _text_sets(cache, window, cut)


def _text_sets(cache: TokenCache, window: Window, cut: Cut) -> tuple[WindowSet, WindowSet, Dropped]:
    window_len = window.context_len + window.target_len
    counts = {name: windows_per_document(column.lengths, window_len) for name, column in cache.columns.items()}
    sets = {name: _whole_documents(column, counts[name], window_len, cut) for name, column in cache.columns.items()}
    if "validation" not in sets:
        sets["train"], sets["validation"] = _split_texts(cache.columns["train"], counts["train"], window_len, cut)
    longest = max(int(column.lengths.max(initial=0)) for column in cache.columns.values())
    require_windows(len(sets["train"]), len(sets["validation"]), longest, window_len)
    dropped_documents = sum(int((count == 0).sum()) for count in counts.values())
    kept_tokens = sum(int(count.sum()) for count in counts.values()) * window_len
    return (
        sets["train"],
        sets["validation"],
        Dropped(dropped_documents, sum(cache.facts["tokens"].values()) - kept_tokens),
    )


def _whole_documents(column: Column, counts: np.ndarray, window_len: int, cut: Cut) -> TextWindows:
    slack = column.lengths - counts * window_len
    return TextWindows(column.tokens, column.offsets[:-1], counts, window_len, cut, slack)


def _split_texts(column: Column, counts: np.ndarray, window_len: int, cut: Cut) -> tuple[TextWindows, TextWindows]:
    """By document; where only one document holds any window, its last tenth is for validation."""
    starts = column.offsets[:-1]
    if np.count_nonzero(counts) == 1:
        only = np.flatnonzero(counts)
        n_validation = max(1, round(int(counts[only[0]]) * VALIDATION_SHARE))
        n_train = counts[only] - n_validation
        slack = (column.lengths - counts * window_len)[only]  # between the two parts
        return (
            TextWindows(column.tokens, starts[only], n_train, window_len, cut, slack),
            TextWindows(
                column.tokens, starts[only] + n_train * window_len + slack, counts[only] - n_train, window_len, cut
            ),
        )
    train, validation = split_documents(counts)
    slack = (column.lengths - counts * window_len)[train]
    return (
        TextWindows(column.tokens, starts[train], counts[train], window_len, cut, slack),
        TextWindows(column.tokens, starts[validation], counts[validation], window_len, cut),
    )


def _pair_sets(cache: TokenCache, window: Window, cut: Cut) -> tuple[WindowSet, WindowSet, Dropped]:
    useful: dict[str, np.ndarray] = {
        name: np.all(column.lengths.reshape(-1, 2) > 0, axis=1) for name, column in cache.columns.items()
    }
    chosen = {name: np.flatnonzero(keep) for name, keep in useful.items()}
    columns = {"train": cache.columns["train"], "validation": cache.columns.get("validation", cache.columns["train"])}
    if "validation" not in chosen:
        keep: np.ndarray = useful["train"]
        train, validation = split_documents(keep.astype(np.int64))
        chosen = {"train": train[keep[train]], "validation": validation[keep[validation]]}
    sets = {name: PairWindows(column.tokens, column.offsets, chosen[name], cut) for name, column in columns.items()}
    whole = Cut(window.context_len, window.context_len, window.target_len)
    kept = [
        PairWindows(columns[name].tokens, columns[name].offsets, chosen[name], whole).kept_tokens() for name in columns
    ]
    require_windows(len(sets["train"]), len(sets["validation"]), 0, 1)
    dropped_documents = sum(int((~keep).sum()) for keep in useful.values())
    return (
        sets["train"],
        sets["validation"],
        Dropped(dropped_documents, sum(cache.facts["tokens"].values()) - sum(kept)),
    )
