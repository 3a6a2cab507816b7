"""Views of a search on an object store: written to this disk as ever, and put there whenever they have changed.

Started by `search`. A thread does it, and what fails is tried again: no view holds a search up.
"""

import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cmp.objects import ObjectStore, StoreError
from cmp.results.best import copy_folder, read_note
from cmp.results.folder import ResultsFolder

logger = logging.getLogger(__name__)

EVERY_SECONDS = 30.0

_Signature = tuple[int, int]

# Trials put their own files; best/ and the front's folders are put as a whole; the journal is on the store before it is
# here.
_NOT_VIEWS = {"trials", "bounds", "best", "front", "journal.jsonl"}
# A database that a later session on another machine goes on with.
_CONTINUED = ("mlflow.db",)


@contextmanager
def mirrored(folder: ResultsFolder) -> Iterator[None]:
    """Keep the store's views up to date during a block and once more at its end; nothing to do on a disk."""
    if folder.url is None:
        yield
        return
    for name in _CONTINUED:
        folder.home.fetch(name)
    mirror = _Mirror(folder)
    over = threading.Event()
    thread = threading.Thread(target=mirror.work, args=(over,), name="mirror", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        mirror.send_changed(journal=True)


class _Mirror:
    """Remembers what it has put."""

    def __init__(self, folder: ResultsFolder) -> None:
        self._folder = folder
        self._sent: dict[str, _Signature] = {}
        self._sent_compressors: dict[str, dict[str, _Signature]] = {}
        self._sent_front: list[str] | None = None

    def work(self, over: threading.Event) -> None:
        """Put what has changed, again and again."""
        while not over.wait(EVERY_SECONDS):
            self.send_changed()

    def send_changed(self, *, journal: bool = False) -> None:
        """Put what has changed since it was put; the journal's copy, which is long, only on request."""
        try:
            for name, signature in self._views(journal):
                if self._sent.get(name) != signature:
                    self._folder.home.briefly.send(name)
                    self._sent[name] = signature
            self._send_compressors()
        except FileNotFoundError:
            return  # replaced at this moment: next time
        except StoreError as error:
            logger.warning("the views on the store are old: %s", error)

    def _views(self, journal: bool) -> Iterator[tuple[str, _Signature]]:
        root = self._folder.path
        for parent, folders, files in os.walk(root):
            top = Path(parent) == root
            folders[:] = [name for name in folders if not name.startswith(".") and not (top and name in _NOT_VIEWS)]
            for name in files:
                if name.startswith(".") or (top and name in _NOT_VIEWS and not (journal and name == "journal.jsonl")):
                    continue
                path = Path(parent) / name
                yield str(path.relative_to(root)), _signature(path)

    def _send_compressors(self) -> None:
        """Put best/ and the front's folders, and remove from the store what is on the front no more."""
        folder = self._folder
        front = sorted(path.name for path in folder.front.glob("[0-9]*"))
        for name in ["best", *(f"front/{price}" for price in front)]:
            path = folder.path / name
            signature = {file.name: _signature(file) for file in path.iterdir()} if path.is_dir() else {}
            if signature != self._sent_compressors.get(name, {}):
                send_compressor(folder, name)
                self._sent_compressors[name] = signature
        if front and front != self._sent_front:  # none at all: it was not worked out here yet
            there = ObjectStore(f"{folder.url}/front").briefly()
            there.delete(name for name in there.list() if name.split("/")[0] not in front)
            self._sent_front = front


def send_compressor(folder: ResultsFolder, name: str = "best") -> None:
    """Put a copy of a compressor as a version of its own: a reader gets the old one or the new one, never a mixture.

    Raises:
        OSError: it was replaced at this moment, or the store does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="cmp-") as temporary:
        copy = Path(temporary) / "copy"
        copy_folder(folder.path / name, copy)
        if (note := read_note(copy)) is not None:
            part = "" if note.n_cmps is None else f"-{note.n_cmps}"
            (folder.home.briefly / name).send_folder(f"{note.trial}-{note.epoch}{part}", copy)


def _signature(path: Path) -> _Signature:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
