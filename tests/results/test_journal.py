"""The journal survives a crash at any byte and a full disk, and names what it cannot read."""

import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from cmp.results import journal as journal_module
from cmp.results.journal import AnotherWriterError, Journal, JournalError, JournalReader, read_events

EVENTS: list[dict[str, Any]] = [
    {"event": "session", "time": 1.5, "run": 1},
    {"event": "suggested", "time": 2.25, "trial": 0, "settings": {"lr": 0.1 + 0.2, "layer": "half"}},
    {"event": "reported", "time": 3.125, "trial": 0, "epoch": 1, "metrics": {"val_loss": 3.141592653589793, "é": "ü"}},
]


def write(path: Path) -> bytes:
    journal = Journal(path)
    for event in EVENTS:
        journal.append(event)
    journal.close()
    return path.read_bytes()


def test_events_come_back_as_they_were_written_to_the_last_bit(tmp_path: Path) -> None:
    write(tmp_path / "journal.jsonl")
    assert read_events(tmp_path / "journal.jsonl") == EVENTS
    assert read_events(tmp_path / "missing.jsonl") == []


def test_a_cut_at_any_byte_loses_at_most_the_event_that_was_being_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    content = write(path)
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        whole = sum(end <= size for end in ends)
        assert read_events(path) == EVENTS[:whole]
        journal = Journal(path)
        journal.append({"event": "completed", "time": 9.0})
        journal.close()
        assert read_events(path) == [*EVENTS[:whole], {"event": "completed", "time": 9.0}]


@pytest.mark.parametrize("tail", [b"\0" * 40, b'{"event": "repo', b"\xff\xfe", b"{}\n", b"\0\0\n"])
def test_a_torn_last_line_is_cut_off_and_said_in_one_line(
    tmp_path: Path, tail: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.jsonl"
    content = write(path)
    path.write_bytes(content + tail)
    with caplog.at_level(logging.WARNING):
        Journal(path).close()
    assert path.read_bytes() == content
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]


def test_corruption_in_the_middle_is_an_error_that_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    lines = write(path).splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:10] + b"\n" + lines[2])
    with pytest.raises(JournalError, match=r"journal\.jsonl:2: .*--fresh"):
        read_events(path)
    with pytest.raises(JournalError, match=r"journal\.jsonl:2: "):
        Journal(path)
    assert path.read_bytes() == lines[0] + lines[1][:10] + b"\n" + lines[2]


class SmallDisk:
    """Takes `room` bytes, then has no space; `free` makes room again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self.write = os.write
        monkeypatch.setattr(os, "write", self.limited_write)

    def limited_write(self, descriptor: int, data: bytes) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.write(descriptor, data[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("room", [0, 1, 20])
def test_an_append_on_a_full_disk_leaves_no_trace_and_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    path = tmp_path / "journal.jsonl"
    content = write(path)
    pauses: list[float] = []
    journal = Journal(path, patience_seconds=10, pause=pauses.append)
    SmallDisk(monkeypatch, room)
    with pytest.raises(JournalError, match="No space left on device"):
        journal.append(EVENTS[2])
    assert path.read_bytes() == content
    assert sum(pauses) == pytest.approx(10)
    assert journal.length == 3


def test_an_append_waits_for_space_and_then_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.jsonl"
    write(path)
    disk = SmallDisk(monkeypatch, 5)

    def free(seconds: float) -> None:
        disk.room = 10_000

    journal = Journal(path, pause=free)
    journal.append(EVENTS[1])
    assert read_events(path) == [*EVENTS, EVENTS[1]]
    assert [record.getMessage() for record in caplog.records] == [f"{path}: the disk is full; waiting for space"]


def test_numbers_that_are_not_finite_become_null_so_that_every_line_is_json(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    written = journal.append(
        {"event": "reported", "metrics": {"val_loss": float("nan"), "lr": float("inf"), "n": (1,)}}
    )
    assert written["metrics"] == {"val_loss": None, "lr": None, "n": [1]}
    assert json.loads(path.read_text()) == written


def test_of_two_writers_the_later_one_goes_on_and_the_other_stops_at_its_next_event(tmp_path: Path) -> None:
    """What happens on a network file system without locks, where both searches were let in."""
    path = tmp_path / "journal.jsonl"
    content = write(path)
    first, second = Journal(path), Journal(path)
    second.append(EVENTS[1])
    with pytest.raises(AnotherWriterError, match=rf"{path}: another process writes .* this search left {len(content)}"):
        first.append(EVENTS[2])
    second.append(EVENTS[2])

    assert read_events(path) == [*EVENTS, EVENTS[1], EVENTS[2]]
    assert first.length == 3, "what was refused did not happen for its writer either"


def test_of_two_writers_at_the_same_moment_the_second_takes_its_line_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    write(path)
    first, second = Journal(path), Journal(path)
    write_all = journal_module._write_all

    def write_after_the_other(descriptor: int, line: bytes) -> None:
        monkeypatch.setattr(journal_module, "_write_all", write_all)
        second.append(EVENTS[1])
        write_all(descriptor, line)

    monkeypatch.setattr(journal_module, "_write_all", write_after_the_other)
    with pytest.raises(AnotherWriterError, match="at the same moment"):
        first.append(EVENTS[2])
    second.append(EVENTS[2])

    assert read_events(path) == [*EVENTS, EVENTS[1], EVENTS[2]]


def test_a_journal_that_was_moved_away_is_not_written_any_more(tmp_path: Path) -> None:
    """As by `--fresh` of another search, where there are no locks."""
    path = tmp_path / "old" / "journal.jsonl"
    content = write(path)
    journal = Journal(path)
    path.parent.rename(tmp_path / "old.1")
    with pytest.raises(JournalError, match="cannot write event 4: No such file"):
        journal.append(EVENTS[2])
    Journal(path)
    with pytest.raises(AnotherWriterError):
        journal.append(EVENTS[2])

    assert (tmp_path / "old.1" / "journal.jsonl").read_bytes() == content


@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_file_server_that_lost_the_handle_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    path = tmp_path / "journal.jsonl"
    write(path)
    journal = Journal(path, pause=lambda seconds: None)
    original = getattr(os, call)
    failures = [OSError(errno.ESTALE, os.strerror(errno.ESTALE))] * 2

    def stale_twice(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return original(*args)

    monkeypatch.setattr(os, call, stale_twice)
    journal.append(EVENTS[1])

    assert read_events(path) == [*EVENTS, EVENTS[1]]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: the file server has lost track of the file; trying again"
    ]


def test_a_reader_gives_each_event_once_and_a_torn_line_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    reader = JournalReader(path)
    assert list(reader.news()) == []
    content = write(path)
    path.write_bytes(b"")
    given = []
    for cut in range(0, len(content), 10):
        path.write_bytes(content[: cut + 10])
        given += list(reader.news())
        assert given == read_events(path)
    assert given == EVENTS
