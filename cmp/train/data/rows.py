"""Rows of a context, what is asked of it, and what may be answered, read from the columns of a record.

Called by `columns`, which finds the columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cmp.train.data.errors import DataError


@dataclass(frozen=True)
class Row:
    """Texts that belong together.

    Args:
        context: what is compressed.
        prompt: what is asked of it, without any template; "" where nothing is.
        answers: all that are right, the one to train on first.
        answer_prefix: how every answer begins; read with the prompt, so no part of what is predicted.
        max_new_tokens: how long an answer may get where one is written; None is `seq_len`.
    """

    context: str
    prompt: str
    answers: tuple[str, ...]
    answer_prefix: str = ""
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Layout:
    """Which columns rows are read from; dotted names lead into nested columns.

    Args:
        context: a text, or a list of texts, which become lines.
        answer: a text, a list of all right ones, a number or a label.
        prompt: as `context`; None where nothing is asked.
        answer_prefix: see `Row`.
        max_new_tokens: see `Row`.
        template: how a prompt is written unless a setting says otherwise; None where there are no prompts.
        equivalent: a column that is 1 where the answer says the same as the context; elsewhere the context is its own.
    """

    context: str
    answer: str
    prompt: str | None = None
    answer_prefix: str | None = None
    max_new_tokens: str | None = None
    template: str | None = None
    equivalent: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns themselves, without what is nested in them."""
        paths = (self.context, self.prompt, self.answer, self.answer_prefix, self.max_new_tokens, self.equivalent)
        return tuple(dict.fromkeys(path.partition(".")[0] for path in paths if path is not None))


@dataclass(frozen=True)
class RowReader:
    """Reads rows by a layout.

    Args:
        layout: where things are.
        choices: the words of an answer that is a number, by that number; empty where answers are free.
        where: the data set's name, for messages.
    """

    layout: Layout
    choices: tuple[str, ...]
    where: str

    def __call__(self, record: Mapping[str, Any]) -> Row | None:
        """The row of a record; None where it has no context or no answer."""
        layout = self.layout
        context = _joined(record, layout.context, "context_column", self.where)
        answers = self._answers(record)
        if layout.equivalent and record[layout.equivalent] != 1:
            answers = (context,) if record[layout.equivalent] == 0 else ()
        if not context or not answers:
            return None
        prompt = "" if layout.prompt is None else _joined(record, layout.prompt, "prompt_column", self.where)
        prefix = "" if layout.answer_prefix is None else record[layout.answer_prefix] or ""
        limit = None if layout.max_new_tokens is None else record[layout.max_new_tokens]
        return Row(context, prompt, answers, prefix, None if limit is None else int(limit))

    def _answers(self, record: Mapping[str, Any]) -> tuple[str, ...]:
        values = values_at(record, self.layout.answer, "answer_column", self.where)
        words = (self._word(value) for value in values)
        return tuple(dict.fromkeys(word for word in words if word))

    def _word(self, value: Any) -> str:
        """An answer as text; "" for a label that is hidden (-1)."""
        if not self.choices or value in self.choices:
            return str(value)
        index = int(value) if isinstance(value, int) or str(value).lstrip("-").isdigit() else None
        if index is None or index >= len(self.choices):
            known = ", ".join(self.choices)
            raise DataError("answer_choices", f"{value!r} in {self.layout.answer!r} of {self.where} is none of {known}")
        return self.choices[index] if index >= 0 else ""


def values_at(record: Mapping[str, Any], path: str, setting: str, where: str) -> list[Any]:
    """The values that a dotted path leads to, lists on the way and at its end laid out flat, nulls left out.

    Raises:
        DataError: the path leads nowhere, or to more columns.
    """
    values: list[Any] = [record]
    for name in path.split("."):
        values = [_member(value, name, path, setting, where) for value in values]
        values = [item for value in values for item in _flat(value)]
    if any(isinstance(value, Mapping) for value in values):
        inside = ", ".join(next(value for value in values if isinstance(value, Mapping)))
        raise DataError(setting, f"{path!r} of {where} holds columns itself; name one of them: {path}.({inside})")
    return values


def _member(value: Any, name: str, path: str, setting: str, where: str) -> Any:
    if isinstance(value, Mapping) and name in value:
        return value[name]
    inside = f"there it has {', '.join(value)}" if isinstance(value, Mapping) else "there it holds no columns"
    raise DataError(setting, f"{path!r} of {where} leads nowhere at {name!r}; {inside}")


def _flat(value: Any) -> list[Any]:
    if value is None:
        return []
    return [item for part in value for item in _flat(part)] if isinstance(value, list | tuple) else [value]


def _joined(record: Mapping[str, Any], path: str, setting: str, where: str) -> str:
    values = values_at(record, path, setting, where)
    if not all(isinstance(value, str) for value in values):
        raise DataError(setting, f"{path!r} of {where} holds no text")
    return "\n".join(values)
