"""optuna.log, the tables and best/ follow the journal, and cannot hurt the search."""

import dataclasses
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from cmp.results.best import read_note
from cmp.results.folder import ResultsFolder
from cmp.results.history import CONTROL, History
from cmp.results.journal import read_events
from cmp.search.decide.ledger import Ledger
from cmp.store import replace_folder
from cmp.train.session import TrialOutcome
from tests.search.fake_search import Clock, KilledError, make_space, run

CURVE = {"0": 3.0, "4": 2.6, "16": 2.2, "64": 2.0}
STATES = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def load_study(path: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(path / "optuna.log")))
    return optuna.load_study(study_name=path.name, storage=storage)


def assert_study_shows_journal(path: Path) -> None:
    history = History.from_events(read_events(path / "journal.jsonl"))
    study = load_study(path)
    assert len(study.trials) == len(history.trials)
    for shown in study.trials:
        trial = history.trials[shown.number]
        assert shown.params == trial.settings
        assert shown.state == STATES.get(trial.status, TrialState.RUNNING)
        finite = {report["epoch"]: report["val_loss"] for report in trial.reports if report["val_loss"] is not None}
        assert shown.intermediate_values == finite
        if trial.status == "finished":
            assert shown.value == trial.val_loss
        elif trial.status == "stopped":
            assert shown.value == trial.reports[-1]["val_loss"]
        elif trial.status == "failed":
            assert shown.user_attrs["reason"] == f"{trial.kind}: {trial.reason}"
        if trial.has_ended:
            assert shown.datetime_complete is not None
            assert shown.datetime_complete.timestamp() == pytest.approx(trial.ended, abs=1e-5)


@pytest.mark.parametrize("seed", [0, 3])
def test_optuna_log_shows_the_states_and_values_of_the_journal(tmp_path: Path, seed: int) -> None:
    run(make_space(num_samples=12, seed=seed), tmp_path / "x", slots=3, views=True)
    assert_study_shows_journal(tmp_path / "x")


def test_optuna_log_shows_the_journal_at_every_moment_and_only_ever_grows(tmp_path: Path) -> None:
    shown = b""
    for _ in range(1000):
        try:
            run(make_space(num_samples=6), tmp_path / "x", slots=2, kill_after_events=9, views=True)
            break
        except KilledError:
            Ledger(make_space(num_samples=6), ResultsFolder(tmp_path / "x"), Clock()).begin()
            assert_study_shows_journal(tmp_path / "x")
            now = (tmp_path / "x" / "optuna.log").read_bytes()
            assert now.startswith(shown), "a dashboard that has the file open would be lost"
            shown = now
    assert len(load_study(tmp_path / "x").trials) == 6


def test_optuna_log_says_what_a_trial_is_worth_once_the_text_control_is_done(tmp_path: Path) -> None:
    ledger = Ledger(make_space(num_samples=3, control=True), ResultsFolder(tmp_path / "x"), Clock())
    control, *others = (ledger.next_trial() for _ in range(4))
    assert control is not None and control.number == CONTROL
    for number, suggested in enumerate(others):
        assert suggested is not None and suggested.number == number
        ledger.report(number, {"epoch": 1, "val_loss": 2.2, "positions": 4, "swapped_loss": 2.5, "plain_curve": CURVE})
    ledger.finish(0, TrialOutcome("finished", 1))
    before = (tmp_path / "x" / "optuna.log").read_bytes()
    ledger.report(CONTROL, {"epoch": 4, "val_loss": 2.6, "text_curve": {"0": 2.6, "8": 2.2, "16": 2.0}})
    ledger.report(1, {"epoch": 2, "val_loss": 2.0, "positions": 4, "swapped_loss": 2.4})

    ended, better, other = (trial.user_attrs for trial in load_study(tmp_path / "x").trials)

    assert (ended["positions"], ended["swapped_loss"]) == (4, 2.5)
    assert "gain" not in ended, "by the untrained curve it would have counted adaptation as memory"
    assert other["worth_tokens"] == pytest.approx(8) and other["gain"] == pytest.approx(2)
    assert better["worth_tokens"] == pytest.approx(16) and better["carried"] == pytest.approx(1)
    assert better["swapped_loss"] == 2.4
    after = (tmp_path / "x" / "optuna.log").read_bytes()
    ledger.close()
    Ledger(make_space(num_samples=3, control=True), ResultsFolder(tmp_path / "x"), Clock()).begin()
    assert (tmp_path / "x" / "optuna.log").read_bytes() == after and after.startswith(before)


@pytest.mark.parametrize("control", [False, True])
def test_without_a_text_control_optuna_log_has_worth_by_the_bare_models_curve(tmp_path: Path, control: bool) -> None:
    ledger = Ledger(make_space(num_samples=1, control=control), ResultsFolder(tmp_path / "x"), Clock())
    if control:  # and it fails
        ledger.next_trial()
    ledger.next_trial()
    ledger.report(0, {"epoch": 1, "val_loss": 2.2, "positions": 4, "plain_curve": CURVE})
    if control:
        ledger.finish(CONTROL, TrialOutcome("diverged", 0, "nan"))

    (trial,) = load_study(tmp_path / "x").trials

    assert trial.user_attrs["worth_tokens"] == pytest.approx(16)


