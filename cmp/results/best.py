"""`best/`: a copy of the best trial's best compressor, replaced as a whole whenever a better one is reported.

`best/search.json` says where it comes from, and whether the search had ended: a partial search names no final best.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cmp.store import replace_folder, write_json

NOTE = "search.json"
_COPY_TRIES = 5
_COPY_PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class BestNote:
    """Where a best/ comes from. `partial` until the search has completed."""

    trial: int
    epoch: int
    val_loss: float
    partial: bool
    settings: dict[str, Any]


def read_note(best: Path) -> BestNote | None:
    """The note in a best/ folder; None when there is none that can be read."""
    try:
        return BestNote(**json.loads((best / NOTE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_note(best: Path, note: BestNote) -> None:
    """Replace the note."""
    write_json(best / NOTE, asdict(note))


def replace_best(best: Path, source: Path, note: BestNote, *, pause: Callable[[float], None] = time.sleep) -> None:
    """Make `best` a copy of the folder `source` with this note.

    The new folder is complete and on the disk before it takes the old one's name, so a crash leaves the old one, the
    new one, or for an instant none, never a mixture; the next start copies again where none is left. `source` may
    itself be replaced by its trial meanwhile: the copy follows the folder that it opened, and starts again if that one
    vanishes.

    Raises:
        OSError: the source cannot be read, or there is no space.
    """

    def write(fresh: Path) -> None:
        _copy_patiently(source, fresh, pause)
        write_note(fresh, note)

    replace_folder(best, write)


def _copy_patiently(source: Path, target: Path, pause: Callable[[float], None]) -> None:
    for tries_left in reversed(range(_COPY_TRIES)):
        try:
            copy_folder(source, target)
        except FileNotFoundError:
            shutil.rmtree(target, ignore_errors=True)
            if tries_left == 0:
                raise
            pause(_COPY_PAUSE_SECONDS)
        else:
            return


def copy_folder(source: Path, target: Path) -> None:
    """Copy the files of one folder (no subfolders), all from the folder that had the name at the start."""
    target.mkdir()
    folder = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in os.listdir(folder):  # noqa: PTH208 (the opened folder, whatever has its name by now)
            reader = os.open(name, os.O_RDONLY, dir_fd=folder)
            with os.fdopen(reader, "rb") as file, (target / name).open("wb") as copy:
                shutil.copyfileobj(file, copy)
    finally:
        os.close(folder)
