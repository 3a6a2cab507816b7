"""The step of TPE that looks at evidence: a point where good trials are dense and the others are not. Pure.

Optuna's multivariate estimators with its defaults, given arrays instead of a study: with ten thousand trials a study
takes a second to fill and to read, and the same step on arrays a tenth. Which trials are good is for the caller to say.

Source: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization"; Watanabe 2023, "Tree-Structured Parzen
Estimator" (what the defaults are and why).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from cmp.search.decide.optuna_private import ParzenEstimator, ParzenEstimatorParameters, default_weights

CANDIDATES = 24
"""So many points are drawn from where the good ones are; the one that the others are furthest from is taken."""

_PARAMETERS = ParzenEstimatorParameters(
    prior_weight=1.0, consider_magic_clip=True, consider_endpoints=False, weights=default_weights, multivariate=True
)


def varied(domains: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    """Those with more than one value, by name, in the order of an array's columns."""
    return {name: domain for name, domain in sorted(domains.items()) if not domain.single()}


def coordinates(domains: Mapping[str, BaseDistribution], settings: Mapping[str, Any]) -> list[float]:
    """A trial's row of an array: its values, and for a choice its place among the choices."""
    return [float(domain.to_internal_repr(settings[name])) for name, domain in domains.items()]


def propose(domains: Mapping[str, BaseDistribution], good: np.ndarray, others: np.ndarray, seed: int) -> dict[str, Any]:
    """A new point.

    Args:
        domains: as `varied` gives them.
        good: (trials, domains), at least one, in the order in which they were suggested.
        others: likewise; late ones count more than early ones.
        seed: of every choice made here.

    Returns:
        A value for each domain, as Optuna gives it.
    """
    near = ParzenEstimator(_columns(domains, good), dict(domains), _PARAMETERS, np.ones(len(good)))
    far = ParzenEstimator(_columns(domains, others), dict(domains), _PARAMETERS)
    candidates = near.sample(np.random.RandomState(seed), CANDIDATES)
    chosen = int(np.argmax(near.log_pdf(candidates) - far.log_pdf(candidates)))
    return {name: _value(domain, candidates[name][chosen].item()) for name, domain in domains.items()}


def _columns(domains: Mapping[str, BaseDistribution], points: np.ndarray) -> dict[str, np.ndarray]:
    return {name: points[:, column] for column, name in enumerate(domains)}


def _value(domain: BaseDistribution, coordinate: float) -> Any:
    if not isinstance(domain, CategoricalDistribution):  # the exponential of a bound's logarithm may miss the bound
        low, high = domain.low, domain.high  # type: ignore[attr-defined]
        coordinate = min(max(coordinate, low), high)
    return domain.to_external_repr(coordinate)
