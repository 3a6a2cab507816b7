"""Which settings to try next: quasi-random points first, then TPE over everything that is known.

A suggestion is a pure function of the space (its seed) and the history, so that a search that was killed and replayed
suggests what it would have suggested. Called by the ledger.
"""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from cmp.results.history import History
from cmp.results.journal import Event
from cmp.search.decide.evidence import Evidence
from cmp.search.decide.tpe import propose, varied
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


SHARE_WITH_BUDGET = 0.5
"""Of the suggestions for a front. The others look for the lowest loss at any price; chosen with
`tests.benchmarks.simulate --front`."""


class Sampler:
    """Suggests trials of one space.

    Args:
        space: gives the domains, `search.seed` and `search.startup_trials`.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._domains = distributions(space)
        self._varied = varied(self._domains)
        self._evidence = Evidence(space, self._varied)

    def suggest(self, number: int, history: History) -> dict[str, Any]:
        """The searched settings of a new trial, plain Python values that survive JSON unchanged.

        Args:
            number: the new trial's number.
            history: everything that happened before it; of the same search at every call.
        """
        if not self._space.searched:
            return {}
        self._evidence.update(history)
        if (wanted := self.next_first(history)) is not None:
            return {**startup_point(self._space, number), **wanted}
        for sampled in self._candidates(number):
            if not self._evidence.was_tried(sampled):
                return sampled
        return self._space.sample(random.Random(_seed(self._space.search.seed, number)))

    def next_first(self, history: History) -> dict[str, Any] | None:
        """What of `search.first` is to be tried next; None when all was."""
        wanted = self._space.search.first if self._space.searched else ()
        return next((one for one in wanted if one not in history.first_tried), None)

    def event(self, number: int, history: History) -> Event:
        """The journal's event that suggests the trial with this number."""
        wanted = self.next_first(history)
        first = {} if wanted is None else {"first": wanted}
        return {"event": "suggested", "trial": number, "settings": self.suggest(number, history), **first}

    def _candidates(self, number: int) -> Iterator[dict[str, Any]]:
        """What to try, in order of preference: TPE's choice, others of its choices, then anything at all."""
        space = self._space
        if self._evidence.ended() < space.search.startup_trials:
            yield startup_point(space, number)
        else:
            for attempt in range(_TRIES):
                yield self._proposal(_seed(space.search.seed, number, attempt))
        rng = random.Random(_seed(space.search.seed, number))
        for _ in range(_RANDOM_TRIES):
            yield space.sample(rng)
        if space.combinations() is not None:
            yield from _all_settings(space)

    def _proposal(self, seed: int) -> dict[str, Any]:
        """TPE's point; any point while no trial is ranked."""
        good, others = self._evidence.split(self._budget(seed))
        if len(good) == 0 or not self._varied:
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
            params = study.ask(self._domains).params
        else:
            points = self._evidence.points
            params = self._single_values() | propose(self._varied, points[good], points[others], seed)
        return {name: _plain(params[name]) for name in self._space.searched}

    def _budget(self, seed: int) -> float:
        """Positions within which this suggestion looks for the lowest loss: for a front, every second one has some.

        They are drawn evenly on a logarithmic scale, between the lowest and the highest price that were tried.
        """
        share = random.Random(seed).random() / SHARE_WITH_BUDGET
        if self._space.search.objective != "front" or share >= 1:
            return math.inf
        low, high = self._evidence.price_range()
        return low * (high / low) ** share * (1 + 1e-9)  # rounding must not put it below the lowest price

    def _single_values(self) -> dict[str, Any]:
        """Settings that are searched but have one value only."""
        single = [name for name in self._space.searched if name not in self._varied]
        return {name: self._space.searched[name].probes()[0] for name in single}


def suggest(space: Space, number: int, history: History) -> dict[str, Any]:
    """One suggestion, by a sampler that knows nothing yet."""
    return Sampler(space).suggest(number, history)


def max_trials(space: Space) -> int:
    """`num_samples`, or fewer where there are not so many different settings: the same settings end the same."""
    combinations = space.combinations()
    return space.search.num_samples if combinations is None else min(space.search.num_samples, combinations)


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
