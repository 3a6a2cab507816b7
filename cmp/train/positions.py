"""Scores of a saved compressor and its bounds, position by position and window by window.

Called by `cmp evaluate` and `examples`. Training itself needs means only: see `evaluation`.

Shape suffixes: `B` batch, `S` target, `C` context.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from cmp.model.batch import Batch, TokenScores
from cmp.model.compression import CompressionModel
from cmp.train.data.windows import WindowSet
from cmp.train.evaluation import pinned_batch
from cmp.train.metrics import mean_or_nan
from cmp.train.prefetch import prefetched

RECONSTRUCTION = "reconstruction"


@dataclass
class PositionSums:
    """Sums over windows for every position: losses in nats, right guesses, right within five, and kept tokens."""

    nll: np.ndarray = field(default_factory=lambda: np.zeros(0))
    correct: np.ndarray = field(default_factory=lambda: np.zeros(0))
    top5: np.ndarray = field(default_factory=lambda: np.zeros(0))
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def add(self, scores: TokenScores) -> None:
        """Add a batch's (B, S) scores."""
        parts = (("nll", scores.nll), ("correct", scores.correct), ("top5", scores.top5), ("tokens", scores.kept))
        for name, part in parts:
            column = part.sum(0, dtype=torch.float64).cpu().numpy()
            setattr(self, name, _added(getattr(self, name), column))

    def take(self, other: "PositionSums") -> None:
        """Add the sums of other windows."""
        for name in ("nll", "correct", "top5", "tokens"):
            setattr(self, name, _added(getattr(self, name), getattr(other, name)))

    @property
    def loss(self) -> float:
        """Nats per kept token."""
        return mean_or_nan(float(self.nll.sum()), float(self.tokens.sum()))

    @property
    def accuracy(self) -> float:
        """Share of kept tokens that were the most likely one."""
        return mean_or_nan(float(self.correct.sum()), float(self.tokens.sum()))

    @property
    def top5_accuracy(self) -> float:
        """Share of kept tokens among the five most likely."""
        return mean_or_nan(float(self.top5.sum()), float(self.tokens.sum()))

    def by_position(self) -> list[float | None]:
        """Nats per kept token at each position; None where no window has a token."""
        pairs = zip(self.nll.tolist(), self.tokens.tolist(), strict=True)
        return [nll / tokens if tokens else None for nll, tokens in pairs]


@dataclass(frozen=True)
class ScoredBatch:
    """One batch, and what every scorer made of it.

    Args:
        indices: the windows.
        batch: their tokens, on the device.
        scores: (B, S) by scorer, (B, C) for the reconstruction.
    """

    indices: np.ndarray
    batch: Batch
    scores: dict[str, TokenScores]

    def window_losses(self, name: str) -> list[float]:
        """Nats per kept token of each window; NaN for a window without any."""
        scores = self.scores[name]
        return (scores.nll.sum(1) / scores.kept.sum(1)).tolist()


def scorers(model: CompressionModel) -> dict[str, Callable[[Batch], TokenScores]]:
    """What can be scored: the two bounds, the main task after the memory, and the reconstruction beside it."""
    backbone = model.backbone
    found: dict[str, Callable[[Batch], TokenScores]] = {
        "no_context": backbone.score_no_context,
        "memory": model.score,
        "full_context": backbone.score_full_context,
    }
    if model.rmb_token is not None and model.fwd_token is not None:
        found[RECONSTRUCTION] = model.score_reconstruction
    return found


def scored_batches(model: CompressionModel, windows: WindowSet, batches: list[np.ndarray]) -> Iterator[ScoredBatch]:
    """Score batches one after the other, the next one being read meanwhile."""
    device, scorer_by_name = model.backbone.device, scorers(model)
    with prefetched(partial(pinned_batch, windows, indices, device) for indices in batches) as ready:
        for indices, cpu_batch in zip(batches, ready, strict=True):
            batch = cpu_batch.to(device)
            scores = {name: scorer(batch) for name, scorer in scorer_by_name.items()}
            yield ScoredBatch(indices, batch, scores)


def position_sums(scored: Iterator[ScoredBatch]) -> Mapping[str, PositionSums]:
    """Add up all batches, by scorer."""
    sums: dict[str, PositionSums] = {}
    for one in scored:
        for name, scores in one.scores.items():
            sums.setdefault(name, PositionSums()).add(scores)
    return sums


def _added(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The sum of two columns, of which one may be shorter: batches of rows are as wide as their longest target."""
    total = np.zeros(max(len(some), len(others)))
    for column in (some, others):
        total[: len(column)] += column
    return total
