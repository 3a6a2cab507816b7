"""Asynchronous successive halving: which trials may go on. Pure: the same losses in the same order, the same answers.

Source: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (ASHA, stopping variant, one bracket).
Unlike Ray Tune's version: a report that skips rungs never fills the rungs below with a later loss, a loss that is not
finite enters nothing, and a rung stops nobody before `min_peers` others have been there. Unlike the paper, a rung stops
nobody while those that went on from it lie in another order at the next one (`cmp.results.agreement`), and a trial is
compared only with those that cost as much or less: what a dear trial reaches says nothing about a cheap one, and a
trial that nothing cheaper beats is never stopped. Called by the ledger.
"""

import itertools
import math
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cmp.results.agreement import OrderAgreement, is_trusted


@dataclass(frozen=True)
class Decision:
    """What a report leads to. `rung` is the epoch of the rung that was reached, None between rungs."""

    stop: bool
    rung: int | None


@dataclass
class _Rung:
    """Losses of trials after one epoch, by trial and by price, and how well they foretold those at the next rung.

    `levels` has for a price the losses that trials reach at it or below, one each, in order.
    """

    losses: dict[int, Mapping[int, float]] = field(default_factory=dict)
    levels: dict[int, list[float]] = field(default_factory=dict)
    agreement: OrderAgreement = field(default_factory=OrderAgreement)

    def own(self, trial: int) -> float | None:
        """A trial's loss with all its vectors, the dearest."""
        losses = self.losses.get(trial)
        return None if losses is None else losses[max(losses)]

    def add(self, trial: int, losses: Mapping[int, float]) -> None:
        for price, level in self.levels.items():
            if (loss := _lowest(losses, price)) is not None:
                insort(level, loss)
        self.losses[trial] = losses

    def level(self, price: int) -> list[float]:
        if price not in self.levels:
            found = (_lowest(losses, price) for losses in self.losses.values())
            self.levels[price] = sorted(loss for loss in found if loss is not None)
        return self.levels[price]


def _lowest(losses: Mapping[int, float], price: int) -> float | None:
    """A trial's loss at a price: its lowest at that price or below; None where it costs more."""
    return min((loss for at, loss in losses.items() if at <= price), default=None)


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

    def record(self, trial: int, epoch: int, losses: Mapping[int, float]) -> Decision:
        """Enter a trial's losses after an epoch and say whether it should stop there.

        Args:
            trial: its number.
            epoch: epochs that it has trained.
            losses: finite val_loss after that epoch, nats per token, by price: one entry, or of a nested trial one for
                each of its prefixes. Where price does not matter it is the same for all trials.

        Returns:
            stop=True at a rung where the trial is at none of its prices among the best share of those that have been
            there at that price or below, itself included, unless the rung was seen not to foretell the next. A second
            report of the same (trial, epoch) changes nothing and gives the first answer's rung with stop=False.
        """
        rung = self._rungs.get(epoch)
        if rung is None or not all(map(math.isfinite, losses.values())):
            return Decision(stop=False, rung=None)
        is_last = epoch not in self._next
        if trial in rung.losses:
            return Decision(stop=False, rung=None if is_last else epoch)
        is_beaten = all(self._is_beaten(rung, price, loss) for price, loss in losses.items())
        self._enter(trial, epoch, losses)
        if is_last:
            return Decision(stop=False, rung=None)
        return Decision(stop=is_beaten and is_trusted(self.agreement(epoch)), rung=epoch)

    def _is_beaten(self, rung: _Rung, price: int, loss: float) -> bool:
        """True when enough trials at this price or below were better; none that is dearer counts."""
        peers = rung.level(price)
        return len(peers) >= self._min_peers and bisect_left(peers, loss) >= self.places(len(peers) + 1)

    def _enter(self, trial: int, epoch: int, losses: Mapping[int, float]) -> None:
        self._rungs[epoch].add(trial, losses)
        for earlier, later in ((self._previous.get(epoch), epoch), (epoch, self._next.get(epoch))):
            if earlier is None or later is None:
                continue
            before, after = self._rungs[earlier].own(trial), self._rungs[later].own(trial)
            if before is not None and after is not None:
                self._rungs[earlier].agreement.add(before, after)

    def agreement(self, rung: int) -> float | None:
        """How well the order at a rung foretells that at the next, or at the end; see `OrderAgreement`."""
        return self._rungs[rung].agreement.share()

    def places(self, trials: int) -> int:
        """How many of this many trials at a rung go on: one in `reduction_factor`, rounded up."""
        return math.ceil(trials / self._reduction_factor)

    def losses(self, rung: int) -> dict[int, float]:
        """The losses at a rung with all vectors, by trial."""
        return {trial: losses[max(losses)] for trial, losses in self._rungs[rung].losses.items()}
