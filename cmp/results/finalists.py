"""What the finalists did under other seeds: mean, spread, and whether their order held. From the history alone."""

import statistics
from dataclasses import dataclass

from cmp.results.history import History


@dataclass(frozen=True)
class Finalist:
    """A trial's best val_loss under its own seed and under others.

    Args:
        trial: its number.
        losses: by seed, its own first; nats per token.
    """

    trial: int
    losses: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.losses)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds."""
        return statistics.stdev(self.losses) if len(self.losses) > 1 else 0.0


def finalists(history: History) -> list[Finalist]:
    """Those with at least one other seed, in the order of the search."""
    again: dict[int, list[float]] = {}
    for _, extra in sorted(history.extras.items(), reverse=True):
        if extra.role == "confirm" and extra.of is not None and extra.val_loss is not None and extra.status != "failed":
            again.setdefault(extra.of, []).append(extra.val_loss)
    return [
        Finalist(trial.number, (trial.val_loss, *again[trial.number]))
        for trial in history.ranked()
        if trial.number in again and trial.val_loss is not None
    ]


def order_held(found: list[Finalist]) -> bool:
    """Whether the means over seeds lie in the order in which the search had them."""
    return [one.trial for one in sorted(found, key=lambda one: one.mean)] == [one.trial for one in found]


def finalist_lines(history: History) -> list[str]:
    """What to say of them; nothing where no finalist was trained again."""
    found = finalists(history)
    lines = [
        f"  trial {one.trial} under {len(one.losses)} seeds: val_loss {one.mean:.4f} ± {one.spread:.4f}"
        for one in found
    ]
    if len(found) > 1:
        lines.append(f"  their order {'held' if order_held(found) else 'did not hold'} over the seeds")
    return lines
