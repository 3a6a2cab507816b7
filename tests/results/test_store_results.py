"""Results on an object store: the journal as objects, one writer, what is moved aside, what is mirrored."""

import json
import logging
import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmp.objects import NoObjectError, ObjectStore, StoreError
from cmp.results import lease, mirror, opening, store_journal
from cmp.results.best import BestNote, write_note
from cmp.results.folder import FolderInUseError, ResultsFolder
from cmp.results.journal import AnotherWriterError, JournalError, read_events
from cmp.results.mirror import mirrored
from cmp.results.opening import open_results, reading, set_aside
from cmp.results.store_journal import StoreJournal, copy_journal, journal_store, open_journal, put_together
from cmp.search.decide.ledger import Ledger
from cmp.space.errors import UserError
from cmp.store import local_folder, write_text
from tests.search.check_journal import trajectory, violations
from tests.search.fake_search import KilledError, make_space, run
from tests.stores import Gate


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_machine(monkeypatch, tmp_path / "machine")


def use_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """From now on be a machine with a disk of its own."""
    monkeypatch.setenv("CMP_CACHE", str(folder))


def session(run: int) -> dict[str, Any]:
    return {"event": "session", "time": float(run), "run": run}


def event(number: int) -> dict[str, Any]:
    return {"event": "reported", "time": 2.25, "trial": number, "metrics": {"val_loss": 3.141592653589793, "é": "ü"}}


def names(folder: ResultsFolder) -> list[str]:
    return journal_store(folder).list()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def events_at(url: str) -> list[dict[str, Any]]:
    with reading(url) as folder:
        return read_events(folder.journal)


def test_every_event_is_an_object_until_the_end_of_the_session(s3: str) -> None:
    folder = open_results(s3)
    journal = open_journal(folder)
    assert isinstance(journal, StoreJournal)
    written = [journal.append(one) for one in (session(1), event(0), event(1))]

    assert names(folder) == ["00000001.json", "00000002.json", "00000003.json"]
    assert json.loads(journal_store(folder).get("00000002.json")) == event(0)
    assert events_at(s3) == read_events(folder.journal) == written
    journal.close()
    assert names(folder) == ["00000001-00000003.jsonl", "00000001.json"], "the first event of a session stays"
    assert events_at(s3) == written


def test_another_machine_with_an_empty_disk_goes_on_with_the_journal(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 4):
        use_machine(monkeypatch, tmp_path / f"machine-{number}")
        folder = open_results(s3)
        assert not folder.journal.exists()
        journal = open_journal(folder)
        assert journal.length == 2 * (number - 1)
        journal.append(session(number))
        journal.append(event(number))
        journal.close()
    assert [one["event"] for one in events_at(s3)] == ["session", "reported"] * 3
    firsts = ["00000001.json", "00000003.json", "00000005.json"]
    assert names(folder) == sorted([*firsts, *(f"{n:08d}-{n + 1:08d}.jsonl" for n in (1, 3, 5))])


