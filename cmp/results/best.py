"""`best/` and `front/<positions>/`: copies of trials' best compressors, replaced as a whole when a better one comes.

`search.json` in each says where it comes from, and whether the search had ended: a partial search names no final best.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cmp.store import replace_folder, write_json, write_text

NOTE = "search.json"
CONFIG, CARD = "config.json", "README.md"
_COPY_TRIES = 5
_COPY_PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class BestNote:
    """Where a copy comes from. `partial` until the search has completed.

    Its vectors are the first `n_cmps` of each piece, where a nested trial stands at this price with a part of them.
    """

    trial: int
    epoch: int
    val_loss: float
    partial: bool
    settings: dict[str, Any]
    positions: int | None = None
    n_cmps: int | None = None


class OlderWeightsError(OSError):
    """The trial's folder holds weights of an earlier epoch than its best one: these could not be written, or seen."""


def read_note(best: Path) -> BestNote | None:
    """The note in a best/ folder; None when there is none that can be read."""
    try:
        return BestNote(**json.loads((best / NOTE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_note(best: Path, note: BestNote) -> None:
    """Replace the note."""
    write_json(best / NOTE, asdict(note))


def replace_best(
    best: Path,
    source: Path,
    note: BestNote,
    *,
    linked: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Make `best` a copy of the folder `source` with this note.

    The new folder is complete and on the disk before it takes the old one's name, so a crash leaves the old one, the
    new one, or for an instant none, never a mixture; the next start copies again where none is left. `source` may
    itself be replaced by its trial meanwhile: the copy follows the folder that it opened, and starts again if that one
    vanishes. With `linked` files are shared with the source where the file system can: trials replace theirs as a
    whole, so a shared one never changes. The note says what the copied weights are: a later epoch, whose report is on
    its way, is better.

    Raises:
        OlderWeightsError: the source's weights are of an earlier epoch than the note says.
        OSError: the source cannot be read, or there is no space.
    """
    _require_epoch(source, note)

    def write(fresh: Path) -> None:
        _copy_patiently(source, fresh, linked, pause)
        held = _require_epoch(fresh, note)
        if note.n_cmps is not None:
            _use_prefix(fresh, note.n_cmps, note.val_loss)
        write_note(fresh, held)

    best.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(best, write)


def _use_prefix(folder: Path, n_cmps: int, val_loss: float) -> None:
    """Let the compressor in a folder make a part of its vectors unless it is asked for another number."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    write_json(folder / CONFIG, {**config, "n_cmps": n_cmps})
    card = folder / CARD
    if card.exists():
        words = f"This copy makes the first {n_cmps} of each piece's vectors unless asked for another number; its "
        words += f"val_loss is {val_loss:.4f}."
        write_text(card, f"{card.read_text(encoding='utf-8')}\n## A part of the vectors\n\n{words}\n")


def _require_epoch(folder: Path, note: BestNote) -> BestNote:
    """The note of the weights that are there, as their own config says; nothing is known of a folder without one."""
    try:
        metrics = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["origin"]["metrics"]
        epoch, val_loss = int(metrics["epoch"]), float(metrics["val_loss"])
    except (OSError, ValueError, KeyError, TypeError):
        return note
    if epoch < note.epoch:
        raise OlderWeightsError(f"{folder} holds epoch {epoch} of trial {note.trial}; epoch {note.epoch} was better")
    if epoch == note.epoch:
        return note
    return replace(note, epoch=epoch, val_loss=val_loss if note.n_cmps is None else note.val_loss)


def _copy_patiently(source: Path, target: Path, linked: bool, pause: Callable[[float], None]) -> None:
    for tries_left in reversed(range(_COPY_TRIES)):
        try:
            copy_folder(source, target, linked=linked)
        except FileNotFoundError:
            shutil.rmtree(target, ignore_errors=True)
            if tries_left == 0:
                raise
            pause(_COPY_PAUSE_SECONDS)
        else:
            return


def copy_folder(source: Path, target: Path, *, linked: bool = False) -> None:
    """Copy or link the files of one folder (no subfolders), all from the folder that had the name at the start."""
    target.mkdir()
    folder = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in os.listdir(folder):  # noqa: PTH208 (the opened folder, whatever has its name by now)
            if linked and _linked(name, folder, target / name):
                continue
            reader = os.open(name, os.O_RDONLY, dir_fd=folder)
            with os.fdopen(reader, "rb") as file, (target / name).open("wb") as copy:
                shutil.copyfileobj(file, copy)
    finally:
        os.close(folder)


def _linked(name: str, folder: int, target: Path) -> bool:
    """Give a file of an opened folder another name; False where the file system cannot."""
    try:
        os.link(name, target, src_dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True
