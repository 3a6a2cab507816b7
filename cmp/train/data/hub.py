"""Data sets through the `datasets` library: the hub, `save_to_disk` folders, folders in the hub's layout.

Called by `documents`. With a limit, hub data are streamed, so that only the rows that are used are ever downloaded: not
the first ones, which are often of one kind or one time, but a seeded choice of somewhat more.
"""

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmp.train.data.columns import Records, column_kinds, label_words, split_kinds
from cmp.train.data.errors import DataError

HUB_TIMEOUT_SECONDS = 10
VALIDATION_NAMES = ("validation", "valid", "val", "dev", "validation_matched")
TEST_NAMES = ("test", "test_matched")
# Of a limited stream, documents are drawn from a buffer of this many times the limit, and files in a seeded order.
BUFFER_FACTOR, LARGEST_BUFFER = 10, 10_000
BUFFER_SEED = 0  # not the trial's: trials with different seeds are trained on the same documents


def is_saved_dataset(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote it."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def load_saved(folder: Path) -> dict[str, Records]:
    """Splits of a folder written by `save_to_disk`; a single data set is {"train": ...}."""
    datasets = _datasets()
    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise DataError("dataset", f"{folder} was written by save_to_disk but cannot be read: {error}") from error
    return _named_splits(loaded if isinstance(loaded, dict) else {"train": loaded}, str(folder))


def load_folder(folder: Path, config: str | None, limit: int | None) -> dict[str, Records]:
    """Splits of a folder in the hub's layout, whatever files and configurations it has; `limit` as in `load_hub`."""
    return _load(str(folder), str(folder), config, revision=None, streaming=True, limit=limit)


def load_csv(files: Mapping[str, Sequence[Path]]) -> dict[str, Records]:
    """Splits of .csv files, by split; each begins with the names of its columns."""
    datasets, names = _datasets(), {split: [str(file) for file in some] for split, some in files.items()}
    where = ", ".join(names[next(iter(names))][:3])
    try:
        return _named_splits(datasets.load_dataset("csv", data_files=names, streaming=True), where)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError("dataset", f"{where} cannot be read as CSV: {error}") from error


def load_hub(name: str, config: str | None, revision: str | None, limit: int | None) -> dict[str, Records]:
    """Splits of a data set on the hub.

    Args:
        name: hub id.
        config: its configuration.
        revision: commit, branch or tag.
        limit: documents that are wanted at most: stream it, shuffled. None downloads it whole into the hub's cache.
    """
    return _load(name, f"{name} on the hub", config, revision, streaming=limit is not None, limit=limit)


def hub_revision(name: str, revision: str | None) -> str | None:
    """The commit that a hub data set stands at; None where the hub is unreachable but the data were downloaded before.

    Asked first because it answers at once, where `load_dataset` would retry an unreachable hub for half a minute.

    Raises:
        DataError: no such data set, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        sha: str | None = HfApi().dataset_info(name, revision=revision, timeout=HUB_TIMEOUT_SECONDS).sha
        return sha
    except GatedRepoError as error:
        raise DataError(
            "dataset", f"{name} is gated: accept its terms on huggingface.co and run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise DataError("dataset", f"{name} has no revision {revision!r} on the hub") from error
    except RepositoryNotFoundError as error:
        raise DataError(
            "dataset",
            f"{name} is neither a local file or folder nor a data set on the hub (a private one needs `hf auth login`)",
        ) from error
    except Exception as error:  # the hub's client raises its HTTP library's own errors, which have no common base
        if _was_downloaded(name):
            return None
        raise DataError(
            "dataset", f"the hub cannot be reached for {name} ({error}); check the network or use local files"
        ) from error


def _was_downloaded(name: str) -> bool:
    return (Path(_datasets().config.HF_DATASETS_CACHE) / name.replace("/", "___")).is_dir()


def _load(
    path: str, where: str, config: str | None, revision: str | None, *, streaming: bool, limit: int | None
) -> dict[str, Records]:
    datasets = _datasets()
    try:
        loaded = datasets.load_dataset(path, config, revision=revision, streaming=streaming)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        setting = "dataset_config" if "config" in str(error).lower() else "dataset"
        raise DataError(setting, f"{where} cannot be loaded: {error}") from error
    if limit is not None:
        buffer_size = min(LARGEST_BUFFER, BUFFER_FACTOR * limit)
        loaded = {name: split.shuffle(seed=BUFFER_SEED, buffer_size=buffer_size) for name, split in loaded.items()}
    return _named_splits(loaded, where)


def _datasets() -> Any:
    """The library, loaded only where it is used, without its own progress bars."""
    datasets = importlib.import_module("datasets")
    datasets.disable_progress_bars()
    return datasets


def _named_splits(loaded: Mapping[str, Any], where: str) -> dict[str, Records]:
    """The training split, and the validation and test splits where there are any; others are left out."""
    if len(loaded) == 1:
        return {"train": _records(next(iter(loaded.values())), where)}
    if "train" not in loaded:
        raise DataError("dataset", f"{where} has no train split, only {', '.join(loaded)}")
    names = {"train": ("train",), "validation": VALIDATION_NAMES, "test": TEST_NAMES}
    found = {split: next((name for name in some if name in loaded), None) for split, some in names.items()}
    return {split: _records(loaded[name], where) for split, name in found.items() if name is not None}


def _records(split: Any, where: str) -> Records:
    texts, others = _columns(split, where)

    def rows(columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        return _reported(split.select_columns(list(columns)), where)

    total = len(split) if hasattr(split, "__len__") else None
    return Records(texts, others, rows, total, label_words(split.features.to_dict() if split.features else {}))


def _columns(split: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if split.features is None:  # streamed data without a schema
        first = next(_reported(split, where), None)
        if first is None:
            raise DataError("dataset", f"{where} is empty")
        return column_kinds(first)
    return split_kinds(
        (name, getattr(kind, "dtype", None) in ("string", "large_string")) for name, kind in split.features.items()
    )


def _reported(rows: Iterable[Mapping[str, Any]], where: str) -> Iterator[Mapping[str, Any]]:
    """The rows; a network or file that fails half-way becomes an error of ours."""
    try:
        yield from rows
    except (OSError, ValueError) as error:
        raise DataError("dataset", f"{where} could not be read to its end: {error}") from error
