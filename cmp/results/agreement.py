"""Does the order of trials at one rung foretell their order at the next? ASHA decides by it, the page tells it.

Losses of the first epochs can be noise: where learning curves cross, an early rung stops the best trials. Whether they
do is seen in the trials that went on. The same question at the top rungs decides how far PASHA trains (Bohdal et al.
2023, "PASHA: Efficient HPO and NAS with Progressive Resource Allocation").
"""

from collections.abc import Mapping

import numpy as np

MIN_TRIALS = 6
"""Fewer trials at both rungs say nothing."""
TRUSTED = 0.75
"""The least agreement with which a rung may stop trials; 0.5 is chance. Chosen with `tests.benchmarks.simulate`."""


class OrderAgreement:
    """The share of pairs of trials whose losses lie in the same order at two rungs, equal ones counted half.

    (1 + Kendall's tau) / 2, where no losses are equal. Trials are added one by one, each at the cost of one look at
    those before it, so that a rung of thousands can be asked at every report.
    """

    def __init__(self) -> None:
        self._losses = np.empty((2, 64))
        self._trials = 0
        self._balance = 0

    def add(self, earlier: float, later: float) -> None:
        """A trial's finite val_loss at both."""
        known = self._losses[:, : self._trials]
        same = np.sign(known[0] - earlier) * np.sign(known[1] - later)
        self._balance += int(same.sum())
        if self._trials == self._losses.shape[1]:
            self._losses = np.concatenate([self._losses, np.empty_like(self._losses)], axis=1)
        self._losses[:, self._trials] = earlier, later
        self._trials += 1

    def share(self) -> float | None:
        """0 to 1; None while fewer than `MIN_TRIALS` trials are known at both."""
        if self._trials < MIN_TRIALS:
            return None
        pairs = self._trials * (self._trials - 1) // 2
        return (pairs + self._balance) / pairs / 2


def order_agreement(earlier: Mapping[int, float], later: Mapping[int, float]) -> float | None:
    """The same of two rungs as a whole, each with its finite val_loss by trial."""
    agreement = OrderAgreement()
    for trial in later:
        if trial in earlier:
            agreement.add(earlier[trial], later[trial])
    return agreement.share()


def is_trusted(agreement: float | None) -> bool:
    """True unless a rung was seen not to foretell the next."""
    return agreement is None or agreement >= TRUSTED
