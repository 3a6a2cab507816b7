"""The ledger goes on after any interruption as the search would have, and decides nothing twice."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from cmp.results.folder import ResultsFolder
from cmp.results.journal import JournalError, read_events
from cmp.search.decide.clock import SessionClock
from cmp.search.decide.ledger import Ledger
from cmp.space.errors import SpaceError
from cmp.train.session import TrialOutcome
from tests.search.check_journal import trajectory, violations
from tests.search.fake_search import Clock, KilledError, fake_loss, make_space, run


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests cut journals by themselves; waiting for the disk would only make them slow."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def journal_of(path: Path) -> Path:
    return ResultsFolder(path).journal


OBJECTIVES = [{"objective": "loss"}, {"objective": "front"}, {"objective": "front", "nested": True}]


@pytest.mark.parametrize("wanted", OBJECTIVES, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_a_search_cut_after_any_event_ends_like_an_unbroken_one(
    tmp_path: Path, seed: int, wanted: dict[str, Any]
) -> None:
    space = make_space(seed=seed, max_concurrent=1, **wanted)
    run(space, tmp_path / "whole")
    whole = trajectory(journal_of(tmp_path / "whole"))
    lines = journal_of(tmp_path / "whole").read_bytes().splitlines(keepends=True)
    assert violations(journal_of(tmp_path / "whole"), ended=True) == []

    for kept in range(len(lines) + 1):
        journal = journal_of(tmp_path / f"cut-{kept}")
        journal.parent.mkdir()
        journal.write_bytes(b"".join(lines[:kept]))
        run(space, journal.parent)
        assert violations(journal, ended=True) == [], f"after {kept} events"
        assert trajectory(journal) == whole, f"after {kept} events"


def test_a_search_cut_at_any_byte_of_an_event_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    space = make_space(num_samples=5, max_concurrent=1)
    run(space, tmp_path / "whole")
    whole = trajectory(journal_of(tmp_path / "whole"))
    content = journal_of(tmp_path / "whole").read_bytes()
    kinds = [json.loads(line)["event"] for line in content.splitlines()]
    for kind in ("suggested", "started", "reported", "stopped", "finished", "completed"):
        last = len(kinds) - 1 - kinds[::-1].index(kind)
        lines = content.splitlines(keepends=True)
        start = sum(len(line) for line in lines[:last])
        for size in range(start, start + len(lines[last]) + 1, 7):
            journal = journal_of(tmp_path / f"{kind}-{size}")
            journal.parent.mkdir()
            journal.write_bytes(content[:size])
            run(space, journal.parent)
            assert violations(journal, ended=True) == []
            assert trajectory(journal) == whole, f"cut at byte {size - start} of {kind}"


@pytest.mark.parametrize("seed", range(6))
def test_several_at_once_killed_again_and_again_lose_and_repeat_nothing(tmp_path: Path, seed: int) -> None:
    space = make_space(num_samples=12, seed=seed, **OBJECTIVES[seed % 3])
    rng = random.Random(seed)
    journal = journal_of(tmp_path / "killed")
    for _ in range(1000):
        try:
            run(
                space,
                tmp_path / "killed",
                slots=rng.randint(1, 5),
                seed=rng.random(),
                kill_after_events=rng.randint(1, 15),
            )
            break
        except KilledError:
            assert violations(journal) == []
    assert violations(journal, ended=True) == []
    for settings, losses, end in trajectory(journal).values():
        assert end is not None
        assert losses == {epoch: known(fake_loss(settings, epoch)) for epoch in losses}
        if end[0] == "finished":
            assert list(losses) == [1, 2, 3, 4]


def known(loss: float) -> float | None:
    return loss if loss == loss else None


@pytest.mark.parametrize("wanted", OBJECTIVES, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_the_same_losses_in_the_same_order_lead_to_the_same_stops(
    tmp_path: Path, seed: int, wanted: dict[str, Any]
) -> None:
    space = make_space(num_samples=24, seed=seed, **wanted)
    run(space, tmp_path / "live", slots=4, seed=seed)
    events = read_events(journal_of(tmp_path / "live"))
    reports = [event for event in events if event["event"] == "reported"]

    journal = journal_of(tmp_path / "replayed")
    journal.parent.mkdir()
    kept = [event for event in events if event["event"] in ("session", "suggested", "started")]
    journal.write_text("".join(json.dumps(event) + "\n" for event in kept))
    ledger = Ledger(space, ResultsFolder(journal.parent), Clock(), views=False)
    for report in reports:
        ledger.report(report["trial"], report["metrics"])
    stops = [(event["trial"], event["epoch"]) for event in events if event["event"] == "stopped"]
    again = [(event["trial"], event["epoch"]) for event in read_events(journal) if event["event"] == "stopped"]
    assert stops and again == stops


def test_a_cheap_trial_is_not_stopped_by_dear_ones_that_the_loss_alone_would_prefer(tmp_path: Path) -> None:
    def answer(objective: str) -> str:
        ledger = Ledger(make_space(objective=objective), ResultsFolder(tmp_path / objective), Clock(), views=False)
        trials = sorted((ledger.next_trial() for _ in range(8)), key=lambda one: one.settings["n_cmps"])
        for trial in trials[1:]:
            ledger.report(trial.number, {"epoch": 1, "val_loss": 1.0})
        return ledger.report(trials[0].number, {"epoch": 1, "val_loss": 2.0})

    assert (answer("loss"), answer("front")) == ("stop", "continue")


def test_a_stop_that_did_not_reach_the_journal_is_made_up_for_before_anything_else(tmp_path: Path) -> None:
    run(make_space(), tmp_path / "whole", slots=3)
    lines = journal_of(tmp_path / "whole").read_bytes().splitlines(keepends=True)
    stop = next(index for index, line in enumerate(lines) if b'"event":"stopped"' in line)
    journal = journal_of(tmp_path / "cut")
    journal.parent.mkdir()
    journal.write_bytes(b"".join(lines[:stop]))

    Ledger(make_space(), ResultsFolder(journal.parent), Clock(), views=False).begin()

    session, stopped = read_events(journal)[-2:]
    assert session["event"] == "session"
    assert {**stopped, "time": 0} == {**json.loads(lines[stop]), "time": 0}


def test_repeated_reports_change_nothing_and_a_stopped_trial_is_told_to_stop_again(tmp_path: Path) -> None:
    ledger = Ledger(make_space(min_peers=2), ResultsFolder(tmp_path), Clock(), views=False)
    first, second = ledger.next_trial(), ledger.next_trial()
    assert first is not None and second is not None
    assert ledger.report(first.number, {"epoch": 1, "val_loss": 1.0}) == "continue"
    assert ledger.report(first.number, {"epoch": 1, "val_loss": 9.0}) == "continue"
    assert ledger.report(second.number, {"epoch": 1, "val_loss": 2.0}) == "continue"
    third = ledger.next_trial()
    assert third is not None
    assert ledger.report(third.number, {"epoch": 1, "val_loss": 3.0}) == "stop"
    events = len(read_events(tmp_path / "journal.jsonl"))
    assert ledger.report(third.number, {"epoch": 1, "val_loss": 3.0}) == "stop"
    assert ledger.report(third.number, {"epoch": 2, "val_loss": 0.1}) == "stop"
    ledger.finish(third.number, TrialOutcome("interrupted", 2))
    assert len(read_events(tmp_path / "journal.jsonl")) == events
    assert ledger.history.trials[first.number].reports == [{"epoch": 1, "val_loss": 1.0}]


def test_a_loss_that_is_not_finite_ends_the_trial_and_enters_neither_rung_nor_study(tmp_path: Path) -> None:
    ledger = Ledger(make_space(), ResultsFolder(tmp_path), Clock(), views=False)
    suggested = ledger.next_trial()
    assert suggested is not None
    assert ledger.report(0, {"epoch": 1, "val_loss": float("nan")}) == "stop"
    trial = ledger.history.trials[0]
    assert (trial.status, trial.kind, trial.val_loss) == ("failed", "diverged", None)
    assert ledger._asha.losses(1) == {}
    assert "NaN" not in (tmp_path / "journal.jsonl").read_text()


def test_a_trial_that_finishes_without_all_its_reports_is_sent_back_to_report_them(tmp_path: Path) -> None:
    ledger = Ledger(make_space(n_epochs=3), ResultsFolder(tmp_path), Clock(), views=False)
    ledger.next_trial()
    for epoch in (1, 3):
        ledger.report(0, {"epoch": epoch, "val_loss": 2.0})
    ledger.finish(0, TrialOutcome("finished", 3))
    assert not ledger.history.trials[0].has_ended

    again = ledger.next_trial()
    assert again is not None and again.number == 0
    for epoch in (1, 2, 3):
        ledger.report(0, {"epoch": epoch, "val_loss": 2.0})
    ledger.finish(0, TrialOutcome("finished", 3))
    assert ledger.history.trials[0].status == "finished"
    assert sorted(report["epoch"] for report in ledger.history.trials[0].reports) == [1, 2, 3]


def test_a_trial_is_not_stopped_at_its_own_last_epoch(tmp_path: Path) -> None:
    space = make_space(searched={"n_epochs": {"choice": [1, 9]}, "lr": {"uniform": [1e-3, 1e-2]}}, min_peers=1)
    ledger = Ledger(space, ResultsFolder(tmp_path), Clock(), views=False)
    answers = {}
    for _ in range(6):
        suggested = ledger.next_trial()
        assert suggested is not None
        answer = ledger.report(suggested.number, {"epoch": 1, "val_loss": 1.0 + suggested.number})
        answers.setdefault(suggested.settings["n_epochs"], []).append(answer)
    assert set(answers[1]) == {"continue"}
    assert "stop" in answers[9]


def test_a_finished_search_can_be_extended_and_ends_like_one_that_was_longer_from_the_start(tmp_path: Path) -> None:
    run(make_space(num_samples=10, max_concurrent=1), tmp_path / "long")
    run(make_space(num_samples=5, max_concurrent=1), tmp_path / "short")
    done = run(make_space(num_samples=5, max_concurrent=2, time_budget_seconds=1e6), tmp_path / "short")
    assert len(done.history.trials) == 5
    run(make_space(num_samples=10, max_concurrent=1), tmp_path / "short")
    assert violations(journal_of(tmp_path / "short"), ended=True) == []
    assert trajectory(journal_of(tmp_path / "short")) == trajectory(journal_of(tmp_path / "long"))


def test_a_changed_setting_domain_or_fact_is_refused_with_the_differences(tmp_path: Path) -> None:
    run(make_space(), tmp_path)
    other = make_space(searched={"lr": {"loguniform": [1e-3, 1e-1]}}, n_epochs=5, seed=1)
    with pytest.raises(SpaceError) as refusal:
        Ledger(other, ResultsFolder(tmp_path))
    for word in ("lr: ", "n_cmps: ", "n_epochs: 5 now, 4 before", "search.seed: 1 now, 0 before", "--fresh"):
        assert word in str(refusal.value)

    facts_folder = tmp_path / "facts"
    first = Ledger(make_space(), ResultsFolder(facts_folder), views=False)
    first.begin(facts={"data": "aaa", "model": "m1"})
    first.next_trial()
    second = Ledger(make_space(), ResultsFolder(facts_folder), views=False)
    with pytest.raises(SpaceError, match="data: bbb now, aaa before"):
        second.begin(facts={"data": "bbb", "model": "m1"})


def test_the_time_budget_counts_all_sessions_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    def search(budget: float, clock: Clock) -> Ledger:
        space = make_space(num_samples=4, time_budget_seconds=budget)
        ledger = Ledger(space, ResultsFolder(tmp_path), clock, views=False)
        while (suggested := ledger.next_trial()) is not None:
            ledger.started(suggested.number)
            for epoch in range(1, 5):
                clock.now += 10
                if ledger.report(suggested.number, {"epoch": epoch, "val_loss": 2.0}) == "stop":
                    ledger.finish(suggested.number, TrialOutcome("interrupted", epoch))
                    break
            else:
                ledger.finish(suggested.number, TrialOutcome("finished", 4))
        ledger.complete()
        ledger.close()
        return ledger

    short = search(55, Clock())
    assert [trial.epoch for trial in short.history.trials.values()] == [4, 2]
    assert short.history.completed
    unchanged = search(55, Clock(2_000_000.0))
    assert [trial.epoch for trial in unchanged.history.trials.values()] == [4, 2]
    longer = search(500, Clock(3_000_000.0))
    assert [trial.epoch for trial in longer.history.trials.values()] == [4, 4, 4, 4]
    assert violations(journal_of(tmp_path), ended=True) == []


def test_after_an_interruption_reports_are_still_taken_but_no_trial_is_issued(tmp_path: Path) -> None:
    ledger = Ledger(make_space(), ResultsFolder(tmp_path), Clock(), views=False)
    ledger.next_trial()
    ledger.started(0)
    ledger.interrupt("SIGINT")
    assert ledger.next_trial() is None
    assert ledger.report(0, {"epoch": 1, "val_loss": 2.0}) == "stop"
    ledger.finish(0, TrialOutcome("interrupted", 1))
    assert ledger.history.trials[0].status == "interrupted"
    assert not ledger.complete()
    ledger.close()
    again = Ledger(make_space(), ResultsFolder(tmp_path), Clock(), views=False)
    assert again.history.interrupted_by == "SIGINT"
    resumed = again.next_trial()
    assert resumed is not None and (resumed.number, resumed.epoch, resumed.attempt) == (0, 1, 2)


def test_a_listener_that_breaks_costs_the_search_nothing(tmp_path: Path) -> None:
    ledger = Ledger(make_space(), ResultsFolder(tmp_path), Clock(), views=False)
    seen = []
    ledger.subscribe(lambda event: 1 / 0)
    ledger.subscribe(lambda event: seen.append(event["event"]))
    ledger.next_trial()
    assert seen == ["session", "suggested"]


def test_a_space_with_nothing_to_search_is_one_trial(tmp_path: Path) -> None:
    ledger = run(make_space(searched={}), tmp_path)
    assert [trial.status for trial in ledger.history.trials.values()] == ["finished"]


@pytest.mark.parametrize(
    "event",
    [
        {"event": "reported", "time": 1.0, "trial": 99, "epoch": 1, "metrics": {}},
        {"event": "suggested", "time": 1.0, "trial": 0},
        {"event": "finished", "trial": 0},
        {"event": "suggested", "time": 1.0, "trial": 0, "settings": {"lr": 1e-3, "n_cmps": 2, "cmp_layer": -1}},
    ],
    ids=["unknown trial", "no settings", "no time", "suggested again, by another search"],
)
def test_an_event_that_does_not_fit_is_an_error_that_names_its_line(tmp_path: Path, event: dict[str, object]) -> None:
    run(make_space(num_samples=1), tmp_path)
    lines = journal_of(tmp_path).read_text().splitlines()
    journal_of(tmp_path).write_text("\n".join([*lines[:2], json.dumps(event), *lines[2:]]) + "\n")
    with pytest.raises(JournalError, match=r"journal\.jsonl:3: does not fit"):
        Ledger(make_space(num_samples=1), ResultsFolder(tmp_path), views=False)


def test_a_journal_of_an_unknown_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    run(make_space(num_samples=1), tmp_path)
    text = journal_of(tmp_path).read_text()
    journal_of(tmp_path).write_text(text.replace('"startup_trials"', '"warm_up"'))
    with pytest.raises(JournalError, match="a version that this one cannot continue"):
        Ledger(make_space(num_samples=1), ResultsFolder(tmp_path), views=False)


def test_opening_a_finished_search_changes_nothing(tmp_path: Path) -> None:
    run(make_space(), tmp_path)
    before = journal_of(tmp_path).read_bytes()
    ledger = Ledger(make_space(), ResultsFolder(tmp_path), Clock())
    assert ledger.exhausted and ledger.complete()
    ledger.close()
    assert journal_of(tmp_path).read_bytes() == before


def test_the_clock_of_a_session_never_goes_back_whatever_is_done_to_the_wall(tmp_path: Path) -> None:
    wall, steady = [1000.0], [50.0]
    clock = SessionClock(wall=lambda: wall[0], steady=lambda: steady[0])
    seen = [clock()]
    for jump, seconds in ((-500.0, 2.0), (7200.0, 3.0), (0.0, 1.0)):
        wall[0] += jump
        steady[0] += seconds
        seen.append(clock())
    assert seen == [1000.0, 1002.0, 1005.0, 1006.0]

    wall[0] = 10.0  # at the next start the wall clock is behind what the journal says
    assert SessionClock(not_before=1006.0, wall=lambda: wall[0], steady=lambda: steady[0])() == 1006.0


def test_a_ledger_goes_on_from_the_time_of_its_journal_when_the_clock_was_set_back(tmp_path: Path) -> None:
    run(make_space(num_samples=2), tmp_path)
    later = [{**event, "time": event["time"] + 4e9} for event in read_events(journal_of(tmp_path))]
    journal_of(tmp_path).write_text("".join(json.dumps(event) + "\n" for event in later))

    ledger = Ledger(make_space(num_samples=3), ResultsFolder(tmp_path), views=False)
    ledger.next_trial()

    times = [event["time"] for event in read_events(journal_of(tmp_path))]
    assert times == sorted(times)
    assert ledger.history.seconds < 60


def test_a_trial_whose_time_is_up_is_stopped_after_its_next_report(tmp_path: Path) -> None:
    clock = Clock(step=0.0)
    ledger = Ledger(make_space(trial_time_limit_seconds=25), ResultsFolder(tmp_path), clock, views=False)
    answers = []
    for number in range(2):
        ledger.next_trial()
        ledger.started(number)
        for epoch in range(1, 5):
            clock.now += (10, 4)[number]
            answers.append(ledger.report(number, {"epoch": epoch, "val_loss": 2.0}))
            if answers[-1] == "stop":
                break
    assert answers == ["continue", "continue", "stop", *["continue"] * 4]
    stopped = ledger.history.trials[0]
    assert (stopped.status, stopped.reason, stopped.rung, stopped.epoch) == ("stopped", "time limit", None, 3)
    ledger.finish(1, TrialOutcome("finished", 4))
    ledger.close()
    assert violations(journal_of(tmp_path)) == []


def test_gpu_hours_are_those_of_all_trials_over_all_sessions(tmp_path: Path) -> None:
    def search(hours: float, clock: Clock) -> Ledger:
        space = make_space(num_samples=4, gpu_hours=hours)
        ledger = Ledger(space, ResultsFolder(tmp_path), clock, views=False)
        ledger.begin(resources={"workers": 2, "gpus_per_worker": 0.5})
        while (suggested := ledger.next_trial()) is not None:
            ledger.started(suggested.number)
            for epoch in range(suggested.epoch + 1, 5):
                clock.now += 900
                if ledger.report(suggested.number, {"epoch": epoch, "val_loss": 2.0}) == "stop":
                    ledger.finish(suggested.number, TrialOutcome("interrupted", epoch))
                    break
            else:
                ledger.finish(suggested.number, TrialOutcome("finished", 4))
        ledger.complete()
        ledger.close()
        return ledger

    short = search(1.5, Clock(step=0.0))
    assert [trial.epoch for trial in short.history.trials.values()] == [4, 2]
    assert short.history.gpu_seconds == pytest.approx(1.5 * 3600)
    assert [trial.epoch for trial in search(1.5, Clock(2e6)).history.trials.values()] == [4, 2]
    assert [trial.epoch for trial in search(99, Clock(3e6)).history.trials.values()] == [4, 4, 4, 4]
    assert violations(journal_of(tmp_path), ended=True) == []


def test_failed_trials_are_put_back_to_work_on_request_but_not_those_that_diverged(tmp_path: Path) -> None:
    def ledger_again() -> Ledger:
        return Ledger(make_space(num_samples=4), ResultsFolder(tmp_path), Clock(), views=False)

    ledger = ledger_again()
    for number, kind in enumerate(("failed", "out_of_memory", "diverged")):
        ledger.next_trial()
        ledger.started(number)
        ledger.report(number, {"epoch": 1, "val_loss": 2.0 + number})
        ledger.finish(number, TrialOutcome(kind, 1, "because"))
    ledger.next_trial()
    ledger.died(3, "gone")
    assert ledger.exhausted
    ledger.close()

    unasked = ledger_again()
    assert unasked.next_trial() is None
    unasked.close()

    asked = ledger_again()
    assert asked.retry_failed() == [0, 1, 3]
    assert [(trial.number, trial.status, trial.kind) for trial in asked.history.unfinished()] == [
        (0, "interrupted", None),
        (1, "interrupted", None),
        (3, "waiting", None),
    ]
    first = asked.next_trial()
    assert first is not None and (first.number, first.epoch, first.attempt) == (0, 1, 2)
    assert asked.retry_failed() == []
    asked.started(0)
    for epoch in (1, 2, 3, 4):
        asked.report(0, {"epoch": epoch, "val_loss": 1.5})
    asked.finish(0, TrialOutcome("finished", 4))
    best = asked.history.best()
    assert best is not None and best.number == 0
    asked.close()
    assert violations(journal_of(tmp_path)) == []
    again = ledger_again()
    assert [trial.number for trial in again.history.unfinished()] == [1, 3]


def test_a_trial_that_the_user_stops_leaves_after_its_next_report_and_enters_no_rung(tmp_path: Path) -> None:
    ledger = Ledger(make_space(min_peers=1), ResultsFolder(tmp_path), Clock(), views=False)
    for number in range(3):
        ledger.next_trial()
        ledger.started(number)
    assert ledger.ask_to_stop(1)
    assert not ledger.ask_to_stop(1), "once is enough"
    assert not ledger.ask_to_stop(9)
    assert not ledger.history.trials[1].has_ended
    assert ledger.report(1, {"epoch": 1, "val_loss": 0.5}) == "stop"
    assert ledger.history.trials[1].reason == "user"
    assert ledger._asha.losses(1) == {}
    assert ledger.report(0, {"epoch": 1, "val_loss": 2.0}) == "continue"
    assert ledger.report(2, {"epoch": 1, "val_loss": 1.0}) == "continue"
    ledger.close()
    assert violations(journal_of(tmp_path)) == []


def test_a_trial_that_is_not_at_work_is_stopped_by_the_user_at_once_also_after_a_crash(tmp_path: Path) -> None:
    ledger = Ledger(make_space(), ResultsFolder(tmp_path), Clock(), views=False)
    for number in range(2):
        ledger.next_trial()
        ledger.started(number)
        ledger.report(number, {"epoch": 1, "val_loss": 2.0})
    ledger.release(0)
    assert ledger.ask_to_stop(0)
    assert ledger.history.trials[0].status == "stopped"
    assert ledger.ask_to_stop(1)
    del ledger  # killed before trial 1 reported again

    again = Ledger(make_space(), ResultsFolder(tmp_path), Clock(), views=False)
    again.begin()
    assert (again.history.trials[1].status, again.history.trials[1].reason) == ("stopped", "user")
    again.close()
    assert violations(journal_of(tmp_path)) == []
