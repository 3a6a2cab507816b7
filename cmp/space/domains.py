"""What a searched setting may be: a range or a list of choices, sampled with Python's own generator.

`loading` builds them from `{loguniform: [1e-4, 1e-2]}` and the like; the sampler maps them to its distributions.
"""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cmp.space.rules import show, suggestion

_MAX_PROBES = 4096
"""Whole-number domains up to this size are checked value by value."""


class DomainError(ValueError):
    """A domain that makes no sense; the text is a message for the user without the setting's name."""


@dataclass(frozen=True)
class Uniform:
    """Real numbers from `low` to `high`, evenly."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_order(self)

    def sample(self, rng: random.Random) -> float:
        """One value."""
        return min(max(rng.uniform(self.low, self.high), self.low), self.high)

    def contains(self, value: Any) -> bool:
        """Whether `sample` could return `value`."""
        return _is_number(value) and self.low <= value <= self.high

    def extremes(self) -> tuple[float, float]:
        """Smallest and largest value."""
        return self.low, self.high

    def probes(self) -> list[Any]:
        """Values that stand for all when a rule is checked."""
        return [self.low, self.high]

    def to_plain(self) -> dict[str, Any]:
        """As in a space file."""
        return {"uniform": [self.low, self.high]}


@dataclass(frozen=True)
class LogUniform(Uniform):
    """Positive real numbers from `low` to `high`, evenly in their logarithm."""

    def __post_init__(self) -> None:
        _check_order(self)
        _check_positive(self)

    def sample(self, rng: random.Random) -> float:
        """One value."""
        value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return min(max(value, self.low), self.high)

    def to_plain(self) -> dict[str, Any]:
        """As in a space file."""
        return {"loguniform": [self.low, self.high]}


@dataclass(frozen=True)
class Int:
    """Whole numbers from `low` to `high`, both included, in steps of `step`."""

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        _check_order(self)
        if self.step < 1:
            raise DomainError(f"{show(self.to_plain())}: step {self.step} is below 1")
        if (self.high - self.low) % self.step:
            reachable = self.high - (self.high - self.low) % self.step
            raise DomainError(
                f"{show(self.to_plain())}: {self.high} cannot be reached from {self.low} in steps of {self.step}; "
                f"end at {reachable} or {reachable + self.step}"
            )

    def sample(self, rng: random.Random) -> int:
        """One value."""
        return rng.randrange(self.low, self.high + 1, self.step)

    def contains(self, value: Any) -> bool:
        """Whether `sample` could return `value`."""
        return _is_whole(value) and self.low <= value <= self.high and (value - self.low) % self.step == 0

    def extremes(self) -> tuple[int, int]:
        """Smallest and largest value."""
        return self.low, self.high

    def probes(self) -> list[Any]:
        """Every value of a small domain, the ends and first steps of a large one."""
        return _whole_probes(self.low, self.high, self.step)

    def to_plain(self) -> dict[str, Any]:
        """As in a space file."""
        plain: dict[str, Any] = {"int": [self.low, self.high]}
        return plain if self.step == 1 else {**plain, "step": self.step}


@dataclass(frozen=True)
class LogInt:
    """Positive whole numbers from `low` to `high`, both included, evenly in their logarithm."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _check_order(self)
        _check_positive(self)

    def sample(self, rng: random.Random) -> int:
        """One value: a real number from half below `low` to half above `high`, rounded."""
        value = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
        return min(max(round(value), self.low), self.high)

    def contains(self, value: Any) -> bool:
        """Whether `sample` could return `value`."""
        return _is_whole(value) and self.low <= value <= self.high

    def extremes(self) -> tuple[int, int]:
        """Smallest and largest value."""
        return self.low, self.high

    def probes(self) -> list[Any]:
        """Every value of a small domain, the ends and first steps of a large one."""
        return _whole_probes(self.low, self.high, 1)

    def to_plain(self) -> dict[str, Any]:
        """As in a space file."""
        return {"logint": [self.low, self.high]}


