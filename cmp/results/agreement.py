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


def order_agreement(earlier: Mapping[int, float], later: Mapping[int, float]) -> float | None:
    """The share of pairs of trials whose losses lie in the same order in both, equal ones counted half.

    (1 + Kendall's tau) / 2, where no losses are equal.

    Args:
        earlier: finite val_loss by trial at a rung.
        later: the same at the next one.

    Returns:
        0 to 1; None while fewer than `MIN_TRIALS` trials are in both.
    """
    both = [trial for trial in later if trial in earlier]
    if len(both) < MIN_TRIALS:
        return None
    pairs = np.triu_indices(len(both), k=1)
    before, after = (np.array([losses[trial] for trial in both]) for losses in (earlier, later))
    same = np.sign(np.subtract.outer(before, before)[pairs]) * np.sign(np.subtract.outer(after, after)[pairs])
    return float((1 + same).mean() / 2)


def is_trusted(agreement: float | None) -> bool:
    """True unless a rung was seen not to foretell the next."""
    return agreement is None or agreement >= TRUSTED
