"""The journal on an object store: one object per event, created once before the event has its effect.

    journal/<search>/00000017.json      event 17, one line
    journal/<search>/00000120.jsonl     events 1 to 120, put together at the end of a session

To create an object that nobody has created is durability and fencing in one: of two searches that write to the same
place, the later one to open the journal goes on, the other finds its next event taken and stops. At the end of a
session its events become one object; the objects of sessions' first events stay, because one of these is what a search
that was cut off for a while would want to create next. The file on this disk is a copy for readers.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from cmp.objects import NoObjectError, ObjectStore, StoreError
from cmp.results.folder import ResultsFolder
from cmp.results.journal import AnotherWriterError, Event, Journal, JournalError, event_line
from cmp.store import replacing

logger = logging.getLogger(__name__)

FIRST_EVENT = "session"
"""What every session begins with."""

_NAME = re.compile(r"(\d{8})\.(jsonl?)")
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
        copy_journal(folder)
        super().__init__(folder.journal, **options)

    def append(self, event: Mapping[str, Any]) -> Event:
        """Create the event's object, then add it to the copy on this disk.

        Raises:
            AnotherWriterError: somebody else has created it.
            JournalError: the store refuses, or did not answer for too long.
        """
        if self._closed:
            raise ValueError(f"{self._store.url} was closed")
        name, line = _name(self.length + 1, "json"), event_line(event)
        if not _told(self._store, lambda store: store.create_once(name, line)):
            raise AnotherWriterError(self._store.url, f"it has written {name}")
        return super().append(event)

    def close(self) -> None:
        """Put the events together; what fails now is done at the end of the next session."""
        super().close()
        try:
            compact(self._store.briefly(), self.path.read_bytes())
        except OSError as error:
            logger.warning("the journal's objects were not put together: %s", error)


def journal_store(folder: ResultsFolder) -> ObjectStore:
    """Where the events of a search are."""
    return ObjectStore(f"{folder.url}/journal/{folder.search_id}")


def copy_journal(folder: ResultsFolder) -> None:
    """Make `folder.journal` what the store says.

    Raises:
        JournalError: the store does not answer, or an event is missing.
    """
    content = _told(journal_store(folder), read_lines)
    with replacing(folder.journal) as temporary:
        temporary.write_bytes(content)


def read_lines(store: ObjectStore) -> bytes:
    """All events, a line each.

    Raises:
        JournalError: an event is missing.
        StoreError: the store does not answer.
    """
    for _ in range(_READ_TRIES):
        together, number, single = _parts(store.list())
        try:
            content = b"".join(store.get_all(together[-1:]))
            lines = store.get_all(single)
        except NoObjectError:  # a session has just ended, and its events became one object
            continue
        for index, name in enumerate(single, start=number + 1):
            if name != _name(index, "json"):
                raise JournalError(
                    None, f"{store.url}: event {index} is missing; restore it or start over with --fresh"
                )
        return content + b"".join(lines)
    raise StoreError(f"{store.url}: changed with every try to read it", passing=True)


def compact(store: ObjectStore, content: bytes) -> None:
    """Put all events, a line each, into one object; then delete what it replaces, but for sessions' first events."""
    lines = content.splitlines(keepends=True)
    together, number, _ = _parts(names := store.list())
    if len(lines) <= number:
        return
    whole = _name(len(lines), "jsonl")
    if not store.create_once(whole, content):
        raise StoreError(f"{store.url}/{whole} exists and is another one")
    firsts = {_name(index, "json") for index, line in enumerate(lines, start=1) if _is_first(line)}
    replaced = {_name(index, "json") for index in range(1, len(lines) + 1)} & set(names)
    store.delete([*(replaced - firsts), *together])


def _is_first(line: bytes) -> bool:
    return f'"{FIRST_EVENT}"'.encode() in line and json.loads(line)["event"] == FIRST_EVENT


def _parts(names: list[str]) -> tuple[list[str], int, list[str]]:
    """Objects of many events, the number of events in the longest, and the single events after those."""
    found = [(match[0], int(match[1]), match[2]) for match in map(_NAME.fullmatch, names) if match is not None]
    together = [name for name, _, kind in found if kind == "jsonl"]
    number = max((number for _, number, kind in found if kind == "jsonl"), default=0)
    return together, number, [name for name, index, kind in found if kind == "json" and index > number]


def _name(number: int, kind: str) -> str:
    return f"{number:08d}.{kind}"


def _told(store: ObjectStore, action: Callable[[ObjectStore], Any]) -> Any:
    """Do it; an error of the store becomes one of the journal."""
    try:
        return action(store)
    except StoreError as error:
        remedy = "; nothing is lost: the same command goes on when the store answers again" if error.passing else ""
        raise JournalError(None, f"{error}{remedy}") from error
