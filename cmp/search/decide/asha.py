"""Asynchronous successive halving: which trials may go on. Pure: the same losses in the same order, the same answers.

Source: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (ASHA, stopping variant, one bracket).
Unlike Ray Tune's version: a report that skips rungs never fills the rungs below with a later loss, a loss that is not
finite enters nothing, and a rung stops nobody before `min_peers` others have been there. Unlike the paper, a rung stops
nobody while those that went on from it lie in another order at the next one (`cmp.results.agreement`). Called by the
ledger.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from cmp.results.agreement import is_trusted, order_agreement


@dataclass(frozen=True)
class Decision:
    """What a report leads to. `rung` is the epoch of the rung that was reached, None between rungs."""

    stop: bool
    rung: int | None


class Asha:
    """The rungs of one search.

    Args:
        rungs: the epochs at which trials are compared, ascending.
        max_epochs: the longest that a trial can run, above all rungs.
        reduction_factor: of the trials at a rung one in this many goes on.
        min_peers: how many *other* trials must have been at a rung before it may stop one.
    """

    def __init__(self, rungs: Sequence[int], max_epochs: int, *, reduction_factor: int, min_peers: int) -> None:
        self._next = dict(itertools.pairwise([*rungs, max_epochs]))
        self._reduction_factor = reduction_factor
        self._min_peers = min_peers
        self._losses: dict[int, dict[int, float]] = {epoch: {} for epoch in [*rungs, max_epochs]}

    def record(self, trial: int, epoch: int, loss: float) -> Decision:
        """Enter a trial's loss after an epoch and say whether it should stop there.

        Args:
            trial: its number.
            epoch: epochs that it has trained.
            loss: val_loss after that epoch, in nats per token.

        Returns:
            stop=True at a rung where the trial is not among the best share of those that have been there so far,
            itself included, unless the rung was seen not to foretell the next. A second report of the same
            (trial, epoch) changes nothing and gives the first answer's rung with stop=False.
        """
        losses = self._losses.get(epoch)
        if losses is None or not math.isfinite(loss):
            return Decision(stop=False, rung=None)
        if epoch not in self._next:
            losses.setdefault(trial, loss)
            return Decision(stop=False, rung=None)
        if trial in losses:
            return Decision(stop=False, rung=epoch)
        better = sum(other < loss for other in losses.values())
        has_peers = len(losses) >= self._min_peers
        losses[trial] = loss
        stop = has_peers and better >= self.places(len(losses)) and is_trusted(self.agreement(epoch))
        return Decision(stop=stop, rung=epoch)

    def agreement(self, rung: int) -> float | None:
        """How well the order at a rung foretells that at the next, or at the end; see `order_agreement`."""
        return order_agreement(self._losses[rung], self._losses[self._next[rung]])

    def places(self, trials: int) -> int:
        """How many of this many trials at a rung go on: one in `reduction_factor`, rounded up."""
        return math.ceil(trials / self._reduction_factor)

    def losses(self, rung: int) -> dict[int, float]:
        """A copy of the losses at a rung, by trial."""
        return dict(self._losses[rung])
