"""Which settings to try next: quasi-random points first, then Optuna's TPE over everything that is known.

`suggest` is a pure function of the space (its seed) and the history: a fresh study and a fresh sampler are built for
every suggestion, so that a search that was killed and replayed suggests what it would have suggested. Called by the
ledger. What TPE is told: a finished trial is complete with its best val_loss, a stopped one is pruned with its
intermediate values (TPE ranks those by the epoch they reached, then by the loss there: which is what ASHA's rungs
mean). A running trial that has reported is ranked as if it were stopped now; before its first report it is taken for
bad, so that others keep away (constant liar). Taking all running ones for bad hides the best trials, which are those
that run longest: with 64 slots in `tests.benchmarks.simulate` (800 epochs, 5 seeds) the best val_loss was 1.756 that
way and 1.745 this way, with 68 % and 29 % of the epochs wasted; with 2 slots there is no difference. A diverged trial
or one that ran out of memory counts among the bad ones; one that failed for another reason says nothing about its
settings.
"""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from cmp.results.history import History, TrialRecord, is_finite
from cmp.space.domains import Choice, Domain, Int, LogInt, LogUniform
from cmp.space.space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)

_HYPERCUBES = 64
"""So many Latin hypercubes are drawn for the start-up, and the one whose closest points lie furthest apart is used."""
_LARGEST_HYPERCUBE = 64
"""A longer start-up takes several hypercubes one after another."""
_TRIES = 8
"""So often another suggestion is asked for when the same settings were tried before."""
_RANDOM_TRIES = 100
"""So many random settings are looked at when the sampler insists on settings that were tried before."""


def suggest(space: Space, number: int, history: History) -> dict[str, Any]:
    """The searched settings of a new trial, plain Python values that survive JSON unchanged.

    Args:
        space: gives the domains, `search.seed` and `search.startup_trials`.
        number: the new trial's number.
        history: everything that happened before it.
    """
    if not space.searched:
        return {}
    tried = [trial.settings for trial in history.trials.values()]
    for sampled in _candidates(space, number, history):
        if sampled not in tried:
            return sampled
    return space.sample(random.Random(_seed(space.search.seed, number)))


def max_trials(space: Space) -> int:
    """`num_samples`, or fewer where there are not so many different settings: the same settings end the same."""
    combinations = space.combinations()
    return space.search.num_samples if combinations is None else min(space.search.num_samples, combinations)


def _candidates(space: Space, number: int, history: History) -> Iterator[dict[str, Any]]:
    """What to try, in order of preference: the sampler's choice, others of its choices, then anything at all."""
    if _evidence(history) < space.search.startup_trials:
        yield startup_point(space, number)
    else:
        known = _known_trials(history, distributions(space))
        for attempt in range(_TRIES):
            yield _ask(space, known, _seed(space.search.seed, number, attempt))
    rng = random.Random(_seed(space.search.seed, number))
    for _ in range(_RANDOM_TRIES):
        yield space.sample(rng)
    if space.combinations() is not None:
        yield from _all_settings(space)


def _all_settings(space: Space) -> Iterator[dict[str, Any]]:
    values = [_all_values(domain) for domain in space.searched.values()]
    return (dict(zip(space.searched, combination, strict=True)) for combination in itertools.product(*values))


def _all_values(domain: Domain) -> Sequence[Any]:
    if isinstance(domain, Choice):
        return domain.values
    if isinstance(domain, Int):
        return range(domain.low, domain.high + 1, domain.step)
    assert isinstance(domain, LogInt), "real numbers cannot be counted"
    return range(domain.low, domain.high + 1)


