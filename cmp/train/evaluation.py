"""Teacher-forced validation, shared by the workers as sums. Called by `trial` and `bounds`.

Every worker takes whole batches in turn, so that a batch is computed the same way by one worker or by four; only the
order of the final sum differs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from cmp.model.batch import Batch, TokenScores
from cmp.train.data.windows import WindowSet
from cmp.train.metrics import mean_or_nan
from cmp.train.outcome import LeaveRequestedError
from cmp.train.prefetch import prefetched
from cmp.train.sync import Workers

Scorer = Callable[[Batch], TokenScores]
VariantScorer = Callable[[Batch, np.ndarray], dict[str, TokenScores]]
ORDER_SEED = 0  # not the trial's: trials with different seeds are scored on the same windows in the same order


@dataclass(frozen=True)
class MeanScores:
    """Means over all kept tokens: loss in nats, share of tokens guessed right, and right within five guesses."""

    loss: float
    accuracy: float
    top5: float
    tokens: int


def validation_order(windows: WindowSet, count: int | None = None) -> np.ndarray:
    """(count,) int64: the first windows of a fixed shuffle; all of them where `count` is None."""
    return np.random.default_rng(ORDER_SEED).permutation(len(windows))[:count]


def in_batches(indices: np.ndarray, windows: WindowSet, batch_size: int) -> list[np.ndarray]:
    """Windows in batches that need little padding; the longest come first, so that too little memory shows at once."""
    if windows.costs is not None:
        indices = indices[np.argsort(-windows.costs[indices], kind="stable")]
    return [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]


def validation_batches(windows: WindowSet, batch_size: int, max_loops: int | None) -> list[np.ndarray]:
    """The windows of each validation batch: as many as fill `max_loops` batches, the first of a fixed shuffle."""
    count = None if max_loops is None else max_loops * batch_size
    return in_batches(validation_order(windows, count), windows, batch_size)


@torch.no_grad()
def mean_scores(scorer: Scorer, windows: WindowSet, batches: list[np.ndarray], workers: Workers) -> MeanScores:
    """Score the batches, all workers together; see `mean_scores_of`."""
    return mean_scores_of(lambda batch, _: {"": scorer(batch)}, ("",), windows, batches, workers)[""]


@torch.no_grad()
def mean_scores_of(
    scorer: VariantScorer, names: Sequence[str], windows: WindowSet, batches: list[np.ndarray], workers: Workers
) -> dict[str, MeanScores]:
    """Score the batches in several ways, all workers together.

    Args:
        scorer: scores of one batch on the workers' device, by name; a name may be missing. It is also given which
            windows the batch holds.
        names: all that it may give.
        windows: where batches are cut from.
        batches: the same list on every worker.
        workers: who shares the work.

    Raises:
        LeaveRequestedError, or its like on other workers: the trial was asked to leave before all were scored.
    """
    mine = batches[workers.rank :: workers.count]
    sums = workers.add_up(workers.agreed(lambda: _score_sums(scorer, names, windows, mine, workers)))
    return {name: _mean(*row) for name, row in zip(names, sums.tolist(), strict=True)}


def _mean(nll: float, correct: float, top5: float, tokens: float) -> MeanScores:
    return MeanScores(mean_or_nan(nll, tokens), mean_or_nan(correct, tokens), mean_or_nan(top5, tokens), int(tokens))


def _score_sums(
    scorer: VariantScorer, names: Sequence[str], windows: WindowSet, batches: list[np.ndarray], workers: Workers
) -> torch.Tensor:
    """(names, 4) float64 on the workers' device: nll, correct, top5, tokens."""
    device = workers.device
    sums = torch.zeros(len(names), 4, dtype=torch.float64, device=device)
    with prefetched(partial(pinned_batch, windows, indices, device) for indices in batches) as ready:
        for indices, batch in zip(batches, ready, strict=True):
            if workers.stop_requested():
                raise LeaveRequestedError
            for name, scores in scorer(batch.to(device), indices).items():
                parts = (scores.nll, scores.correct, scores.top5, scores.kept)
                sums[names.index(name)] += torch.stack([part.sum(dtype=torch.float64) for part in parts]).to(device)
    return sums


def strangers(documents: np.ndarray) -> np.ndarray:
    """For each row of a batch, a row of another document: a fixed derangement.

    Args:
        documents: (B,) which document each row is from.

    Returns:
        (B,) int64, every row once: the smallest rotation without a row that meets its own document; where there is
        none, one with the fewest.
    """
    count = len(documents)
    meetings = [int((documents == np.roll(documents, shift)).sum()) for shift in range(1, count)]
    shift = 1 + int(np.argmin(meetings)) if meetings else 0
    return np.roll(np.arange(count), shift)


def without_rows(scores: TokenScores, rows: torch.Tensor) -> TokenScores:
    """The scores with some of the (B,) rows counting for nothing."""
    hidden = rows.to(scores.nll.device)[:, None]
    parts = {item.name: getattr(scores, item.name) for item in dataclasses.fields(scores)}
    return TokenScores(**{name: part.masked_fill(hidden, 0) for name, part in parts.items()})


def pinned_batch(windows: WindowSet, indices: np.ndarray, device: torch.device) -> Batch:
    """The windows as validation cuts them, ready to go to `device`."""
    return pinned(windows.batch(indices), device)


def pinned(batch: Batch, device: torch.device) -> Batch:
    """In page-locked memory where `device` is a GPU, so that the copy to it does not hold up Python."""
    return batch.pinned() if device.type == "cuda" else batch
