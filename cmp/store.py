"""What must survive a crash, on a disk or on an object store. The ground of all floors, with `objects` below it.

On a disk: written to a temporary name, fsynced, renamed. On a store (`objects.ObjectStore`): whole objects. Either way
a reader sees the old content or the new, never a mixture. A `Twin` is a folder on this disk whose files are sent to a
store, where there is one.
"""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from cmp.objects import BRIEF_SECONDS, PATIENCE_SECONDS, NoObjectError, ObjectStore, StoreError, is_url

_CURRENT = "current"
_FOLDER_TRIES = 5


def sync(path: Path) -> None:
    """Flush a file, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; rename it to `path` when the block succeeds, remove it when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")  # process ids are the same in every container
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder, then swap it for `folder`.

    POSIX cannot rename onto a folder with content, so the old one steps aside for an instant; `restore_folder` undoes a
    crash in that instant.
    """
    new, old = folder.with_name(f".{folder.name}.{uuid4().hex}.new"), folder.with_name(f".{folder.name}.old")
    restore_folder(folder)
    try:
        write(new)
        for path in new.iterdir():
            sync(path)
        sync(new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(folder: Path) -> None:
    """Finish or undo a `replace_folder` that a crash cut short."""
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    for left in [*folder.parent.glob(f".{folder.name}.*.new"), old]:
        shutil.rmtree(left, ignore_errors=True)


def is_disk_full(error: BaseException) -> bool:
    """No space or no quota left; safetensors (Rust) and Ray Tune leave only the message of the error."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or "Disk quota exceeded" in str(error)


@contextlib.contextmanager
def failed_write_tolerated(log: Callable[[str], None], what: str) -> Iterator[None]:
    """Where the disk is full or the store is away, say so in one line and go on with the last good state."""
    try:
        yield
    except Exception as error:
        if not (is_disk_full(error) or isinstance(error, StoreError)):
            raise
        reason = str(error) if isinstance(error, StoreError) else "disk full"
        log(f"{reason}: {what} was not written; the last good one is kept")


@dataclass(frozen=True)
class Twin:
    """A folder on this disk, and its counterpart on an object store; where there is none, all here does nothing.

    Writers write to the disk first, as ever, and then send; readers fetch what is missing and read the disk.
    """

    path: Path
    url: str | None = None
    patience_seconds: float = PATIENCE_SECONDS

    def __truediv__(self, name: str) -> "Twin":
        return Twin(self.path / name, None if self.url is None else f"{self.url}/{name}", self.patience_seconds)

    @property
    def briefly(self) -> "Twin":
        """The same for who would rather fail than wait for a store that is away."""
        return replace(self, patience_seconds=BRIEF_SECONDS)

    @property
    def store(self) -> ObjectStore | None:
        """The counterpart."""
        return None if self.url is None else ObjectStore(self.url, patience_seconds=self.patience_seconds)

    def names(self) -> list[str]:
        """What the counterpart holds."""
        return [] if self.store is None else self.store.list()

    def send(self, name: str) -> None:
        """Put a file there."""
        if self.store is not None:
            self.store.put(name, (self.path / name).read_bytes())

    def send_once(self, name: str) -> None:
        """Put a file there unless there is one, which then replaces the one here: whoever comes first is right."""
        if self.store is not None and not self.store.create_once(name, (self.path / name).read_bytes()):
            self._write(name, self.store.get(name))

    def fetch(self, name: str) -> None:
        """Get a file that is only there."""
        if self.store is not None and not (self.path / name).exists():
            with contextlib.suppress(NoObjectError):
                self._write(name, self.store.get(name))

    def drop(self, names: Iterable[str]) -> None:
        """Delete files there."""
        if self.store is not None:
            self.store.delete(names)

    def send_folder(self, version: str, source: Path | None = None) -> None:
        """Put the files of the whole folder below `url/version/`, then let `url/current` name the version and them.

        A reader gets all files of one version. The version before stays for readers that are in the midst of it.

        Args:
            version: one word.
            source: read instead of the folder, such as a copy of it.
        """
        if self.store is None:
            return
        store = self.store
        paths = sorted((source or self.path).iterdir())
        for path in paths:
            store.put(f"{version}/{path.name}", path.read_bytes())
        try:
            before = store.get(_CURRENT).decode().split("\n")[0]
        except NoObjectError:
            before = version
        store.put(_CURRENT, "\n".join([version, *(path.name for path in paths)]).encode())
        store.delete(name for name in store.list() if name != _CURRENT and name.split("/")[0] not in (version, before))

    def _write(self, name: str, content: bytes) -> None:
        with replacing(self.path / name) as temporary:
            temporary.write_bytes(content)


@contextlib.contextmanager
def local_folder(place: str | Path) -> Iterator[Path]:
    """A folder that can be read: the one that is named, or a copy of what `Twin.send_folder` or anybody put at a URL.

    The copy vanishes with the block. It is missing where there is nothing at the URL, as a folder would be.
    """
    if not is_url(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="cmp-") as temporary:
        copy = Path(temporary) / "copy"
        fetch_folder(str(place), copy)
        yield copy


def fetch_folder(url: str, target: Path) -> None:
    """Get all files of the current version, or those that lie at the URL itself where no version is named."""
    store = ObjectStore(url, patience_seconds=BRIEF_SECONDS)
    for tries_left in reversed(range(_FOLDER_TRIES)):
        names = _names_now(store)
        try:
            contents = store.get_all(names)
        except NoObjectError:  # two versions came meanwhile
            if not tries_left:
                raise
            continue
        for name, content in zip(names, contents, strict=True):
            target.mkdir(parents=True, exist_ok=True)
            (target / name.rpartition("/")[2]).write_bytes(content)
        return


def _names_now(store: ObjectStore) -> list[str]:
    try:
        version, *files = store.get(_CURRENT).decode().split("\n")
    except NoObjectError:
        return [name for name in store.list() if "/" not in name]
    return [f"{version}/{file}" for file in files]
