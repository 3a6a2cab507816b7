"""Teacher-forced validation, shared by the workers as sums. Called by `trial` and `bounds`.

Every worker takes whole batches in turn, so that a batch is computed the same way by one worker or by four; only the
order of the final sum differs.
"""

from collections.abc import Callable
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
ORDER_SEED = 0  # not the trial's: trials with different seeds are scored on the same windows in the same order


@dataclass(frozen=True)
class MeanScores:
    """Means over all kept tokens: loss in nats, share of tokens guessed right, and right within five guesses."""

    loss: float
    accuracy: float
    top5: float
    tokens: int


def validation_batches(n_windows: int, batch_size: int, max_loops: int | None) -> list[np.ndarray]:
    """The windows of each validation batch: the first `max_loops` batches of a fixed shuffle."""
    order = np.random.default_rng(ORDER_SEED).permutation(n_windows)
    batches = [order[start : start + batch_size] for start in range(0, n_windows, batch_size)]
    return batches[:max_loops]


@torch.no_grad()
def mean_scores(
    scorer: Scorer, count: Callable[[np.ndarray], int], windows: WindowSet, batches: list[np.ndarray], workers: Workers
) -> MeanScores:
    """Score the batches, all workers together.

    Args:
        scorer: scores of one batch on the workers' device.
        count: kept tokens that the scorer scores in the given windows.
        windows: where batches are cut from.
        batches: the same list on every worker.
        workers: who shares the work.

    Raises:
        LeaveRequestedError, or its like on other workers: the trial was asked to leave before all were scored.
    """
    mine = batches[workers.rank :: workers.count]
    nll, correct, top5 = workers.add_up(workers.agreed(lambda: _score_sums(scorer, windows, mine, workers))).tolist()
    tokens = sum(count(indices) for indices in batches)
    return MeanScores(mean_or_nan(nll, tokens), mean_or_nan(correct, tokens), mean_or_nan(top5, tokens), tokens)


def _score_sums(scorer: Scorer, windows: WindowSet, batches: list[np.ndarray], workers: Workers) -> torch.Tensor:
    """(3,) float64 on the workers' device: nll, correct, top5."""
    device = workers.device
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    with prefetched(partial(pinned_batch, windows, indices, device) for indices in batches) as ready:
        for batch in ready:
            if workers.stop_requested():
                raise LeaveRequestedError
            scores = scorer(batch.to(device))
            parts = (scores.nll, scores.correct, scores.top5)
            sums += torch.stack([part.sum(dtype=torch.float64) for part in parts]).to(device)
    return sums


def pinned_batch(windows: WindowSet, indices: np.ndarray, device: torch.device) -> Batch:
    """The windows as validation cuts them, ready to go to `device`."""
    return pinned(windows.batch(indices), device)


def pinned(batch: Batch, device: torch.device) -> Batch:
    """In page-locked memory where `device` is a GPU, so that the copy to it does not hold up Python."""
    if device.type != "cuda":
        return batch
    masks = [None if mask is None else mask.pin_memory() for mask in (batch.context_mask, batch.target_mask)]
    return Batch(batch.context_ids.pin_memory(), batch.target_ids.pin_memory(), *masks)
