"""The rule of each setting, read from its annotation in `settings.py`: type, range, choices, meaning.

A rule judges one plain value as it came from a file and says in one sentence what would be right. Domains are judged
by the values they can produce (`loading`), rules between settings are in `checks`.
"""

import difflib
import json
import math
import types
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Range:
    """Numbers that are allowed.

    Args:
        low: the smallest allowed value, or the bound that values must be above if `exclusive`.
        high: the largest allowed value.
        exclusive: `low` itself is not allowed.
        excluding: single values in between that are not allowed.
    """

    low: float | None = None
    high: float | None = None
    exclusive: bool = False
    excluding: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            text = f"from {show(self.low)} to {show(self.high)}"
        elif self.low is not None:
            text = f"above {show(self.low)}" if self.exclusive else f"of at least {show(self.low)}"
        elif self.high is not None:
            text = f"of at most {show(self.high)}"
        else:
            text = ""
        return " ".join(filter(None, [text, *(f"other than {value}" for value in self.excluding)]))

    def broken_by(self, value: float) -> str | None:
        """How `value` breaks the range, as "is below 1"; None when it is inside."""
        if self.low is not None and (value < self.low or (self.exclusive and value == self.low)):
            return f"is not above {show(self.low)}" if self.exclusive else f"is below {show(self.low)}"
        if self.high is not None and value > self.high:
            return f"is above {show(self.high)}"
        return "is not allowed" if value in self.excluding else None


@dataclass(frozen=True)
class NotSearched:
    """Marks a setting that cannot have a domain, and says why."""

    reason: str


class RuleError(ValueError):
    """A value breaks its setting's rule; the text is a message for the user without the setting's name."""


@dataclass(frozen=True)
class Rule:
    """What a setting may be.

    Args:
        name: dotted inside a section (`search.num_samples`).
        kinds: the plain types allowed, of int, float, bool and str.
        choices: the words allowed; empty when any text is.
        optional: null is allowed.
        required: there is no default.
        default: its default.
        bounds: the range of its numbers.
        items: of a list, what it holds: "texts" or "settings"; empty for a single value.
        not_searched: why it cannot have a domain; None when it can.
        meaning: one line for `--help` and the README.
    """

    name: str
    kinds: tuple[type, ...]
    choices: tuple[str, ...]
    optional: bool
    required: bool
    default: Any
    bounds: Range
    not_searched: str | None
    meaning: str
    items: Literal["", "texts", "settings"] = ""

    def parse(self, value: Any) -> Any:
        """The value as the setting wants it (a whole float becomes an int, an int a float, a list a tuple).

        Raises:
            RuleError: the value breaks the rule.
        """
        if self.items:
            return self._parse_list(value if isinstance(value, list | tuple) else [value])
        if value is None:
            if self.optional:
                return None
            raise RuleError(f"null is not allowed; use {self.wanted()}")
        if isinstance(value, bool):
            return self._parse_bool(value)
        if isinstance(value, int | float) and (int in self.kinds or float in self.kinds):
            return self._parse_number(value)
        if isinstance(value, str) and (str in self.kinds or self.choices):
            return self._parse_text(value)
        raise RuleError(self._wrong_type(value))

    def _parse_list(self, values: Sequence[Any]) -> tuple[Any, ...]:
        kind = dict if self.items == "settings" else str
        wrong = next((value for value in values if not isinstance(value, kind) or not value), None)
        if wrong is not None or None in values:
            raise RuleError(f"{show(wrong)} is not {self.wanted()}")
        return tuple(values)

    def _parse_bool(self, value: bool) -> bool:
        if bool in self.kinds:
            return value
        raise RuleError(f"{show(value)} is not {self.wanted()}")

    def _parse_number(self, value: float) -> float:
        if not math.isfinite(value):
            raise RuleError(f"{show(value)} is not a finite number; use {self.wanted()}")
        if float not in self.kinds:
            if value != int(value):
                raise RuleError(f"{show(value)} is not a whole number; use {self.wanted()}")
            value = int(value)
        if broken := self.bounds.broken_by(value):
            raise RuleError(f"{show(value)} {broken}; use {self.wanted()}")
        return float(value) if int not in self.kinds else value

    def _parse_text(self, value: str) -> str:
        if self.choices and value not in self.choices:
            hint = suggestion(value, self.choices)
            raise RuleError(f"{show(value)} is not {self.wanted()}{hint}")
        if not self.choices and not value.strip():
            raise RuleError(f"{show(value)} is empty; use {self.wanted()}")
        return value

    def _wrong_type(self, value: Any) -> str:
        if isinstance(value, list):
            return f"{show(value)} is a list; to search over its values write {{choice: {show(value)}}}"
        if isinstance(value, str) and self.kinds == (bool,):
            truth = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
            plain = truth.get(value.lower(), value.lower() if value.lower() in ("true", "false") else None)
            return f"{show(value)} is not true or false" + (f"; write {plain} without quotes" if plain else "")
        if isinstance(value, str) and (int in self.kinds or float in self.kinds):
            try:
                return f"{show(value)} is a text; write {show(float(value))} without quotes"
            except ValueError:
                pass
        if self.kinds == (str,):
            return f"{show(value)} is not a text; put it in quotes"
        return f"{show(value)} is not {self.wanted()}"

    def wanted(self) -> str:
        """What would be right, as the end of "use ..."."""
        words: list[str] = []
        if self.items:
            return "a text, or a list of them" if self.items == "texts" else "a list such as [{lr: 0.001}]"
        if bool in self.kinds:
            words.append("true or false")
        if int in self.kinds or float in self.kinds:
            words.append(f"a {'' if float in self.kinds else 'whole '}number {self.bounds}".strip())
        if self.choices:
            quoted = [show(choice) for choice in self.choices]
            words.append(quoted[0] if len(quoted) == 1 else "one of " + ", ".join(quoted))
        elif str in self.kinds:
            words.append("a text")
        if self.optional:
            words.append("null")
        return " or ".join(words)


def read_rules(cls: type, section: str = "") -> dict[str, Rule]:
    """The rules of a dataclass of settings, by dotted name, in the order of its fields."""
    hints = get_type_hints(cls, include_extras=True)
    names = [f"{section}.{field.name}" if section else field.name for field in fields(cls)]
    return {name: _read_rule(name, field, hints[field.name]) for name, field in zip(names, fields(cls), strict=True)}


def _read_rule(name: str, field: Field, hint: Any) -> Rule:
    extras: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *extras_list = get_args(hint)
        extras = tuple(extras_list)
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    choices = tuple(word for member in members if get_origin(member) is Literal for word in get_args(member))
    required = field.default is MISSING
    return Rule(
        name=name,
        kinds=tuple(member for member in members if member in (int, float, bool, str)),
        choices=choices,
        optional=type(None) in members,
        required=required,
        default=None if required else field.default,
        bounds=next((extra for extra in extras if isinstance(extra, Range)), Range()),
        not_searched=next((extra.reason for extra in extras if isinstance(extra, NotSearched)), None),
        meaning=next((extra for extra in extras if isinstance(extra, str)), ""),
        items=_items(hint),
    )


def _items(hint: Any) -> Literal["", "texts", "settings"]:
    if get_origin(hint) is not tuple:
        return ""
    return "texts" if get_args(hint)[0] is str else "settings"


def show(value: Any) -> str:
    """A value as the user would write it in a space file."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(show(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    if value is None or isinstance(value, bool | int | str):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest known name, or nothing when none is near."""
    folded = {word.lower(): word for word in known}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    return f"; did you mean {folded[near[0]]}?" if near else ""
