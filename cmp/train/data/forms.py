"""How rows become the texts that are tokenized: templates, chats, the space before an answer. Called by `cache`."""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cmp.space.settings import TrialSettings
from cmp.train.data.errors import DataError
from cmp.train.data.repeats import text_hash
from cmp.train.data.rows import Layout, Row


@dataclass(frozen=True)
class RowTexts:
    """A row as it is tokenized: `answer` is what follows `prompt`, with the space between them where there is one.

    `len` is in characters.
    """

    context: str
    prompt: str
    answer: str

    def __len__(self) -> int:
        return len(self.context) + len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Form:
    """How the prompts of a data set are written.

    Args:
        template: with `{prompt}` in the prompt's place; None where there are no prompts.
        chat: a user's turn to all that stands before the answer of the model; None where it is plain text.
    """

    template: str | None = None
    chat: Callable[[str], str] | None = field(default=None, compare=False)

    def texts(self, row: Row, answer: str | None = None) -> RowTexts:
        """A row's texts; `answer` in place of its first one."""
        prompt = self.prompt(row)
        answer = row.answers[0] if answer is None else answer
        # In a conversation the answer begins the model's own turn.
        is_apart = not prompt or prompt[-1].isspace() or (self.chat is not None and not row.answer_prefix)
        return RowTexts(row.context, prompt, answer if is_apart else f" {answer}")

    def prompt(self, row: Row) -> str:
        """What is read between context and answer."""
        if self.template is None:
            return row.answer_prefix
        text = self.template.replace("{prompt}", row.prompt)
        return (text if self.chat is None else self.chat(text)) + row.answer_prefix


def _chat_form(template: str | None, tokenizer: Any) -> Form:
    """Prompts as the user's turn of the model's own chat template, begun anew after the context.

    BOS is left out, because the context begins with it, except where it opens every turn.

    Raises:
        DataError: the model comes without one.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError("chat_template", "true, but this model's tokenizer has no chat template; use prompt_template")
    bos = getattr(tokenizer, "bos_token", None) or ""

    def chat(text: str) -> str:
        turns = [{"role": "user", "content": text}]
        whole: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return whole.removeprefix(bos) if bos and whole.count(bos) == 1 else whole

    return Form("{prompt}" if template is None else template, chat)


def form_of(layout: Layout, settings: TrialSettings, tokenizer: Any) -> Form:
    """How the prompts of a data set are written.

    Raises:
        DataError: `chat_template` for a model without one.
    """
    if settings.chat_template:
        return _chat_form(settings.prompt_template, tokenizer)
    return Form(settings.prompt_template or layout.template)


class RowNotes:
    """Rows on their way to the tokenizer, and what is kept of them beside their tokens.

    Rows of one group have the same context, but for case and spaces; `hashes` has each group's.
    """

    def __init__(self, form: Form, rows: Iterable[Row]) -> None:
        self.form = form
        self.first: Row | None = None
        self.hashes = array("Q")
        self._rows = rows
        self._golds: list[tuple[str, ...]] = []
        self._limits, self._groups = array("q"), array("q")

    def texts(self) -> Iterator[RowTexts]:
        """The texts of each row, noted as they pass."""
        known: dict[int, int] = {}
        for row in self._rows:
            self._golds.append(row.answers)
            self._limits.append(row.max_new_tokens or 0)
            group = known.setdefault(text_hash(row.context), len(known))
            self._groups.append(group)
            self.first = row if self.first is None and row.answers else self.first
            yield self.form.texts(row) if row.answers else RowTexts("", "", "")
        self.hashes.extend(known)

    def digest(self) -> bytes:
        """A hash of the right answers, which tokens do not tell: the first alone is tokenized."""
        return hashlib.sha256(json.dumps([self._golds, list(self._limits)]).encode()).digest()

    def table(self) -> Any:
        """What was noted, as an Arrow record batch."""
        import pyarrow

        golds = pyarrow.array(self._golds, pyarrow.list_(pyarrow.string()))
        others = [pyarrow.array(values, pyarrow.int64()) for values in (self._limits, self._groups)]
        return pyarrow.record_batch([golds, *others], names=["golds", "max_new_tokens", "group"])
