"""The journal: what happened in a search, one JSON line per event, appended and fsynced before anything follows.

The search's ledger appends; everything else reads. A line is an event only once its newline is on the disk, so a
torn last line never happened. Anything else that cannot be read is corruption, and named.

Where the file system has no locks, two searches may have the same journal open. So every append is fenced: it happens
only where the last one of the same writer ended. Of two writers the later one to open the journal goes on, the other
stops at its next event, before that has any effect.
"""

import errno
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cmp.space.errors import UserError
from cmp.store import sync

logger = logging.getLogger(__name__)

Event = dict[str, Any]

# What passes: a disk that is full, a file server that was started again.
_WAITING_FOR = {
    errno.ENOSPC: "the disk is full; waiting for space",
    errno.EDQUOT: "the disk is full; waiting for space",
    errno.ESTALE: "the file server has lost track of the file; trying again",
}
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 2.0


class JournalError(UserError):
    """The journal cannot be read or written; the message names the file and the line or the cause."""


class AnotherWriterError(JournalError):
    """Somebody else has written to the journal since this writer's last event; this writer must write no more."""

    def __init__(self, path: Path | str, found: str) -> None:
        remedy = "end the other search, or use another exp_name; what it wrote is kept"
        super().__init__(None, f"{path}: another process writes to this journal, too ({found}); {remedy}")


def read_events(path: Path) -> list[Event]:
    """All complete events; a torn last line is left out, a missing file has none.

    Raises:
        JournalError: a line before the last one is not an event.
    """
    return list(each_event(path))


def each_event(path: Path) -> Iterator[Event]:
    """The same one after the other: a long search has hundreds of thousands."""
    return (event for event, _ in _parse(path))


class JournalReader:
    """Reads a journal while another thread or process writes it, each event once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0

    def news(self) -> Iterator[Event]:
        """The events that were completed since the last one that this gave.

        Raises:
            JournalError: as `read_events`.
        """
        for event, size in _parse(self._path, self._size):
            self._size = size
            yield event


class Journal:
    """The writing end. Opening it cuts off a torn last line, so that the next event starts on a line of its own.

    Args:
        path: the file; it and its folder are created when missing.
        replay: called with every event that is there, in order, before anything is changed.
        patience_seconds: how long a full disk is waited for before an append fails.
        pause: how to wait, in seconds; replaced in tests.

    Raises:
        JournalError: a line before the last one is not an event, or `replay` cannot make sense of one.
    """

    def __init__(
        self,
        path: Path,
        *,
        replay: Callable[[Event], None] = lambda event: None,
        patience_seconds: float = _PATIENCE_SECONDS,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = path
        self._patience_seconds = patience_seconds
        self._pause = pause
        self._closed = False
        self.length = self._size = 0
        for event, self._size in _parse(path):
            self.length += 1
            self._replay(replay, event)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
            self._cut_torn_end(descriptor)
        sync(path.parent)

    def append(self, event: Mapping[str, Any]) -> Event:
        """Write one event and wait until it is on the disk; a failed append leaves no trace of itself.

        Returns:
            The event as a reader will see it: plain JSON, non-finite numbers as None.

        Raises:
            AnotherWriterError: the journal does not end where this writer's last event did.
            JournalError: the disk stayed full, or the file cannot be written.
        """
        if self._closed:
            raise ValueError(f"{self.path} was closed")
        written = plain(event)
        line = event_line(written)
        self._append_patiently(line)
        self._size += len(line)
        self.length += 1
        return written

    def read(self) -> Iterator[Event]:
        """Everything in it, from the disk."""
        return each_event(self.path)

    def close(self) -> None:
        """Write no more; the journal can be opened again."""
        self._closed = True

    def _replay(self, replay: Callable[[Event], None], event: Event) -> None:
        try:
            replay(event)
        except (KeyError, TypeError, ValueError) as error:
            message = f"{self.path}:{self.length}: does not fit what comes before it: {error!r}"
            raise JournalError(None, f"{message}; restore the file or start over with --fresh") from error

    def _append_patiently(self, line: bytes) -> None:
        waited_seconds = 0.0
        while True:
            try:
                return self._append_once(line)
            except OSError as error:
                may_pass = error.errno in _WAITING_FOR and waited_seconds < self._patience_seconds
                if not may_pass:
                    message = f"{self.path}: cannot write event {self.length + 1}: {error.strerror}"
                    raise JournalError(None, message) from error
                if waited_seconds == 0.0:
                    logger.warning("%s: %s", self.path, _WAITING_FOR[error.errno or 0])
            self._pause(_PAUSE_SECONDS)
            waited_seconds += _PAUSE_SECONDS

    def _append_once(self, line: bytes) -> None:
        """Write the line where this writer's last one ended, and nowhere else.

        The file is opened for each event: only then do network file systems show what other machines have written.
        """
        with _opened(self.path, os.O_RDWR | os.O_APPEND) as descriptor:
            _cut_remains(descriptor, self._size, line)
            if (size := os.fstat(descriptor).st_size) != self._size:
                raise AnotherWriterError(self.path, f"it has {size} bytes, this search left {self._size}")
            try:
                _write_all(descriptor, line)
                os.fsync(descriptor)
            except OSError:
                _cut_remains(descriptor, self._size, line)
                raise
        with _opened(self.path, os.O_RDWR) as descriptor:
            if os.pread(descriptor, len(line), self._size) != line:
                _withdraw(descriptor, line)
                raise AnotherWriterError(self.path, "it wrote at the same moment")

    def _cut_torn_end(self, descriptor: int) -> None:
        torn_bytes = os.fstat(descriptor).st_size - self._size
        if torn_bytes <= 0:
            return
        os.ftruncate(descriptor, self._size)
        os.fsync(descriptor)
        logger.warning("%s: cut off a torn last line of %d bytes", self.path, torn_bytes)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _cut_remains(descriptor: int, size: int, line: bytes) -> None:
    """Take back what an append of `line` that failed has left after the first `size` bytes."""
    tail = os.pread(descriptor, len(line) + 1, size)
    if tail and line.startswith(tail):
        os.ftruncate(descriptor, size)


def _withdraw(descriptor: int, line: bytes) -> None:
    """Take back a line that came second, where it is still the last."""
    start = os.fstat(descriptor).st_size - len(line)
    if start >= 0 and os.pread(descriptor, len(line), start) == line:
        os.ftruncate(descriptor, start)
        os.fsync(descriptor)


def event_line(event: Mapping[str, Any]) -> bytes:
    """An event as it stands in the journal."""
    return json.dumps(plain(event), allow_nan=False, separators=(",", ":")).encode() + b"\n"


def plain(value: Any) -> Any:
    """The same value as JSON gives it back: dicts, lists, and None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _write_all(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]


def _parse(path: Path, size: int = 0) -> Iterator[tuple[Event, int]]:
    """The events behind `size` bytes, each with the bytes up to its end; what follows the last is a torn last line."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    unreadable: bytes | None = None
    with file:
        file.seek(size)
        for number, line in enumerate(file, start=1):
            if unreadable is not None:
                message = f"{path}:{number - 1}: not a journal event: {unreadable[:60]!r}"
                raise JournalError(None, f"{message}; restore the file or start over with --fresh")
            if not line.endswith(b"\n"):  # torn, or being written at this moment
                return
            event = _parse_line(line)
            if event is None:
                unreadable = line
                continue
            size += len(line)
            yield event, size


def _parse_line(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None