def test_optuna_dashboard_serves_the_log(tmp_path: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    run(make_space(num_samples=6), tmp_path / "x", views=True)
    app = dashboard.wsgi(JournalStorage(JournalFileBackend(str(tmp_path / "x" / "optuna.log"))))
    statuses: list[str] = []
    request = {"REQUEST_METHOD": "GET", "SERVER_NAME": "h", "SERVER_PORT": "80", "wsgi.url_scheme": "http"}
    errors = io.StringIO()

    def get(path: str) -> dict[str, Any]:
        environment = {**request, "PATH_INFO": path, "wsgi.input": io.BytesIO(), "wsgi.errors": errors}
        return json.loads(b"".join(app(environment, lambda status, headers, *rest: statuses.append(status))))

    assert get("/api/studies")["study_summaries"][0]["study_name"] == "x"
    trials = get("/api/studies/0")["trials"]
    assert statuses == ["200 OK", "200 OK"]
    shown = [trial["state"] for trial in trials]
    history = History.from_events(read_events(tmp_path / "x" / "journal.jsonl"))
    names = {"finished": "Complete", "stopped": "Pruned", "failed": "Fail"}
    assert shown == [names[trial.status] for trial in history.trials.values()]


def test_a_view_that_cannot_be_written_is_reported_and_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x"
    (path / "optuna.log").mkdir(parents=True)
    (path / "trials.csv").mkdir()
    clock = Clock()
    ledger = Ledger(make_space(), ResultsFolder(path), clock)
    with caplog.at_level(logging.WARNING):
        ledger.next_trial()
    assert any(
        "optuna.log could not be written, the search goes on" in record.getMessage() for record in caplog.records
    )
    (path / "optuna.log").rmdir()
    (path / "trials.csv").rmdir()
    clock.now += 60
    ledger.report(0, {"epoch": 1, "val_loss": 2.0})
    assert_study_shows_journal(path)
    assert (path / "trials.csv").read_text().count("\n") == 2


def write_best(ledger: Ledger, number: int, text: str) -> None:
    folder = ledger.folder.trial(number) / "best"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(text)


def test_best_follows_the_best_epoch_of_the_best_trial_and_is_partial_until_the_end(tmp_path: Path) -> None:
    ledger = Ledger(make_space(num_samples=2, n_epochs=2), ResultsFolder(tmp_path), Clock())
    best = tmp_path / "best"

    def report(number: int, epoch: int, loss: float, *, improves: bool) -> None:
        if improves:
            write_best(ledger, number, f"{number}/{epoch}")
        ledger.report(number, {"epoch": epoch, "val_loss": loss})

    def shown() -> tuple[str, bool]:
        note = read_note(best)
        assert note is not None and (best / "config.json").read_text() == f"{note.trial}/{note.epoch}"
        return f"{note.trial}/{note.epoch}", note.partial

    for _ in range(2):
        ledger.next_trial()
    report(0, 1, 3.0, improves=True)
    assert shown() == ("0/1", True)
    report(1, 1, 2.0, improves=True)
    assert shown() == ("1/1", True)
    report(0, 2, 2.5, improves=True)
    assert shown() == ("1/1", True)
    ledger.finish(0, TrialOutcome("finished", 2))
    report(1, 2, 2.1, improves=False)
    assert shown() == ("1/1", True)
    ledger.finish(1, TrialOutcome("finished", 2))
    assert ledger.complete()
    assert shown() == ("1/1", False)


def test_a_best_trial_that_fails_later_keeps_its_place(tmp_path: Path) -> None:
    """Its best epoch is as good as before, and its weights are there."""
    ledger = Ledger(make_space(), ResultsFolder(tmp_path), Clock())
    for number, loss in enumerate([3.0, 2.0]):
        ledger.next_trial()
        write_best(ledger, number, str(number))
        ledger.report(number, {"epoch": 1, "val_loss": loss})
    assert (tmp_path / "best" / "config.json").read_text() == "1"
    ledger.finish(1, TrialOutcome("diverged", 1, "nan"))
    assert (tmp_path / "best" / "config.json").read_text() == "1"
    assert ledger.history.best() is ledger.history.trials[1]


def test_best_is_not_copied_again_at_a_start_that_finds_it_right(tmp_path: Path) -> None:
    ledger = Ledger(make_space(), ResultsFolder(tmp_path), Clock())
    ledger.next_trial()
    write_best(ledger, 0, "first")
    ledger.report(0, {"epoch": 1, "val_loss": 2.0})
    ledger.close()
    write_best(ledger, 0, "further")
    Ledger(make_space(), ResultsFolder(tmp_path), Clock()).begin()
    assert (tmp_path / "best" / "config.json").read_text() == "first"


def front_of(path: Path) -> dict[int, tuple[int, str]]:
    """By positions: whose compressor lies there, and its config."""
    found = {}
    for folder in (path / "front").iterdir():
        note = read_note(folder)
        assert note is not None and note.positions == int(folder.name)
        found[note.positions] = note.trial, (folder / "config.json").read_text()
    return found


def a_ledger(path: Path, prices: list[int], **search: Any) -> Ledger:
    """With a trial of one epoch at each of these numbers of vectors, at work."""
    space = make_space(n_epochs=2, searched={"n_cmps": {"choice": prices}}, startup_trials=99, **search)
    ledger = Ledger(space, ResultsFolder(path), Clock())
    numbers = {}
    while len(numbers) < len(prices) and (suggested := ledger.next_trial()) is not None:
        numbers[suggested.settings["n_cmps"]] = suggested.number
    assert sorted(numbers) == sorted(prices)
    return ledger


def trial_at(ledger: Ledger, n_cmps: int) -> int:
    return next(number for number, trial in ledger.history.trials.items() if trial.settings["n_cmps"] == n_cmps)


def test_front_holds_the_best_compressor_for_every_price_and_drops_what_is_beaten(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path, [1, 4, 16], objective="front")

    def report(n_cmps: int, epoch: int, loss: float) -> None:
        number = trial_at(ledger, n_cmps)
        write_best(ledger, number, f"{n_cmps}/{epoch}")
        ledger.report(number, {"epoch": epoch, "val_loss": loss})

    report(16, 1, 2.0)
    report(1, 1, 2.6)
    assert front_of(tmp_path) == {1: (trial_at(ledger, 1), "1/1"), 16: (trial_at(ledger, 16), "16/1")}
    report(4, 1, 1.9)
    assert sorted(front_of(tmp_path)) == [1, 4], "16 vectors are beaten by 4"
    report(16, 2, 1.8)
    assert front_of(tmp_path)[16] == (trial_at(ledger, 16), "16/2")
    assert (tmp_path / "best" / "config.json").read_text() == "16/2"

    ledger.close()
    (tmp_path / "front" / "4" / "search.json").unlink()
    Ledger(ledger.space, ResultsFolder(tmp_path), Clock()).begin()
    assert sorted(front_of(tmp_path)) == [1, 4, 16], "made up for at the next start"


def test_files_of_the_front_are_shared_with_the_trial_and_stay_when_it_goes_on(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path, [4])
    write_best(ledger, 0, "first")
    ledger.report(0, {"epoch": 1, "val_loss": 2.0})
    shown, source = tmp_path / "front" / "4" / "config.json", ledger.folder.trial(0) / "best"
    assert shown.samefile(source / "config.json")
    assert not (tmp_path / "best" / "config.json").samefile(shown)

    replace_folder(source, lambda new: (new.mkdir(), (new / "config.json").write_text("further")))  # as a trial does

    assert shown.read_text() == "first"


def test_a_prefix_on_the_front_is_the_same_compressor_that_makes_fewer_vectors(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path, [8], nested=True, objective="front")
    write_best(ledger, 0, json.dumps({"settings": {"n_cmps": 8}}))
    card = ledger.folder.trial(0) / "best" / "README.md"
    card.write_text("# A compressor\n")
    ledger.report(0, {"epoch": 1, "val_loss": 2.0, "nested": {"1": 2.5, "2": 2.2, "4": 1.9}})

    found = front_of(tmp_path)

    assert {positions: json.loads(config).get("n_cmps") for positions, (_, config) in found.items()} == {
        1: 1,
        2: 2,
        4: 4,
    }
    assert "makes the first 2 of each piece's vectors" in (tmp_path / "front" / "2" / "README.md").read_text()
    assert "val_loss is 2.2000" in (tmp_path / "front" / "2" / "README.md").read_text()
    assert card.read_text() == "# A compressor\n", "the trial's own is as it was"
    assert "n_cmps" in (ledger.folder.trial(0) / "best" / "config.json").read_text()


def test_best_is_the_lowest_loss_within_the_budget_and_another_budget_is_no_other_search(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path, [1, 4, 16], best_positions=8)
    for n_cmps, loss in ((1, 2.6), (4, 2.2), (16, 1.9)):
        write_best(ledger, trial_at(ledger, n_cmps), str(n_cmps))
        ledger.report(trial_at(ledger, n_cmps), {"epoch": 1, "val_loss": loss})
    note = read_note(tmp_path / "best")
    assert note is not None and (note.positions, note.val_loss) == (4, 2.2)
    ledger.close()

    wider = dataclasses.replace(ledger.space, search=dataclasses.replace(ledger.space.search, best_positions=None))
    Ledger(wider, ResultsFolder(tmp_path), Clock()).begin()
    assert (tmp_path / "best" / "config.json").read_text() == "16"