def startup_point(space: Space, number: int) -> dict[str, Any]:
    """A point of a Latin hypercube over the domains: one of `startup_trials` in each equal slice of every domain.

    Trials beyond that (many at once, before any has ended) take points of further hypercubes.
    """
    size = min(max(space.search.startup_trials, 1), _LARGEST_HYPERCUBE)
    cube = latin_hypercube(size, len(space.searched), _seed(space.search.seed, number // size))
    shares = cube[number % size]
    return {name: value_at(domain, share) for (name, domain), share in zip(space.searched.items(), shares, strict=True)}


@lru_cache(maxsize=8)
def latin_hypercube(points: int, dimensions: int, seed: int) -> tuple[tuple[float, ...], ...]:
    """Points in [0, 1)^dimensions, one in each of `points` equal slices along every axis, spread out (maximin)."""
    rng = random.Random(seed)
    cubes = [_random_hypercube(points, dimensions, rng) for _ in range(_HYPERCUBES)]
    return max(cubes, key=_smallest_distance)


def value_at(domain: Domain, share: float) -> Any:
    """The value below which this share, in [0, 1), of a domain lies."""
    if isinstance(domain, Choice):
        return domain.values[int(share * len(domain.values))]
    if isinstance(domain, Int):
        return domain.low + domain.step * int(share * ((domain.high - domain.low) // domain.step + 1))
    if isinstance(domain, LogInt):
        low, high = math.log(domain.low - 0.5), math.log(domain.high + 0.5)
        return min(max(round(math.exp(low + share * (high - low))), domain.low), domain.high)
    if isinstance(domain, LogUniform):
        value = math.exp(math.log(domain.low) + share * (math.log(domain.high) - math.log(domain.low)))
    else:
        value = domain.low + share * (domain.high - domain.low)
    return min(max(value, domain.low), domain.high)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The searched domains in Optuna's words, in the order of the space file."""
    return {name: _distribution(domain) for name, domain in space.searched.items()}


def _distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if isinstance(domain, Int):
        return IntDistribution(domain.low, domain.high, step=domain.step)
    if isinstance(domain, LogInt):
        return IntDistribution(domain.low, domain.high, log=True)
    return FloatDistribution(domain.low, domain.high, log=isinstance(domain, LogUniform))


def _evidence(history: History) -> int:
    """How many trials have ended in a way that says something about their settings."""
    return sum(trial.has_ended and _says_something(trial) for trial in history.trials.values())


def _says_something(trial: TrialRecord) -> bool:
    return trial.status != "failed" or trial.kind in ("diverged", "out_of_memory")


def _known_trials(history: History, domains: Mapping[str, BaseDistribution]) -> list[FrozenTrial]:
    return [_known_trial(trial, domains) for _, trial in sorted(history.trials.items()) if _says_something(trial)]


def _known_trial(trial: TrialRecord, domains: Mapping[str, BaseDistribution]) -> FrozenTrial:
    # Of pruned trials, those without intermediate values rank last: a failed trial is as bad as can be.
    losses = {} if trial.status == "failed" else finite_losses(trial)
    state, value = TrialState.PRUNED, None
    if not trial.has_ended and not losses:
        state = TrialState.RUNNING
    elif trial.status == "finished" and trial.val_loss is not None:
        state, value = TrialState.COMPLETE, trial.val_loss
    return create_trial(
        state=state, value=value, params=trial.settings, distributions=dict(domains), intermediate_values=losses
    )


def finite_losses(trial: TrialRecord) -> dict[int, float]:
    """val_loss by epoch, where it is a number."""
    return {report["epoch"]: report["val_loss"] for report in trial.reports if is_finite(report.get("val_loss"))}


def _ask(space: Space, known: list[FrozenTrial], seed: int) -> dict[str, Any]:
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=1)
    study = optuna.create_study(sampler=sampler, direction="minimize")
    study.add_trials(known)
    params = study.ask(distributions(space)).params
    return {name: _plain(params[name]) for name in space.searched}


def _plain(value: Any) -> Any:
    """NumPy scalars as Python numbers."""
    return value.item() if isinstance(value, np.generic) else value


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def _random_hypercube(points: int, dimensions: int, rng: random.Random) -> tuple[tuple[float, ...], ...]:
    axes = [[(place + rng.random()) / points for place in rng.sample(range(points), points)] for _ in range(dimensions)]
    return tuple(zip(*axes, strict=True))


def _smallest_distance(cube: tuple[tuple[float, ...], ...]) -> float:
    pairs = ((one, other) for index, one in enumerate(cube) for other in cube[:index])
    return min((math.dist(one, other) for one, other in pairs), default=0.0)