@dataclass(frozen=True)
class Choice:
    """One of `values`, which may have different types, evenly."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise DomainError("{choice: []} has nothing to choose from")
        for index, value in enumerate(self.values):
            if any(_same(value, other) for other in self.values[:index]):
                raise DomainError(f"{show(self.to_plain())} lists {show(value)} twice")

    def sample(self, rng: random.Random) -> Any:
        """One value."""
        return rng.choice(self.values)

    def contains(self, value: Any) -> bool:
        """Whether `sample` could return `value`; true is not 1."""
        return any(_same(value, other) for other in self.values)

    def extremes(self) -> tuple[Any, Any]:
        """Smallest and largest number among the values; the first and last value when none is a number."""
        numbers = [value for value in self.values if _is_number(value)]
        return (min(numbers), max(numbers)) if numbers else (self.values[0], self.values[-1])

    def probes(self) -> list[Any]:
        """Every value."""
        return list(self.values)

    def to_plain(self) -> dict[str, Any]:
        """As in a space file."""
        return {"choice": list(self.values)}


Domain = Uniform | LogUniform | Int | LogInt | Choice
WORDS = ("uniform", "loguniform", "int", "logint", "choice")


def domain_from_plain(plain: Mapping[Any, Any]) -> Domain:
    """The domain that a mapping such as `{int: [2, 16], step: 2}` describes.

    Raises:
        DomainError: an unknown word, or values that make no sense.
    """
    words = [word for word in plain if word != "step"]
    if len(words) != 1 or words[0] not in WORDS:
        raise DomainError(_not_a_domain(plain, words))
    word, body = words[0], plain[words[0]]
    if "step" in plain and word != "int":
        raise DomainError(f"{show(dict(plain))}: only {{int: [low, high]}} has a step")
    if not isinstance(body, list):
        example = "[a, b, c]" if word == "choice" else "[low, high]"
        raise DomainError(f"{show(dict(plain))}: write {{{word}: {example}}}")
    if word == "choice":
        return Choice(tuple(body))
    return _range_domain(word, body, plain)


def _range_domain(word: str, body: list[Any], plain: Mapping[Any, Any]) -> Domain:
    if len(body) != 2 or not all(_is_number(value) and math.isfinite(value) for value in body):
        hint = f"; for a step write {{int: {show(body[:2])}, step: {show(body[2])}}}" if _looks_stepped(body) else ""
        raise DomainError(f"{show(dict(plain))}: {word} takes two numbers, [low, high]{hint}")
    low, high = body
    if word == "uniform":
        return Uniform(float(low), float(high))
    if word == "loguniform":
        return LogUniform(float(low), float(high))
    step = plain.get("step", 1)
    if not all(_is_number(value) and value == int(value) for value in (low, high, step)):
        real = "uniform" if word == "int" else "loguniform"
        raise DomainError(f"{show(dict(plain))}: {word} takes whole numbers; for others use {{{real}: {show(body)}}}")
    return Int(int(low), int(high), int(step)) if word == "int" else LogInt(int(low), int(high))


def _looks_stepped(body: list[Any]) -> bool:
    return len(body) == 3 and all(_is_whole(value) for value in body)


def _not_a_domain(plain: Mapping[Any, Any], words: list[Any]) -> str:
    if len(words) == 1:
        known = ", ".join(WORDS)
        return f"{show(words[0])} is not a domain; use one of {known}{suggestion(str(words[0]), WORDS)}"
    return f"{show(dict(plain))} is not a domain; write one of " + ", ".join(f"{{{word}: [...]}}" for word in WORDS)


def _whole_probes(low: int, high: int, step: int) -> list[Any]:
    values = range(low, high + 1, step)
    if len(values) <= _MAX_PROBES:
        return list(values)
    around_zero = [value for value in (-1, 0, 1) if value in values]
    return sorted({*values[:64], *around_zero, values[-1]})


def _check_order(domain: "Uniform | Int | LogInt") -> None:
    if domain.low > domain.high:
        plain = domain.to_plain()
        word = next(iter(plain))
        raise DomainError(f"{show(plain)} is empty; write {{{word}: {show([domain.high, domain.low])}}}")


def _check_positive(domain: "LogUniform | LogInt") -> None:
    if domain.low <= 0:
        plain = domain.to_plain()
        other: Callable[[Any], str] = {"loguniform": "uniform", "logint": "int"}.__getitem__
        word = next(iter(plain))
        raise DomainError(
            f"{show(plain)}: {show(domain.low)} has no logarithm; start above 0, or use "
            f"{{{other(word)}: {show([domain.low, domain.high])}}}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value == int(value) if not isinstance(value, float) or math.isfinite(value) else False


def _same(one: Any, other: Any) -> bool:
    """Equal, and not because Python takes true for 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