def test_of_two_writers_the_later_to_open_goes_on_and_the_other_stops_before_any_effect(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_journal(open_results(s3))
    first.append(session(1))
    first.append(event(0))
    use_machine(monkeypatch, tmp_path / "other")
    second = open_journal(open_results(s3))
    second.append(session(2))

    with pytest.raises(AnotherWriterError, match=r"s3://.*/journal/.*: another process writes to this journal, too"):
        first.append(event(1))
    second.append(event(2))
    assert [one["event"] for one in events_at(s3)] == ["session", "reported", "session", "reported"]


def test_a_writer_that_was_cut_off_is_stopped_however_much_was_put_together_meanwhile(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off = open_journal(open_results(s3))
    cut_off.append(session(1))
    cut_off.append(event(0))
    for number in (2, 3):  # two whole sessions elsewhere
        use_machine(monkeypatch, tmp_path / f"other-{number}")
        journal = open_journal(open_results(s3))
        for one in (session(number), event(number), event(number)):
            journal.append(one)
        journal.close()

    with pytest.raises(AnotherWriterError):
        cut_off.append(event(1))
    cut_off.close()
    assert len(events_at(s3)) == 8


def test_an_event_whose_answer_was_lost_is_written_once(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore

    journal = open_journal(open_results(s3))
    put, lost = obstore.put, []

    def lose_the_first_answer(client: Any, key: str, content: bytes, **options: Any) -> Any:
        answer = put(client, key, content, **options)
        if not lost and "journal" in key:
            lost.append(key)
            raise obstore.exceptions.GenericError("Generic S3 error: HTTP error: error sending request")
        return answer

    monkeypatch.setattr(obstore, "put", lose_the_first_answer)
    journal.append(session(1))
    journal.append(event(0))
    assert lost and events_at(s3) == [session(1), event(0)]


def test_a_store_that_is_away_holds_an_append_up_and_fails_it_only_when_patience_ends(
    s3: str, s3_gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_journal(open_results(s3))
    journal.append(session(1))
    with s3_gate.away():
        appending = threading.Thread(target=journal.append, args=(event(0),))
        appending.start()
        time.sleep(1.5)
        assert appending.is_alive()
    appending.join(20)
    assert events_at(s3) == [session(1), event(0)]

    monkeypatch.setattr(journal._store, "_patience_seconds", 0.2)  # type: ignore[attr-defined]
    with s3_gate.away(), pytest.raises(JournalError, match=r"waited \d+ s; nothing is lost: the same command goes on"):
        journal.append(event(1))
    assert journal.length == len(read_events(journal.path)) == 2


@pytest.mark.parametrize("done", range(4))
def test_putting_together_may_be_cut_off_anywhere(s3: str, monkeypatch: pytest.MonkeyPatch, done: int) -> None:
    folder = open_results(s3)
    journal = open_journal(folder)
    for one in (session(1), event(0), event(1), event(2)):
        journal.append(one)
    store = journal_store(folder)
    delete = ObjectStore.delete

    def die_after(self: ObjectStore, doomed: Any) -> None:
        delete(self, list(doomed)[:done])
        raise StoreError("killed")

    monkeypatch.setattr(ObjectStore, "delete", die_after)
    with pytest.raises(StoreError, match="killed"):
        put_together(store, 0, journal.path.read_bytes().splitlines(keepends=True), {1})
    monkeypatch.undo()
    assert len(store.list()) == 5 - done

    again = open_journal(open_results(s3))
    assert list(again.read()) == [session(1), event(0), event(1), event(2)]
    again.append(session(2))
    again.close()
    assert names(folder) == ["00000001-00000004.jsonl", "00000001.json", "00000005-00000005.jsonl", "00000005.json"]


def test_a_long_session_puts_its_events_together_from_time_to_time(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_journal, "TOGETHER", 10)
    folder = open_results(s3)
    journal = open_journal(folder)
    written = [journal.append(one) for one in (session(1), *map(event, range(24)))]

    many = ["00000001-00000010.jsonl", "00000001.json", "00000011-00000020.jsonl"]
    assert names(folder) == [*many, *(f"{number:08d}.json" for number in range(21, 26))]
    assert events_at(s3) == written
    again = open_journal(open_results(s3))
    assert list(again.read()) == written
    again.append(session(2))
    with pytest.raises(AnotherWriterError):
        journal.append(event(24))
    journal.close()
    again.close()
    assert [one["event"] for one in events_at(s3)] == ["session", *24 * ["reported"], "session"]


def test_two_writers_that_put_together_different_ranges_lose_and_repeat_nothing(s3: str) -> None:
    first = open_journal(open_results(s3))
    first.append(session(1))
    first.append(event(0))
    second = open_journal(open_results(s3))
    second.append(session(2))
    second.append(event(1))
    second.close()
    first.close()
    assert names(open_results(s3))[:2] == ["00000001-00000002.jsonl", "00000001-00000004.jsonl"]
    assert events_at(s3) == [session(1), event(0), session(2), event(1)]


def test_a_reader_gets_everything_while_a_session_ends(s3: str) -> None:
    journal = open_journal(open_results(s3))
    journal.append(session(1))
    for number in range(40):
        journal.append(event(number))
    closing = threading.Thread(target=journal.close)
    closing.start()
    for _ in range(20):
        assert len(events_at(s3)) == 41
    closing.join()


def test_a_missing_event_is_named(s3: str) -> None:
    folder = open_results(s3)
    journal = open_journal(folder)
    for one in (session(1), event(0), event(1)):
        journal.append(one)
    journal_store(folder).delete(["00000002.json"])
    with pytest.raises(JournalError, match=r"event 2 is missing; restore it or start over with --fresh"):
        open_journal(folder)


@pytest.mark.parametrize("seed", range(3))
def test_a_search_on_a_store_killed_again_and_again_on_other_machines_ends_like_an_unbroken_one(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    space = make_space(seed=seed, max_concurrent=1)
    run(space, tmp_path / "whole")
    rng = random.Random(seed)
    for start in range(1000):
        use_machine(monkeypatch, tmp_path / f"machine-{start}")
        monkeypatch.setattr(store_journal, "put_together", rng.choice([put_together, lambda *all_of_it: None]))
        try:
            run(space, open_results(s3), kill_after_events=rng.randint(1, 12))
            break
        except KilledError:
            continue

    assert start > 3
    folder = open_results(s3)
    copy_journal(folder)
    assert violations(folder.journal, ended=True) == []
    assert trajectory(folder.journal) == trajectory(tmp_path / "whole" / "journal.jsonl")


def test_a_search_is_the_same_on_every_kind_of_store(store: ObjectStore, tmp_path: Path) -> None:
    space = make_space(max_concurrent=1)
    run(space, tmp_path / "whole")
    for _ in range(100):
        folder = open_results(store.url)
        try:
            with folder.lock(), mirrored(folder):
                run(space, folder, kill_after_events=17, views=True)
            break
        except KilledError:
            continue

    with reading(store.url) as copy:
        assert trajectory(copy.journal) == trajectory(tmp_path / "whole" / "journal.jsonl")
        assert copy.space.exists() and copy.trials_csv.exists()
    assert set_aside(open_results(store.url)) == f"{store.url}.1"
    assert len(events_at(f"{store.url}.1")) > 20


@pytest.fixture
def short_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.5)
    monkeypatch.setattr(lease, "_LOOK_SECONDS", 0.1)


def test_a_second_machine_is_told_who_searches(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_beat: None
) -> None:
    with open_results(s3).lock():
        monkeypatch.setattr(socket, "gethostname", lambda: "other-host")
        use_machine(monkeypatch, tmp_path / "other")
        folder = open_results(s3)
        with pytest.raises(FolderInUseError, match=rf"{s3}: another search is running here \(host .*, process \d+"):
            folder.lock().__enter__()
        with pytest.raises(FolderInUseError):
            set_aside(folder)
    with folder.lock():
        assert json.loads(ObjectStore(s3).get(lease.NAME))["host"] == "other-host"
    with pytest.raises(NoObjectError):
        ObjectStore(s3).get(lease.NAME)


def test_a_machine_that_is_gone_is_watched_for_a_while_and_then_followed(
    s3: str, short_beat: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease, "WATCH_SECONDS", 1.5)
    gone = {"host": "gone", "pid": 1, "since": "2026-01-01 00:00:00", "holder": "x", "beat": 7}
    ObjectStore(s3).put(lease.NAME, json.dumps(gone).encode())
    began = time.monotonic()
    with caplog.at_level(logging.WARNING), open_results(s3).lock():
        assert time.monotonic() - began >= 1.5
    assert f"{s3}: a search on gone was here last; watching for 2 s" in caplog.text


def test_a_killed_search_is_followed_at_once_on_its_own_machine(s3: str) -> None:
    mine = {"host": socket.gethostname(), "pid": 1, "holder": "killed", "beat": 7}
    ObjectStore(s3).put(lease.NAME, json.dumps(mine).encode())
    began = time.monotonic()
    with open_results(s3).lock():
        assert time.monotonic() - began < lease.WATCH_SECONDS


def test_a_lease_that_was_taken_over_is_neither_renewed_nor_given_up(s3: str, short_beat: None) -> None:
    store, theirs = ObjectStore(s3), json.dumps({"host": "b", "holder": "theirs", "beat": 0}).encode()
    with open_results(s3).lock():
        wait_for(lambda: json.loads(store.get(lease.NAME))["beat"] == 1)  # half a second from the next one
        store.put(lease.NAME, theirs)
        time.sleep(1.2)
        assert store.get(lease.NAME) == theirs
    assert store.get(lease.NAME) == theirs


def test_results_are_moved_aside_whole_and_nothing_of_them_is_left(s3: str) -> None:
    assert set_aside(open_results(s3)) is None
    ids = []
    for number in (1, 2):
        folder = open_results(s3)
        ids.append(folder.search_id)
        journal = open_journal(folder)
        journal.append(session(number))
        ObjectStore(s3).put("trials/0000/log.txt", b"log")
        assert set_aside(folder) == f"{s3}.{number}"
        assert not folder.path.exists()
    assert ObjectStore(s3).list() == []
    assert [events_at(f"{s3}.{number}")[0]["run"] for number in (1, 2)] == [1, 2]
    assert open_results(s3).search_id not in ids, "or copies on other machines would be taken for the new search's"
    assert events_at(s3) == []


def test_a_move_that_was_cut_off_is_finished_by_the_next_start(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_results(s3)
    open_journal(folder).append(session(1))
    ObjectStore(s3).put("trials/0000/checkpoints/loop-000000001.pt", b"old")

    def die(store: ObjectStore) -> None:
        raise KilledError

    monkeypatch.setattr(opening, "_finish_move", die)
    with pytest.raises(KilledError):
        set_aside(folder)
    monkeypatch.undo()

    assert open_results(s3).search_id != folder.search_id
    assert ObjectStore(s3).list() == ["search"]
    assert events_at(f"{s3}.1") == [session(1)]


def test_a_reader_of_nothing_leaves_nothing(s3: str) -> None:
    with reading(s3) as folder:
        assert not folder.has_history()
    assert ObjectStore(s3).list() == []


def test_what_is_wrong_with_a_store_is_the_users_error_before_anything_starts(s3: str) -> None:
    with pytest.raises(UserError, match=r"^save_root: s3://no-such-bucket/x: there is no bucket no-such-bucket"):
        open_results("s3://no-such-bucket/x")
    with pytest.raises(UserError, match=r"^http:// is not a store"), reading("http://x/y"):
        pass


def test_views_are_put_when_they_have_changed(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_results(s3)
    folder.path.mkdir(parents=True)
    put: list[str] = []
    original = ObjectStore.put
    monkeypatch.setattr(mirror, "EVERY_SECONDS", 0.1)
    monkeypatch.setattr(
        ObjectStore, "put", lambda self, name, content: (put.append(name), original(self, name, content))[1]
    )
    for name in ("report.html", "tensorboard/trial-0000/events", ".ray/x", ".lock", "trials/0000/log.txt", "bounds/x"):
        write_text(folder.path / name, "1")
    with mirrored(folder):
        wait_for(lambda: len(put) >= 2)
        time.sleep(0.5)
        assert sorted(put) == ["report.html", "tensorboard/trial-0000/events"]
        write_text(folder.path / "report.html", "22")
        write_text(folder.journal, "{}\n")
    assert sorted(put) == ["journal.jsonl", "report.html", "report.html", "tensorboard/trial-0000/events"]
    assert ObjectStore(s3).get("report.html") == b"22"


def test_best_is_put_as_one_version_after_the_other(s3: str) -> None:
    folder = open_results(s3)
    for epoch in (1, 2):
        write_text(folder.best / "compressor.safetensors", f"weights {epoch}")
        write_note(folder.best, BestNote(7, epoch, 1.0 / epoch, True, {}))
        with mirrored(folder):
            pass
    with local_folder(f"{s3}/best") as best:
        assert (best / "compressor.safetensors").read_text() == "weights 2"
    assert ObjectStore(s3).get("best/current").split()[0] == b"7-2"
    with reading(s3) as copy:
        assert (copy.best / "compressor.safetensors").read_text() == "weights 2"


def test_what_left_the_front_leaves_the_store_even_from_another_machine(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compressor(folder: ResultsFolder, positions: int) -> None:
        write_text(folder.front / str(positions) / "config.json", "{}")
        write_note(folder.front / str(positions), BestNote(7, 1, 1.0, True, {}, positions))

    folder = open_results(s3)
    for positions in (2, 4):
        compressor(folder, positions)
    with mirrored(folder):
        pass
    assert {name.split("/")[0] for name in ObjectStore(f"{s3}/front").list()} == {"2", "4"}

    use_machine(monkeypatch, tmp_path / "other")
    folder = open_results(s3)
    compressor(folder, 3)
    with mirrored(folder):
        pass
    assert {name.split("/")[0] for name in ObjectStore(f"{s3}/front").list()} == {"3"}
    with local_folder(f"{s3}/front/3") as front:
        assert (front / "config.json").exists()


def test_views_that_cannot_be_put_are_a_warning(
    s3: str, s3_gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = open_results(s3)
    write_text(folder.path / "report.html", "1")
    monkeypatch.setattr("cmp.store.BRIEF_SECONDS", 0.1)
    with mirrored(folder):
        s3_gate.shut()
    s3_gate.open()
    assert "the views on the store are old: s3://" in caplog.text


def test_a_ledger_shows_the_best_of_a_trial_that_another_machine_has_trained(s3: str) -> None:
    space = make_space(num_samples=1, startup_trials=1, n_epochs=1)
    folder = open_results(s3)
    ledger = Ledger(space, folder)
    suggested = ledger.next_trial()
    assert suggested is not None
    ledger.started(0)
    ledger.report(0, {"epoch": 1, "loops": 1, "val_loss": 2.0})
    assert not folder.best.exists(), "the trial could not put it yet; no empty folder stands for it"
    ObjectStore(s3).put("trials/0000/best/1/compressor.safetensors", b"weights")
    ObjectStore(s3).put("trials/0000/best/current", b"1\ncompressor.safetensors")
    ledger.close()
    assert (folder.best / "compressor.safetensors").read_bytes() == b"weights"
    assert folder.trials_csv.exists() and folder.optuna_log.exists()
