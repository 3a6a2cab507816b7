"""Asynchronous successive halving: which trials may go on. Pure: the same losses in the same order, the same answers.

Source: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (ASHA, stopping variant, one bracket).
Unlike Ray Tune's version: a report that skips rungs never fills the rungs below with a later loss, a loss that is not
finite enters nothing, and a rung stops nobody before `min_peers` others have been there. Unlike the paper, a rung stops
nobody while those that went on from it lie in another order at the next one (`cmp.results.agreement`). Called by the
ledger.
"""

import itertools
import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

from cmp.results.agreement import OrderAgreement, is_trusted


@dataclass(frozen=True)
class Decision:
    """What a report leads to. `rung` is the epoch of the rung that was reached, None between rungs."""

    stop: bool
    rung: int | None


@dataclass
class _Rung:
    """Losses of trials after one epoch: by trial, in order, and how well they foretold those at the next rung."""

    losses: dict[int, float] = field(default_factory=dict)
    in_order: list[float] = field(default_factory=list)
    agreement: OrderAgreement = field(default_factory=OrderAgreement)

    def add(self, trial: int, loss: float) -> None:
        self.losses[trial] = loss
        insort(self.in_order, loss)


class Asha:
    """The rungs of one search.

    Args:
        rungs: the epochs at which trials are compared, ascending.
        max_epochs: the longest that a trial can run, above all rungs.
        reduction_factor: of the trials at a rung one in this many goes on.
        min_peers: how many *other* trials must have been at a rung before it may stop one.
    """

    def __init__(self, rungs: Sequence[int], max_epochs: int, *, reduction_factor: int, min_peers: int) -> None:
        epochs = [*rungs, max_epochs]
        self._next = dict(itertools.pairwise(epochs))
        self._previous = {later: rung for rung, later in self._next.items()}
        self._reduction_factor = reduction_factor
        self._min_peers = min_peers
        self._rungs = {epoch: _Rung() for epoch in epochs}

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
        rung = self._rungs.get(epoch)
        if rung is None or not math.isfinite(loss):
            return Decision(stop=False, rung=None)
        is_last = epoch not in self._next
        if trial in rung.losses:
            return Decision(stop=False, rung=None if is_last else epoch)
        has_peers = len(rung.losses) >= self._min_peers
        better = bisect_left(rung.in_order, loss)
        self._enter(trial, epoch, loss)
        if is_last:
            return Decision(stop=False, rung=None)
        stop = has_peers and better >= self.places(len(rung.losses)) and is_trusted(self.agreement(epoch))
        return Decision(stop=stop, rung=epoch)

    def _enter(self, trial: int, epoch: int, loss: float) -> None:
        self._rungs[epoch].add(trial, loss)
        for earlier, later in ((self._previous.get(epoch), epoch), (epoch, self._next.get(epoch))):
            if earlier is not None and later is not None and trial in self._rungs[earlier].losses:
                after = self._rungs[later].losses.get(trial)
                if after is not None:
                    self._rungs[earlier].agreement.add(self._rungs[earlier].losses[trial], after)

    def agreement(self, rung: int) -> float | None:
        """How well the order at a rung foretells that at the next, or at the end; see `OrderAgreement`."""
        return self._rungs[rung].agreement.share()

    def places(self, trials: int) -> int:
        """How many of this many trials at a rung go on: one in `reduction_factor`, rounded up."""
        return math.ceil(trials / self._reduction_factor)

    def losses(self, rung: int) -> dict[int, float]:
        """A copy of the losses at a rung, by trial."""
        return dict(self._rungs[rung].losses)
