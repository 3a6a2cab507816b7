"""The independent checker finds each kind of broken promise in a journal that was good."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.search.check_journal import main, violations
from tests.search.fake_search import make_space, run

Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Events:
    folder = tmp_path_factory.mktemp("good")
    run(make_space(num_samples=12, max_concurrent=1), folder)
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def first(events: Events, name: str, **fields: Any) -> int:
    return next(
        index
        for index, event in enumerate(events)
        if event["event"] == name and all(event[field] == value for field, value in fields.items())
    )


def drop(name: str, **fields: Any) -> Callable[[Events], object]:
    return lambda events: events.pop(first(events, name, **fields))


def repeat(name: str) -> Callable[[Events], object]:
    return lambda events: events.insert(first(events, name) + 1, dict(events[first(events, name)]))


def change(name: str, **new: Any) -> Callable[[Events], object]:
    return lambda events: events[first(events, name)].update(new)


def forget_the_start(events: Events) -> None:
    events.insert(first(events, "reported", epoch=2), {**events[0], "run": 2})


def report_after_the_end(events: Events) -> None:
    end = first(events, "finished")
    events.insert(end + 1, dict(events[end - 1]))


def another_space(events: Events) -> None:
    space = {**events[0]["space"], "lr": {"loguniform": [1e-5, 1e-1]}}
    events.append({**events[0], "run": 2, "space": space})


def swap_two_losses(events: Events) -> None:
    stopped = first(events, "stopped", epoch=1)
    events[stopped - 1]["metrics"]["val_loss"] = 0.001


BROKEN = {
    "a report is lost": (drop("reported", epoch=2), "a report is lost"),
    "the last report is lost": (drop("reported", epoch=4), "finished with epochs"),
    "a report is repeated": (repeat("reported"), "twice"),
    "a suggestion is lost": (drop("suggested", trial=2), "never suggested"),
    "a suggestion is repeated": (repeat("suggested"), "suggested after"),
    "a trial ends twice": (repeat("finished"), "after it had finished"),
    "a trial reports after its end": (report_after_the_end, "after it had finished"),
    "a stop is missing": (drop("stopped"), "had to be stopped at once"),
    "a stop has no cause": (swap_two_losses, "do not ask for it"),
    "a stop is at the wrong epoch": (change("stopped", epoch=2), "stopped at 2"),
    "an end is missing": (drop("finished"), "had not ended"),
    "a divergence is not ended": (drop("failed", kind="diverged"), "had to be failed at once"),
    "a value is outside its domain": (change("suggested", settings={"lr": 9, "n_cmps": 2, "cmp_layer": 6}), "outside"),
    "a setting is missing": (change("suggested", settings={"lr": 0.01}), "has settings"),
    "a session forgets that it must start trials": (forget_the_start, "without having been started"),
    "a space is changed": (another_space, "the session changed ['lr']"),
    "an attempt is not counted": (change("started", attempt=3), "attempt 3"),
    "a failure is of no known kind": (change("failed", kind="odd"), "failed by 'odd'"),
    "an event is unknown": (change("started", event="begun"), "unknown event 'begun'"),
    "something follows the end": (lambda events: events.append({**events[-1]}), "after completed"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_found(good: Events, name: str, tmp_path: Path) -> None:
    break_it, message = BROKEN[name]
    events = json.loads(json.dumps(good))
    break_it(events)
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert any(message in problem for problem in violations(path)), violations(path)
    assert main(str(path)) == 1


def test_a_good_journal_keeps_all_promises_and_a_cut_one_is_only_not_completed(
    good: Events, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in good))
    assert violations(path, ended=True) == []
    assert main(str(path)) == 0
    assert "no promise broken" in capsys.readouterr().out
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 3)
    assert violations(path) == []
    assert violations(path, ended=True) == [f"line {len(good) - 1}: the search did not complete"]


def test_a_suggestion_before_an_unfinished_trial_was_continued_is_found(good: Events, tmp_path: Path) -> None:
    events = json.loads(json.dumps(good))
    second = first(events, "suggested", trial=1)
    end = next(i for i in range(second) if events[i]["event"] in ("finished", "stopped", "failed"))
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in [*events[:end], *events[second:]]))
    assert any("before [0] were continued" in problem for problem in violations(path))
