"""Asynchronous successive halving: which trials may go on. Pure: the same losses in the same order, the same answers.

Source: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (ASHA, stopping variant, one bracket).
Unlike Ray Tune's version: a report that skips rungs never fills the rungs below with a later loss, a loss that is not
finite enters nothing, and a rung stops nobody before `min_peers` others have been there. Called by the ledger.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """What a report leads to. `rung` is the epoch of the rung that was reached, None between rungs."""

    stop: bool
    rung: int | None


class Asha:
    """The rungs of one search.

    Args:
        grace_period: epoch of the first rung; no trial is stopped before it.
        reduction_factor: of the trials at a rung one in this many goes on, and rungs are this factor apart.
        max_epochs: the longest that a trial can run; rungs lie strictly below it.
        min_peers: how many *other* trials must have been at a rung before it may stop one.
    """

    def __init__(self, grace_period: int, reduction_factor: int, max_epochs: int, min_peers: int) -> None:
        self.rungs = rung_epochs(grace_period, reduction_factor, max_epochs)
        self._reduction_factor = reduction_factor
        self._min_peers = min_peers
        self._losses: dict[int, dict[int, float]] = {rung: {} for rung in self.rungs}

    def record(self, trial: int, epoch: int, loss: float) -> Decision:
        """Enter a trial's loss after an epoch and say whether it should stop there.

        Args:
            trial: its number.
            epoch: epochs that it has trained.
            loss: val_loss after that epoch, in nats per token.

        Returns:
            stop=True at a rung where the trial is not among the best share of those that have been there so far,
            itself included. A second report of the same (trial, epoch) changes nothing and gives the first answer's
            rung with stop=False.
        """
        losses = self._losses.get(epoch)
        if losses is None or not math.isfinite(loss):
            return Decision(stop=False, rung=None)
        if trial in losses:
            return Decision(stop=False, rung=epoch)
        better = sum(other < loss for other in losses.values())
        may_stop = len(losses) >= self._min_peers
        losses[trial] = loss
        return Decision(stop=may_stop and better >= self.places(len(losses)), rung=epoch)

    def places(self, trials: int) -> int:
        """How many of this many trials at a rung go on: one in `reduction_factor`, rounded up."""
        return math.ceil(trials / self._reduction_factor)

    def losses(self, rung: int) -> dict[int, float]:
        """A copy of the losses at a rung, by trial."""
        return dict(self._losses[rung])


def rung_epochs(grace_period: int, reduction_factor: int, max_epochs: int) -> tuple[int, ...]:
    """The epochs at which trials are compared: grace_period times powers of the factor, below max_epochs.

    >>> rung_epochs(1, 3, 10)
    (1, 3, 9)
    """
    rungs = []
    epoch = grace_period
    while epoch < max_epochs:
        rungs.append(epoch)
        epoch *= reduction_factor
    return tuple(rungs)
