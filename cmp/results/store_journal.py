"""The journal on an object store: one object per event, created once before the event has its effect.

    journal/<search>/00000417.json               event 417, one line
    journal/<search>/00000001-00000416.jsonl     events 1 to 416, put together

To create an object that nobody has created is durability and fencing in one: of two searches that write to the same
place, the later one to open the journal goes on, the other finds its next event taken and stops. After every thousand
events and at a session's end those that are still single are put together in one more object; but the objects of
sessions' first events stay, because one of these is what a search that was cut off for a while would want to create
next. The file on this disk is a copy for readers.
"""

import json
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from cmp.objects import NoObjectError, ObjectStore, StoreError
from cmp.results.folder import ResultsFolder
from cmp.results.journal import AnotherWriterError, Event, Journal, JournalError, event_line
from cmp.store import replacing

logger = logging.getLogger(__name__)

FIRST_EVENT = "session"
"""What every session begins with."""
TOGETHER = 1000
"""So many single events are put together, while a search runs: each is a request when the journal is opened."""

_SINGLE = re.compile(r"(\d{8})\.json")
_MANY = re.compile(r"(\d{8})-(\d{8})\.jsonl")
_READ_TRIES = 5


def open_journal(folder: ResultsFolder, **options: Any) -> Journal:
    """The writing end of a search's journal, wherever its results go; `options` are those of `Journal`."""
    return Journal(folder.journal, **options) if folder.url is None else StoreJournal(folder, **options)


class StoreJournal(Journal):
    """The writing end.

    Args:
        folder: results on a store; `folder.journal` becomes a copy of what is there.
        options: as of `Journal`.

    Raises:
        JournalError: the store does not answer, or an event is missing.
    """

    def __init__(self, folder: ResultsFolder, **options: Any) -> None:
        self._store = journal_store(folder)
        lines, self._together = copy_journal(folder)
        self._single = lines[self._together :]
        self._firsts = {number for number, line in enumerate(lines, start=1) if _is_first(line)}
        super().__init__(folder.journal, **options)

    def append(self, event: Mapping[str, Any]) -> Event:
        """Create the event's object, then add it to the copy on this disk.

        Raises:
            AnotherWriterError: somebody else has created it.
            JournalError: the store refuses, or did not answer for too long.
        """
        if self._closed:
            raise ValueError(f"{self._store.url} was closed")
        name, line = _name(self.length + 1), event_line(event)
        if not _told(self._store, lambda store: store.create_once(name, line)):
            raise AnotherWriterError(self._store.url, f"it has written {name}")
        self._single.append(line)
        if _is_first(line):
            self._firsts.add(self.length + 1)
        written = super().append(event)
        if len(self._single) >= TOGETHER:
            self._put_together()
        return written

    def close(self) -> None:
        """Put together what is still single, and write no more."""
        super().close()
        self._put_together()

    def _put_together(self) -> None:
        """What fails now is done the next time."""
        try:
            put_together(self._store.briefly(), self._together, self._single, self._firsts)
        except StoreError as error:
            logger.warning("the journal's objects were not put together: %s", error)
        else:
            self._together += len(self._single)
            self._single = []


def journal_store(folder: ResultsFolder) -> ObjectStore:
    """Where the events of a search are."""
    return ObjectStore(f"{folder.url}/journal/{folder.search_id}")


def copy_journal(folder: ResultsFolder) -> tuple[list[bytes], int]:
    """Make `folder.journal` what the store says.

    Returns:
        All events, a line each; and how many of them were put together.

    Raises:
        JournalError: the store does not answer, or an event is missing.
    """
    lines, together = _told(journal_store(folder), read_lines)
    with replacing(folder.journal) as temporary:
        temporary.write_bytes(b"".join(lines))
    return lines, together


def read_lines(store: ObjectStore) -> tuple[list[bytes], int]:
    """All events, a line each; and how many of them were put together.

    Raises:
        JournalError: an event is missing.
        StoreError: the store does not answer.
    """
    for _ in range(_READ_TRIES):
        names = store.list()
        ranges = sorted((int(found[1]), int(found[2])) for found in map(_MANY.fullmatch, names) if found)
        try:
            lines: list[bytes] = []
            for (start, end), content in zip(ranges, store.get_all(_name(*one) for one in ranges), strict=True):
                if start <= len(lines) + 1 <= end:  # a search that was cut off may have put less together, too
                    lines += content.splitlines(keepends=True)[len(lines) + 1 - start :]
            together = len(lines)
            single = [name for name in names if (found := _SINGLE.fullmatch(name)) and int(found[1]) > together]
            lines += store.get_all(single)
        except NoObjectError:  # events were put together just now
            continue
        for number, name in enumerate(single, start=together + 1):
            if name != _name(number):
                message = f"{store.url}: event {number} is missing; restore it or start over with --fresh"
                raise JournalError(None, message)
        return lines, together
    raise StoreError(f"{store.url}: changed with every try to read it", passing=True)


def put_together(store: ObjectStore, together: int, single: Sequence[bytes], firsts: Collection[int]) -> None:
    """Make one object of single events, then delete theirs, but for sessions' first events.

    Args:
        store: of the journal.
        together: how many events have been put together before.
        single: the events after these, a line each.
        firsts: numbers of the events that sessions began with.
    """
    last = together + len(single)
    if single:
        name = _name(together + 1, last)
        if not store.create_once(name, b"".join(single)):
            raise StoreError(f"{store.url}/{name} exists and is another one")
    replaced = {_name(number) for number in range(1, last + 1) if number not in firsts}
    store.delete(name for name in store.list() if name in replaced)


def _is_first(line: bytes) -> bool:
    return f'"{FIRST_EVENT}"'.encode() in line and json.loads(line)["event"] == FIRST_EVENT


def _name(number: int, last: int | None = None) -> str:
    return f"{number:08d}.json" if last is None else f"{number:08d}-{last:08d}.jsonl"


def _told(store: ObjectStore, action: Callable[[ObjectStore], Any]) -> Any:
    """Do it; an error of the store becomes one of the journal."""
    try:
        return action(store)
    except StoreError as error:
        remedy = "; nothing is lost: the same command goes on when the store answers again" if error.passing else ""
        raise JournalError(None, f"{error}{remedy}") from error
