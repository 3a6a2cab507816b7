"""What a person asks of a search that runs elsewhere: files in its results folder, or objects beside its results.

`search.py --stop-trial` asks; the search looks now and then, journals what it found, and only then takes it away, so
that nothing that was asked is lost.
"""

import re
from pathlib import Path

from cmp.objects import ObjectStore
from cmp.results.folder import ResultsFolder

_FOLDER = "requests"


def ask_to_stop(folder: ResultsFolder, number: int) -> None:
    """Ask for the end of a trial.

    Raises:
        OSError, StoreError: it could not be written.
    """
    if folder.url is not None:
        ObjectStore(folder.url).put(f"{_FOLDER}/{_name(number)}", b"")
        return
    path = _path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / _name(number)).touch()


def asked_to_stop(folder: ResultsFolder) -> list[int]:
    """The trials whose end was asked for and that nobody has answered yet.

    Raises:
        StoreError: the store is away.
    """
    if folder.url is not None:
        names = [name.rpartition("/")[2] for name in ObjectStore(folder.url).briefly().list(_FOLDER)]
    else:
        names = [path.name for path in _path(folder).glob("stop-*")]
    return sorted(int(name[5:]) for name in names if re.fullmatch(r"stop-\d+", name))


def take_away(folder: ResultsFolder, number: int) -> None:
    """Forget a request that is in the journal."""
    if folder.url is not None:
        ObjectStore(folder.url).briefly().delete([f"{_FOLDER}/{_name(number)}"])
    else:
        (_path(folder) / _name(number)).unlink(missing_ok=True)


def _path(folder: ResultsFolder) -> Path:
    return folder.path / f".{_FOLDER}"


def _name(number: int) -> str:
    return f"stop-{number:04d}"
