"""Pure arithmetic behind the plots: Pareto fronts, importances, slots, ranges. Numbers in, numbers out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Value = TypeVar("Value")

MIN_TRIALS = 6
"""Below this many scored trials, leave-one-out scores are mostly chance."""


@dataclass(frozen=True)
class Importance:
    """How well one setting alone predicts the rank of a trial's val_loss.

    Args:
        setting: its name.
        score: share of the variance of the ranks that it predicts for a trial left out; 0 when it predicts nothing.
        chance: the score that 95 of 100 random shuffles of the trials stay below.
    """

    setting: str
    score: float
    chance: float


def pareto_front(costs: Sequence[float], losses: Sequence[float]) -> list[int]:
    """Indices of the points that no other point beats in both numbers (lower is better), by rising cost."""
    front: list[int] = []
    lowest = float("inf")
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], losses[i])):
        if losses[index] < lowest:
            lowest = losses[index]
            front.append(index)
    return front


def importances(
    columns: Mapping[str, tuple[str, Sequence[Any]]], losses: Sequence[float], *, shuffles: int = 200
) -> list[Importance]:
    """Leave-one-out share of variance of the ranks of `losses` that each setting predicts on its own.

    For numbers the prediction is a parabola (so that an optimum in the middle counts), for choices the mean of the
    other trials with the same choice. 1 − PRESS/PRESS0, where PRESS0 predicts the mean of the others: the predicted
    R² of Allen (1974), on ranks (Conover & Iman 1981), so that one diverged trial does not decide everything.

    Args:
        columns: setting -> (`linear`, `log` or `choice`; one value per trial).
        losses: one per trial; infinite for a diverged one, which ranks last.
        shuffles: random orders for `Importance.chance`.

    Returns:
        Most important first; empty with fewer than `MIN_TRIALS` trials.
    """
    if len(losses) < MIN_TRIALS:
        return []
    rng = np.random.default_rng(0)
    ranks = _ranks(np.asarray(losses, dtype=float))
    shuffled = np.stack([ranks, *(rng.permutation(ranks) for _ in range(shuffles))], axis=1)
    found = []
    for setting, (kind, values) in columns.items():
        if len({str(v) for v in values}) < 2:
            continue
        predict = _by_choice(values) if kind == "choice" else _by_curve(values, log=kind == "log")
        scores = _predicted_share(predict, shuffled)
        found.append(Importance(setting, max(0.0, float(scores[0])), max(0.0, float(np.quantile(scores[1:], 0.95)))))
    return sorted(found, key=lambda i: -i.score)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    upper = np.cumsum(counts)
    result: np.ndarray = (upper - (counts + 1) / 2)[inverse]
    return result


Predictor = Callable[[np.ndarray], np.ndarray]
"""(n, k) outcomes -> (n, k) predictions of each from the other rows; linear in time and memory."""


def _mean_of_others(outcomes: np.ndarray) -> np.ndarray:
    """Predicts each value by the mean of the others."""
    result: np.ndarray = (outcomes.sum(axis=0) - outcomes) / (len(outcomes) - 1)
    return result


def _by_choice(values: Sequence[Any]) -> Predictor:
    """Leave-one-out prediction by the others with the same value; by all others where there is none."""
    labels = np.unique(np.asarray([str(v) for v in values]), return_inverse=True)[1]
    others = (np.bincount(labels)[labels] - 1)[:, None]

    def predict(outcomes: np.ndarray) -> np.ndarray:
        sums = np.zeros((labels.max() + 1, outcomes.shape[1]))
        np.add.at(sums, labels, outcomes)
        of_kind = (sums[labels] - outcomes) / np.maximum(others, 1)
        return np.where(others > 0, of_kind, _mean_of_others(outcomes))

    return predict


def _by_curve(values: Sequence[float], *, log: bool) -> Predictor:
    """Leave-one-out prediction by a parabola in the value (a line where there are only two values)."""
    x = np.asarray(values, dtype=float)
    x = np.log(x) if log and bool((x > 0).all()) else x
    x = (x - x.mean()) / (x.std() or 1.0)
    design = np.stack([x**power for power in range(min(3, len(np.unique(x))))], axis=1)
    inverse = np.linalg.pinv(design)
    leverage = (design * inverse.T).sum(axis=1)[:, None]

    def predict(outcomes: np.ndarray) -> np.ndarray:
        # What a fit without a trial is off by there is its residual in the fit with it, enlarged by its leverage.
        residuals = outcomes - design @ (inverse @ outcomes)
        fitted = outcomes - residuals / np.maximum(1.0 - leverage, 1e-9)
        return np.where(leverage < 0.999, fitted, _mean_of_others(outcomes))

    return predict


def _predicted_share(predict: Predictor, outcomes: np.ndarray) -> np.ndarray:
    """1 − PRESS/PRESS0 of each column of `outcomes`."""
    base = ((outcomes - _mean_of_others(outcomes)) ** 2).sum(axis=0)
    press = ((outcomes - predict(outcomes)) ** 2).sum(axis=0)
    result: np.ndarray = 1.0 - press / np.maximum(base, 1e-12)
    return result


def thinned(length: int, most: int, *, always: int = 0) -> list[int]:
    """At most `most` of the indices below `length`: the first `always`, then evenly spaced ones up to the last."""
    if length <= most:
        return list(range(length))
    spread = np.linspace(always, length - 1, most - always)
    return [*range(always), *(int(index) for index in spread)]


def thinned_to(values: Sequence[Value], most: int) -> list[Value]:
    """At most so many of them, evenly spaced."""
    return [values[index] for index in thinned(len(values), most)]


def shortened(values: Sequence[Any], digits: int = 6) -> list[Any]:
    """Floats with so many significant digits: what a plot can show, in half the bytes."""
    return [float(f"{value:.{digits}g}") if isinstance(value, float) else value for value in values]


def assign_slots(spans: Sequence[tuple[float, float]]) -> list[int]:
    """The lowest free slot for each (start, end), in order of start; as many slots as overlap at once."""
    slots = [0] * len(spans)
    free_at: list[float] = []
    for index in sorted(range(len(spans)), key=lambda i: spans[i]):
        start, end = spans[index]
        slot = next((s for s, free in enumerate(free_at) if free <= start), len(free_at))
        free_at[slot : slot + 1] = [end]
        slots[index] = slot
    return slots


def shown_range(values: Sequence[float], always: Sequence[float] = ()) -> tuple[float, float] | None:
    """An axis range that a few far outliers do not stretch.

    Args:
        values: what is plotted; the range ends at the upper quartile plus three times the distance between quartiles.
        always: what must be inside, such as the two bounds.

    Returns:
        (low, high) with a margin, or None without values.
    """
    finite = np.asarray([v for v in values if np.isfinite(v)], dtype=float)
    if not len(finite):
        return None
    lower, upper = np.quantile(finite, [0.25, 0.75])
    high = max([min(float(finite.max()), float(upper + 3 * (upper - lower)) + 1e-9), *always])
    low = min([float(finite.min()), *always])
    margin = 0.07 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin
