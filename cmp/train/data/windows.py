"""Which tokens a trial sees: documents split into train, validation and test, cut into windows, gathered into batches.

Pure arithmetic over token columns: nothing here reads files. Called by `train.data` (which opens the columns), and by
`loop`, `evaluation` and `bounds` (which ask for batches).

Shape suffixes: `B` batch, `C` context, `P` prompt, `S` target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from cmp.model.batch import Batch
from cmp.train.data.errors import DataError

HELD_OUT_SHARE = 0.1  # of the documents for validation, and as much for test
GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, stay far apart however many there are
SPLITS = ("train", "validation", "test")
SPLIT_SEED = 0  # not the trial's: a searched seed must not change which documents its trials are compared on


class WindowSet(Protocol):
    """Windows of one split, already cut to what one trial reads. Indices are int64 arrays below `len`."""

    @property
    def costs(self) -> np.ndarray | None:
        """(windows,) int64: the tokens of each, by which batches without much padding are put together; None where all
        are equally long.
        """

    def __len__(self) -> int:
        """How many windows."""

    def batch(self, indices: np.ndarray, passes: np.ndarray | None = None) -> Batch:
        """The windows' tokens, in memory of their own.

        Args:
            indices: (B,) which windows.
            passes: (B,) how often each was trained on before: texts are then cut a little further on. None cuts as
                validation does.
        """

    def documents(self, indices: np.ndarray) -> np.ndarray:
        """(B,) int64: which document each window is from."""

    def token_count(self, indices: np.ndarray) -> int:
        """Target tokens that count in these windows; with `rmb_only` those of the text, which is both."""

    def context_token_count(self, indices: np.ndarray, but_last: int = 0) -> int:
        """Context tokens that are real in these windows, without the last `but_last` of each."""


@dataclass(frozen=True)
class Cut:
    """What one trial reads of a window: `context_len` tokens before position `boundary`, `target_len` from there on.

    With `boundary` 0 (`rmb_only`) the first `target_len` tokens are context and target at once. Of rows these are the
    most that is read: `keeps_end` says which side of a longer context, and a row with more than `prompt_len` tokens of
    prompt is left out.
    """

    boundary: int
    context_len: int
    target_len: int
    prompt_len: int = 0
    keeps_end: bool = True


@dataclass(frozen=True)
class Dropped:
    """What never becomes a window, of one split.

    Args:
        documents: shorter than a window, or empty; of rows, those without a context, an answer or room for the prompt.
        tokens: in those documents and in the ends of others that do not fill a window; of rows, what was cut off.
        long_prompts: rows left out for their prompt.
        cut_contexts: rows that lost a part of their context, in trials with the longest one.
        cut_answers: rows that lost the end of their answer.
    """

    documents: int
    tokens: int
    long_prompts: int = 0
    cut_contexts: int = 0
    cut_answers: int = 0


def windows_per_document(lengths: np.ndarray, window_len: int) -> np.ndarray:
    """How many whole windows each document holds; documents are cut from their first token on."""
    return lengths // window_len


@dataclass(frozen=True)
class Part:
    """What one side of a split gets, (n,) int64 each: `counts` windows of each of `documents`, from its `first` on."""

    documents: np.ndarray
    first: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        """How many windows."""
        return int(self.counts.sum())


def split_documents(windows: np.ndarray, held_out: Sequence[str]) -> dict[str, Part]:
    """Choose what is held out: for each purpose a seeded tenth of the documents, whatever the windows' length.

    Args:
        windows: (documents,) windows that each document holds.
        held_out: purposes, such as "validation" and "test", in the seeded order of their documents.

    Returns:
        A part for "train" and for each purpose, documents ascending. Where chance left a part without a window, the
        first document in the seeded order of the largest part changes sides. Where there are fewer documents with
        windows than parts, documents are split by position: see `split_positions`.
    """
    n_parts = 1 + len(held_out)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(windows))
    useful = order[windows[order] > 0]
    if len(useful) < n_parts:
        return split_positions(windows, held_out)
    share = max(1, round(len(windows) * HELD_OUT_SHARE))
    side = np.zeros(len(windows), np.int64)
    for number in range(1, n_parts):
        side[order[(number - 1) * share : number * share]] = number
    for number in range(n_parts):
        sizes = np.bincount(side[useful], minlength=n_parts)
        if not sizes[number]:
            side[useful[side[useful] == sizes.argmax()][0]] = number
    documents = {name: np.flatnonzero(side == number) for number, name in enumerate(("train", *held_out))}
    return {name: Part(some, np.zeros_like(some), windows[some]) for name, some in documents.items()}


Parts = dict[str, tuple[str, Part]]
"""For each of `SPLITS` the column that it comes from and its part of that."""


def parts_of(counts: dict[str, np.ndarray]) -> Parts:
    """For each split the column that it comes from and its part of that: what is missing is held out of "train".

    Args:
        counts: (documents,) windows of each document, by the splits that the data set brought itself.
    """
    held_out = split_documents(counts["train"], [name for name in SPLITS if name not in counts])
    own = {name: Part(np.arange(len(n)), np.zeros(len(n), np.int64), n) for name, n in counts.items()}
    return {name: ("train", held_out[name]) if name in held_out else (name, own[name]) for name in SPLITS}


def split_positions(windows: np.ndarray, held_out: Sequence[str]) -> dict[str, Part]:
    """A tenth of the windows for each purpose, from the end of the text: for one document, or next to none.

    With one document, "validation" and "test", its last fifth is held out, the test behind the validation part.
    """
    useful = np.flatnonzero(windows)
    counts = windows[useful]
    ends = np.cumsum(counts)
    total = int(counts.sum())
    share = max(1, round(total * HELD_OUT_SHARE))
    borders = [0, *(max(0, total - share * left) for left in range(len(held_out), -1, -1))]
    parts = {}
    for name, start, end in zip(("train", *held_out), borders, borders[1:], strict=False):
        first, last = (np.clip(at - (ends - counts), 0, counts) for at in (start, end))
        parts[name] = Part(useful, first, last - first)
    return parts


class TextWindows:
    """Consecutive windows of documents that lie one after the other in a flat column of tokens.

    Args:
        tokens: (tokens,) uint16 or uint32, usually memory-mapped.
        starts: (documents,) where each document, or the part of it that is used, begins in `tokens`.
        counts: (documents,) windows to take from there.
        window_len: tokens per window.
        cut: what the trial reads of each.
        slack: (documents,) tokens after each document's last window that belong to it too, so that later passes over
            the text can begin their windows anywhere in it; None cuts every pass alike. On 618 windows of short
            stories, each seen 31 times, a loss of 1.652 after the same cut every time but for the slack, of 1.631
            after windows that begin anywhere.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        starts: np.ndarray,
        counts: np.ndarray,
        window_len: int,
        cut: Cut,
        slack: np.ndarray | None = None,
    ) -> None:
        self._tokens = tokens
        self._starts, self._counts = starts, counts
        self._ends = np.cumsum(counts)
        self._shift = starts - (self._ends - counts) * window_len
        self._window_len = window_len
        self._cut = cut
        self._slack = slack
        first = cut.boundary - cut.context_len if cut.boundary else 0
        self._columns = np.arange(first, cut.boundary + cut.target_len)

    @property
    def costs(self) -> None:
        """All windows are equally long."""
        return None

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def batch(self, indices: np.ndarray, passes: np.ndarray | None = None) -> Batch:
        """Tokens of the windows; no masks, since every position is real."""
        documents = self.documents(indices)
        starts = self._shift[documents] + indices * self._window_len
        if passes is not None and self._slack is not None:
            first, room = self._starts[documents], self._counts[documents] * self._window_len + self._slack[documents]
            room = room - self._window_len + 1  # where a window of the document can begin
            starts = first + (starts - first + (passes * GOLDEN % 1.0 * room).astype(np.int64)) % room
        ids = torch.from_numpy(self._tokens[starts[:, None] + self._columns].astype(np.int64))
        if not self._cut.boundary:
            return Batch(ids, ids)
        context_len = self._cut.context_len
        return Batch(ids[:, :context_len].contiguous(), ids[:, context_len:].contiguous())

    def documents(self, indices: np.ndarray) -> np.ndarray:
        """Windows lie document after document."""
        return np.searchsorted(self._ends, indices, side="right")

    def token_count(self, indices: np.ndarray) -> int:
        """Every target position counts."""
        return len(indices) * self._cut.target_len

    def context_token_count(self, indices: np.ndarray, but_last: int = 0) -> int:
        """Every context position is real."""
        context_len = self._cut.context_len if self._cut.boundary else self._cut.target_len
        return len(indices) * max(0, context_len - but_last)


_PURPOSES = {"train": "training", "validation": "validation", "test": "testing"}


def require_windows(windows: Mapping[str, int], longest: int, window_len: int) -> None:
    """Raise where there is nothing to train, to validate or to test on.

    Args:
        windows: how many there are, by split.
        longest: tokens of the longest document.
        window_len: tokens of a window.

    Raises:
        DataError: says how long a document would have to be.
    """
    missing = next((name for name, count in windows.items() if not count), None)
    if missing is None:
        return
    raise DataError(
        "dataset",
        f"no window left for {_PURPOSES[missing]}: a window is {window_len} tokens (the largest cmp_len + seq_len), "
        f"the longest document has {longest}; shorten cmp_len or seq_len, or use longer or more documents",
    )
