"""The journal: what happened in a search, one JSON line per event, appended and fsynced before anything follows.

The search's ledger appends; everything else reads. A line is an event only once its newline is on the disk, so a
torn last line never happened. Anything else that cannot be read is corruption, and named.
"""

import errno
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cmp.space.errors import UserError
from cmp.store import sync

logger = logging.getLogger(__name__)

Event = dict[str, Any]

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_DISK_PATIENCE_SECONDS = 60.0
_FULL_DISK_PAUSE_SECONDS = 2.0


class JournalError(UserError):
    """The journal cannot be read or written; the message names the file and the line or the cause."""


def read_events(path: Path) -> list[Event]:
    """All complete events; a torn last line is left out, a missing file has none.

    Raises:
        JournalError: a line before the last one is not an event.
    """
    return _parse(path)[0]


class Journal:
    """The writing end. Opening it cuts off a torn last line, so that the next event starts on a line of its own.

    Args:
        path: the file; it and its folder are created when missing.
        patience_seconds: how long a full disk is waited for before an append fails.
        pause: how to wait, in seconds; replaced in tests.
    """

    def __init__(
        self,
        path: Path,
        *,
        patience_seconds: float = _FULL_DISK_PATIENCE_SECONDS,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = path
        self._patience_seconds = patience_seconds
        self._pause = pause
        self.events, self._size = _parse(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._cut_torn_end()
        sync(path.parent)

    def append(self, event: Mapping[str, Any]) -> Event:
        """Write one event and wait until it is on the disk; a failed append leaves no trace of itself.

        Returns:
            The event as a reader will see it: plain JSON, non-finite numbers as None.

        Raises:
            JournalError: the disk stayed full, or the file cannot be written.
        """
        written = plain(event)
        line = json.dumps(written, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        waited_seconds = 0.0
        while not self._try_append(line, may_retry=waited_seconds < self._patience_seconds):
            if waited_seconds == 0.0:
                logger.warning("%s: the disk is full; waiting for space", self.path)
            self._pause(_FULL_DISK_PAUSE_SECONDS)
            waited_seconds += _FULL_DISK_PAUSE_SECONDS
        self._size += len(line)
        self.events.append(written)
        return written

    def close(self) -> None:
        """Close the file; the journal can be opened again."""
        os.close(self._descriptor)

    def _try_append(self, line: bytes, *, may_retry: bool) -> bool:
        try:
            _write_all(self._descriptor, line)
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, self._size)
            if error.errno in _DISK_FULL and may_retry:
                return False
            message = f"{self.path}: cannot write event {len(self.events) + 1}: {error.strerror}"
            raise JournalError(None, message) from error
        return True

    def _cut_torn_end(self) -> None:
        torn_bytes = os.fstat(self._descriptor).st_size - self._size
        if torn_bytes <= 0:
            return
        os.ftruncate(self._descriptor, self._size)
        os.fsync(self._descriptor)
        logger.warning("%s: cut off a torn last line of %d bytes", self.path, torn_bytes)


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


def _parse(path: Path) -> tuple[list[Event], int]:
    """The events and the number of bytes that hold them; bytes after that are a torn last line."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    events: list[Event] = []
    size = 0
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        is_last = size + len(line) == len(content)
        event = _parse_line(line)
        if event is None and is_last:
            break
        if event is None:
            message = (
                f"{path}:{number}: not a journal event: {line[:60]!r}; restore the file or start over with --fresh"
            )
            raise JournalError(None, message)
        events.append(event)
        size += len(line)
    return events, size


def _parse_line(line: bytes) -> Event | None:
    if not line.endswith(b"\n"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None
