"""Which columns of a data set are its text: one text, or context, prompt and answers. Called by `local` and `hub`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from cmp.space.settings import TrialSettings
from cmp.train.data.errors import DataError
from cmp.train.data.rows import Layout, Row, RowReader, values_at

Document = str | Row

PROMPT = "\n{prompt}\n"
KVPRESS = Layout("context", "answer", "question", "answer_prefix", "max_new_tokens", template="{prompt}\n")
SQUAD = Layout("context", "answers.text", "question", template=PROMPT)
GLUE = {
    "mrpc": Layout("sentence1", "sentence2", equivalent="label"),
    "qqp": Layout("question1", "question2", equivalent="label"),
    "stsb": Layout("sentence1", "sentence2"),
    "rte": Layout("sentence1", "sentence2"),
    "wnli": Layout("sentence1", "sentence2"),
    "qnli": Layout("question", "sentence"),
    "mnli": Layout("premise", "hypothesis"),
}
GLUE_SINGLES = {"cola": "sentence", "sst2": "sentence"}
KNOWN = (KVPRESS, SQUAD, GLUE["rte"], Layout("question1", "question2"), GLUE["qnli"], GLUE["mnli"])
ROWS_LOOKED_AT = 100  # of a split that may hide its answers


@dataclass(frozen=True)
class Records:
    """Rows of one split before it is known which columns matter.

    Args:
        texts: names of the columns that hold text.
        others: names of the columns that do not.
        rows: reads the given columns of every row, from the beginning, each time it is called.
        total: how many rows there are, where that is known without reading them.
        labels: the words that a column's numbers stand for, where the data set says so.
    """

    texts: tuple[str, ...]
    others: tuple[str, ...]
    rows: Callable[[Sequence[str]], Iterator[Mapping[str, Any]]]
    total: int | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def columns(self) -> set[str]:
        """All names."""
        return {*self.texts, *self.others}


@dataclass(frozen=True)
class Reading:
    """How a record becomes a document.

    Args:
        columns: what must be read of each record.
        document: the document in a record, None where it is missing.
        layout: of rows; None where documents are plain texts.
        choices: the answers there are, of a classification.
    """

    columns: tuple[str, ...]
    document: Callable[[Mapping[str, Any]], Document | None]
    layout: Layout | None = None
    choices: tuple[str, ...] = ()

    def suits(self, records: Records) -> bool:
        """Whether another split can be read the same way; some test splits lack the answers, or hide them.

        Looks for a document among the first rows where answers may be hidden.
        """
        if not set(self.columns) <= records.columns:
            return False
        if self.layout is None:
            return True
        return any(self.document(row) for row in islice(records.rows(self.columns), ROWS_LOOKED_AT))

    def documents(self, records: Records) -> Iterator[Document]:
        """Every document of `records`; a record without one counts as an empty document."""
        empty: Document = "" if self.layout is None else Row("", "", ())
        for row in records.rows(self.columns):
            yield self.document(row) or empty


def choose_reading(records: Records, settings: TrialSettings, task: str | None) -> Reading:
    """Find what to read by the settings, else by the GLUE task, else by well-known names, else the only text there is.

    Args:
        records: a split that has the columns.
        settings: name the columns.
        task: a GLUE task's name; decides the columns and whether labels say which pairs are equivalent.

    Raises:
        DataError: there is no such column, or none, or several to choose from.
    """
    where = settings.dataset
    if settings.text_column is not None:
        return _text(_known(settings.text_column, records, where))
    if settings.context_column is not None:
        return _rows(_named_layout(records, settings), records, settings)
    layout = _known_layout(records, task)
    if layout is not None:
        return _rows(layout, records, settings)
    if "text" in records.texts:
        return _text("text")
    if len(records.texts) == 1:
        return _text(records.texts[0])
    found = f"text columns {', '.join(records.texts)}; name one of them" if records.texts else "no column of text"
    raise DataError("text_column", f"{where} has {found}, or context_column and answer_column")


def _known(column: str, records: Records, where: str) -> str:
    if column in records.texts:
        return column
    columns = ", ".join(records.texts) or "none"
    problem = "holds no text" if column in records.others else "is not a column of it"
    raise DataError("text_column", f"{column!r} of {where} {problem}; its text columns: {columns}")


def _text(column: str) -> Reading:
    return Reading((column,), lambda row: row[column])


def _rows(layout: Layout, records: Records, settings: TrialSettings) -> Reading:
    choices = records.labels.get(layout.answer, ())
    if settings.answer_choices is not None:
        choices = tuple(word.strip() for word in settings.answer_choices.split(","))
    return Reading(layout.columns, RowReader(layout, choices, settings.dataset), layout, choices)


def _named_layout(records: Records, settings: TrialSettings) -> Layout:
    """The layout that the settings name; columns named as in kvpress' rows keep their meaning there."""
    names = {
        "context_column": settings.context_column,
        "prompt_column": settings.prompt_column,
        "answer_column": settings.answer_column,
    }
    for setting, path in names.items():
        if path is not None and path.partition(".")[0] not in records.columns:
            columns = ", ".join(sorted(records.columns))
            raise DataError(setting, f"{path!r} is not a column of {settings.dataset}; its columns: {columns}")
    context, prompt, answer = names.values()
    assert context is not None and answer is not None, "a space's checks ask for both"
    extra = {name: name for name in ("answer_prefix", "max_new_tokens") if name in records.columns and prompt}
    return Layout(context, answer, prompt, **extra, template=None if prompt is None else PROMPT)


def _known_layout(records: Records, task: str | None) -> Layout | None:
    """The layout of the GLUE task, or the first known one whose columns are there."""
    if task in GLUE and set(GLUE[task].columns) - {"label"} <= set(records.texts):
        return GLUE[task] if "label" in records.others else Layout(GLUE[task].context, GLUE[task].answer)
    found = next((layout for layout in KNOWN if _has(records, layout)), None)
    if found is KVPRESS and "max_new_tokens" not in records.columns:
        return Layout("context", "answer", "question", "answer_prefix", template=KVPRESS.template)
    return found


def _has(records: Records, layout: Layout) -> bool:
    """Whether the columns are there, texts where there must be texts, and what is nested where it must be."""
    required = set(layout.columns) - {"max_new_tokens"}
    texts = {layout.context, layout.prompt, layout.answer_prefix} - {None}
    if layout.answer_prefix is None and "." not in layout.answer:
        texts.add(layout.answer)
    if not (required <= records.columns and texts <= set(records.texts)):
        return False
    if "." not in layout.answer:
        return True
    first = next(records.rows(layout.columns), None)
    try:
        return first is not None and values_at(first, layout.answer, "answer_column", "") is not None
    except DataError:
        return False


def column_kinds(row: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the text columns and of the others, judged by one row."""
    return split_kinds((name, isinstance(value, str)) for name, value in row.items())


def split_kinds(columns: Iterable[tuple[str, bool]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the columns that are text, and of those that are not."""
    columns = list(columns)
    return tuple(name for name, is_text in columns if is_text), tuple(name for name, is_text in columns if not is_text)


def label_words(features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The words of label columns, from the `datasets` library's plain description of all columns."""
    names = {column: kind.get("names") for column, kind in features.items() if isinstance(kind, Mapping)}
    return {column: tuple(name.replace("_", " ") for name in some) for column, some in names.items() if some}
