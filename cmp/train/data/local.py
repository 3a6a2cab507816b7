"""Plain local data: .txt, .jsonl, .parquet and .csv files, folders and globs of them. Called by `documents`.

All but .csv are read natively, file after file, so that memory does not grow with the data and reading stops where
`abbrev_len` does.
"""

import glob
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from cmp.train.data.columns import Records, column_kinds, label_words, split_kinds
from cmp.train.data.errors import DataError

SUFFIXES = (".txt", ".jsonl", ".parquet", ".csv")
SEPARATOR = "<|endoftext|>"
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "eval": "test",
} | dict.fromkeys(("validation", "valid", "val", "dev"), "validation")


def is_glob(dataset: str) -> bool:
    """Whether the name has wildcards."""
    return any(character in dataset for character in "*?[")


def find_files(dataset: str) -> list[Path]:
    """The files that a path, folder or glob means, sorted; of a folder every one below it that can be read.

    Raises:
        DataError: there are none, or one of a kind that cannot be read.
    """
    if is_glob(dataset):
        pattern = str(Path(dataset).expanduser())
        matches = glob.glob(pattern, recursive=True)  # noqa: PTH207  Path.glob takes no absolute pattern
        return _require(sorted(map(Path, matches)), dataset)
    path = Path(dataset).expanduser()
    if path.is_dir():
        below = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        return [file for file in below if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    return _require([path], dataset)


def _require(paths: list[Path], dataset: str) -> list[Path]:
    files = [path for path in paths if path.is_file()]
    if not files:
        raise DataError("dataset", f"{dataset}: no such file" + (" (nothing matches)" if is_glob(dataset) else ""))
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            raise DataError(
                "dataset",
                f"{file}: cannot read {file.suffix or 'a file without suffix'}; use .txt, .jsonl, .parquet or .csv",
            )
    return files


def group_by_split(files: list[Path], root: Path) -> dict[str, list[Path]]:
    """Files of "train", "validation" and "test" by the words in their names, as the hub lays data sets out.

    Only where some file is named as training data; else every file is plain text to be split here: {"train": files}.
    """
    labels = {file: _split_word(file.relative_to(root) if file.is_relative_to(root) else file) for file in files}
    if "train" not in labels.values():
        return {"train": files}
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(labels[file] or "train", []).append(file)
    return groups


def _split_word(path: Path) -> str | None:
    words = re.split(r"[^a-z]+", path.as_posix().lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


def read_files(files: Sequence[Path]) -> Records:
    """The rows of all files, one after the other; columns are those of the first row.

    Raises:
        DataError: .csv files among others.
    """
    csv = next((file for file in files if file.suffix.lower() == ".csv"), None)
    if csv is not None:
        raise DataError("dataset", f"{csv} lies beside files of other kinds; use a glob, such as *.csv")
    readers: dict[str, Callable[[Path, Sequence[str]], Iterator[Mapping[str, Any]]]]
    texts, others = _columns(files[0])
    readers = {".txt": _text_rows, ".jsonl": partial(_json_rows, texts=texts), ".parquet": _parquet_rows}

    def rows(columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        return chain.from_iterable(readers[file.suffix.lower()](file, columns) for file in files)

    return Records(texts, others, rows, labels=_labels(files[0]))


def _labels(file: Path) -> dict[str, tuple[str, ...]]:
    """The words of label columns, which the `datasets` library writes into a Parquet file's schema."""
    if file.suffix.lower() != ".parquet":
        return {}
    written = (_open_parquet(file).schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    return label_words(json.loads(written).get("info", {}).get("features", {}))


def _columns(file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if file.suffix.lower() == ".txt":
        return ("text",), ()
    if file.suffix.lower() == ".parquet":
        return _parquet_columns(file)
    first = next(_json_rows(file, ()), None)
    if first is None:
        raise DataError("dataset", f"{file} is empty")
    return column_kinds(first)


def _text_rows(file: Path, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """One document, or those between lines that hold nothing but the separator."""
    lines: list[str] = []
    try:
        with file.open(encoding="utf-8") as stream:
            for line in stream:
                if line.strip() == SEPARATOR:
                    yield {"text": "".join(lines).strip()}
                    lines = []
                else:
                    lines.append(line)
    except UnicodeDecodeError as error:
        raise DataError("dataset", f"{file} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if text := "".join(lines).strip():
        yield {"text": text}


def _json_rows(file: Path, columns: Sequence[str], texts: Sequence[str] = ()) -> Iterator[Mapping[str, Any]]:
    """One object a line; blank lines are skipped. What is text in the first one must be text in all."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError("dataset", f"{file}:{number} is not JSON: {error}") from error
            missing = "a JSON object" if not isinstance(row, dict) else next((c for c in columns if c not in row), None)
            if missing:
                raise DataError(
                    "dataset", f"{file}:{number} has no {missing}; every line is one object with the same columns"
                )
            bad = next((c for c in columns if c in texts and not isinstance(row[c], str | None)), None)
            if bad:
                raise DataError("dataset", f"{file}:{number} holds no text in {bad!r}")
            yield row


def _parquet_columns(file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    import pyarrow

    types = pyarrow.types
    schema = _open_parquet(file).schema_arrow
    return split_kinds(
        (field.name, types.is_string(field.type) or types.is_large_string(field.type)) for field in schema
    )


def _parquet_rows(file: Path, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    opened = _open_parquet(file)
    for column in columns:
        if column not in opened.schema_arrow.names:
            raise DataError("dataset", f"{file} has no column {column!r}, which the first file has")
    for batch in opened.iter_batches(batch_size=1024, columns=list(columns)):
        yield from batch.to_pylist()


def _open_parquet(file: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise DataError("dataset", f"{file} is not a Parquet file: {error}") from error
