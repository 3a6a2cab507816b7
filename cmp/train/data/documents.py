"""From the `dataset` setting to documents: what it names, what identifies it, and its texts. Called by `cache`.

Built-in names come first (`pydoc`, `openwebtext`, `glue`, `glue/<task>`), then local files, folders and globs, then the
hub (`owner/name`, with `@revision` to pin it).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cmp.space.hub_names import HUB_NAMES, commit_of, hub_data_set
from cmp.space.settings import TrialSettings
from cmp.train.data import hub, local
from cmp.train.data.columns import GLUE, GLUE_SINGLES, Document, Reading, Records, choose_reading
from cmp.train.data.errors import DataError
from cmp.train.data.rows import Layout

ROW_SETTINGS = (
    "context_column", "prompt_column", "answer_column", "answer_choices", "prompt_template", "chat_template",
)  # fmt: skip
"""What rows are read and written by, of the settings."""
HELD_OUT_PART = 10  # with a limit, one in this many documents comes from each split that a data set holds out itself


@dataclass(frozen=True)
class Split:
    """Documents of one split, to be read once from the beginning; `total` is None where only reading them tells."""

    documents: Callable[[], Iterator[Document]]
    total: int | None


@dataclass(frozen=True)
class Documents:
    """What `dataset` names, opened.

    Args:
        splits: "train", and "validation" and "test" where the data set has its own.
        layout: of rows of context, prompt and answers; None where documents are plain texts.
        choices: the answers there are, of a classification.
        revision: the hub's commit, where known.
    """

    splits: dict[str, Split]
    layout: Layout | None = None
    choices: tuple[str, ...] = ()
    revision: str | None = None


def data_identity(settings: TrialSettings) -> dict[str, Any]:
    """What tells two texts apart, without reading them: JSON-able, part of the cache's fingerprint.

    Local files are known by path, size and time of change; hub data by id and requested revision (what it stood for is
    kept in the cache, so that a search is not changed by somebody's upload); the built-in text by its hash.

    Raises:
        DataError: a local file is missing.
    """
    dataset = settings.dataset
    asked: dict[str, Any] = {"config": settings.dataset_config, "abbrev_len": settings.abbrev_len}
    asked |= {name: getattr(settings, name) for name in ("text_column", *ROW_SETTINGS)}
    if dataset == "pydoc":
        from cmp.model import pydoc

        return asked | {"pydoc": pydoc.documents_fingerprint()}
    if not _is_local(dataset):
        return asked | {"hub": dataset}
    path = Path(dataset).expanduser()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else local.find_files(dataset)
    facts = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return asked | {"files": facts, "root": str(path.absolute())}


def open_documents(settings: TrialSettings) -> Documents:
    """Open what `dataset` names; nothing is read yet but what tells its columns.

    Raises:
        DataError: it does not exist, cannot be reached or read, or has no such column.
    """
    dataset = settings.dataset
    if dataset == "pydoc":
        from cmp.model import pydoc

        texts = {str(name): pydoc.documents(name) for name in pydoc.SPLITS}
        if settings.context_column is not None:
            raise DataError("context_column", "pydoc is plain text and has no columns")
        splits = {name: Split(some.__iter__, len(some)) for name, some in texts.items()}
        return Documents(_limited(splits, settings))
    if _is_local(dataset):
        return _documents(_local_records(settings), settings, _local_task(settings), None)
    name, config, revision = _hub_name(settings)
    revision = hub.hub_revision(name, revision) or commit_of(dataset)
    records = hub.load_hub(name, config, revision, settings.abbrev_len)
    return _documents(records, settings, config if name == HUB_NAMES["glue"] else None, revision)


def _documents(
    records: dict[str, Records], settings: TrialSettings, task: str | None, revision: str | None
) -> Documents:
    reading = choose_reading(records["train"], settings, task)
    splits = {name: _split(rows, reading) for name, rows in records.items() if name != "test" or reading.suits(rows)}
    return Documents(_limited(splits, settings), reading.layout, reading.choices, revision)


def _split(records: Records, reading: Reading) -> Split:
    return Split(lambda: reading.documents(records), records.total)


def _limited(splits: dict[str, Split], settings: TrialSettings) -> dict[str, Split]:
    """At most `abbrev_len` documents in all, a tenth of them from each held-out split; reading stops there."""
    if settings.abbrev_len is None:
        return splits
    held_out = max(1, settings.abbrev_len // HELD_OUT_PART)
    limits = {name: held_out for name in splits if name != "train"}
    limits["train"] = max(0, settings.abbrev_len - sum(limits.values()))
    return {name: _first(split, limits[name]) for name, split in splits.items()}


def _first(split: Split, limit: int) -> Split:
    return Split(lambda: islice(split.documents(), limit), limit if split.total is None else min(limit, split.total))


def _is_local(dataset: str) -> bool:
    """Whether it is a path: it exists, has wildcards, or is written like one."""
    if dataset in HUB_NAMES or dataset.startswith("glue/"):
        return False
    path = Path(dataset).expanduser()
    written_like_a_path = dataset.startswith((".", "/", "~")) or path.suffix.lower() in local.SUFFIXES
    return written_like_a_path or local.is_glob(dataset) or path.exists() or dataset.count("/") > 1


def _local_records(settings: TrialSettings) -> dict[str, Records]:
    dataset = settings.dataset
    path = Path(dataset).expanduser()
    if not local.is_glob(dataset) and not path.exists():
        raise DataError("dataset", f"{dataset}: no such file or folder")
    if path.is_dir() and hub.is_saved_dataset(path):
        return hub.load_saved(path)
    files = local.find_files(dataset)
    if path.is_dir() and (not files or settings.dataset_config or _has_configurations(path)):
        return hub.load_folder(path, settings.dataset_config, settings.abbrev_len)
    groups = local.group_by_split(files, path if path.is_dir() else Path())
    if all(file.suffix.lower() == ".csv" for file in files):
        return hub.load_csv(groups)
    return {name: local.read_files(group) for name, group in groups.items()}


def _has_configurations(folder: Path) -> bool:
    """Whether the folder's README says which files are which split, as the hub's data sets do."""
    readme = folder / "README.md"
    return (
        readme.is_file() and "\nconfigs:" in readme.read_text(encoding="utf-8", errors="replace").partition("\n---")[0]
    )


def _local_task(settings: TrialSettings) -> str | None:
    """The GLUE task that a local folder or `dataset_config` names."""
    names = (settings.dataset_config, *reversed(Path(settings.dataset).parts))
    return next((name for name in names if name in GLUE), None)


def _hub_name(settings: TrialSettings) -> tuple[str, str | None, str | None]:
    """Hub id, configuration and revision.

    Raises:
        DataError: an unknown GLUE task, or one whose single sentences have nothing that follows them.
    """
    dataset, _, revision = settings.dataset.partition("@")
    if dataset != "glue" and not dataset.startswith("glue/"):
        return hub_data_set(dataset), settings.dataset_config, revision or None
    task = dataset.removeprefix("glue").strip("/") or settings.dataset_config or "mrpc"
    known = ", ".join(GLUE)
    if task in GLUE_SINGLES and not settings.rmb_only and settings.answer_column is None:
        raise DataError(
            "dataset",
            f"glue/{task} has single sentences, so nothing follows a context; set rmb_only, "
            f"name an answer_column, or use one of {known}",
        )
    if task not in GLUE and task not in GLUE_SINGLES:
        raise DataError("dataset", f"glue has no task {task!r}; use one of {known}, {', '.join(GLUE_SINGLES)}")
    return HUB_NAMES["glue"], task, revision or None
