"""Which columns of a data set are its text, and what a pair of texts means. Called by `local` and `hub`.

A document is a text, or a pair (context, target) where a data set has two texts that belong together.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmp.train.data.errors import DataError

Document = str | tuple[str, str]

PAIR_COLUMNS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
)
GLUE_PAIRS = {
    "mrpc": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "stsb": ("sentence1", "sentence2"),
    "rte": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "mnli": ("premise", "hypothesis"),
}
GLUE_SINGLES = {"cola": "sentence", "sst2": "sentence"}
LABEL, HIDDEN_LABEL = "label", -1
EQUIVALENCE_TASKS = ("mrpc", "qqp")  # label 1: the second text says the same; else the first is its own target


@dataclass(frozen=True)
class Records:
    """Rows of one split before it is known which columns matter.

    Args:
        texts: names of the columns that hold text.
        others: names of the columns that do not.
        rows: reads the given columns of every row, from the beginning, each time it is called.
        total: how many rows there are, where that is known without reading them.
    """

    texts: tuple[str, ...]
    others: tuple[str, ...]
    rows: Callable[[Sequence[str]], Iterator[Mapping[str, Any]]]
    total: int | None = None


@dataclass(frozen=True)
class Reading:
    """How a row becomes a document.

    Args:
        columns: what must be read of each row.
        document: the document in a row, None where the row's text is missing.
        pairs: whether documents are pairs.
    """

    columns: tuple[str, ...]
    document: Callable[[Mapping[str, Any]], Document | None]
    pairs: bool

    def suits(self, records: Records) -> bool:
        """Whether another split can be read the same way: GLUE's test splits hide their labels (-1), some all but ids.

        Reads one row where the label says what a pair means.
        """
        if not set(self.columns) <= {*records.texts, *records.others}:
            return False
        if LABEL not in self.columns:
            return True
        first = next(records.rows(self.columns), None)
        return first is not None and first[LABEL] != HIDDEN_LABEL

    def documents(self, records: Records) -> Iterator[Document]:
        """Every document of `records`; a row without a text counts as an empty document."""
        empty: Document = ("", "") if self.pairs else ""
        for row in records.rows(self.columns):
            yield self.document(row) or empty


def choose_reading(records: Records, text_column: str | None, task: str | None, where: str) -> Reading:
    """Find the text by `text_column`, else by the GLUE task, else by well-known names, else the only text there is.

    Args:
        records: a split that has the columns.
        text_column: the setting.
        task: a GLUE task's name; decides the columns and whether labels say which pairs are equivalent.
        where: the data set's name, for messages.

    Raises:
        DataError: there is no such column, or none, or several to choose from.
    """
    if text_column is not None:
        return _text(_known(text_column, records, where))
    pair = GLUE_PAIRS.get(task or "") or next((pair for pair in PAIR_COLUMNS if set(pair) <= set(records.texts)), None)
    if pair and set(pair) <= set(records.texts):
        by_label = task in EQUIVALENCE_TASKS and LABEL in records.others
        return _equivalent_pair(*pair) if by_label else _pair(*pair)
    if "text" in records.texts:
        return _text("text")
    if len(records.texts) == 1:
        return _text(records.texts[0])
    found = f"text columns {', '.join(records.texts)}; name one of them" if records.texts else "no column of text"
    raise DataError("text_column", f"{where} has {found}")


def _known(column: str, records: Records, where: str) -> str:
    if column in records.texts:
        return column
    columns = ", ".join(records.texts) or "none"
    problem = "holds no text" if column in records.others else "is not a column of it"
    raise DataError("text_column", f"{column!r} of {where} {problem}; its text columns: {columns}")


def _text(column: str) -> Reading:
    return Reading((column,), lambda row: row[column], pairs=False)


def _pair(first: str, second: str) -> Reading:
    def document(row: Mapping[str, Any]) -> Document | None:
        return (row[first], row[second]) if row[first] and row[second] else None

    return Reading((first, second), document, pairs=True)


def _equivalent_pair(first: str, second: str) -> Reading:
    """Only an equivalent second text follows from the first; where it is not, the first is to be said again."""

    def document(row: Mapping[str, Any]) -> Document | None:
        target = second if row[LABEL] == 1 else first
        return (row[first], row[target]) if row[first] and row[target] else None

    return Reading((first, second, LABEL), document, pairs=True)


def column_kinds(row: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the text columns and of the others, judged by one row."""
    return split_kinds((name, isinstance(value, str)) for name, value in row.items())


def split_kinds(columns: Iterable[tuple[str, bool]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the columns that are text, and of those that are not."""
    columns = list(columns)
    return tuple(name for name, is_text in columns if is_text), tuple(name for name, is_text in columns if not is_text)
