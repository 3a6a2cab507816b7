"""The text control and re-seeded finalists: trials that are measured with, and decide nothing."""

from pathlib import Path
from typing import Any

import pytest

from cmp.results.folder import ResultsFolder, trial_label
from cmp.results.history import CONTROL
from cmp.results.journal import read_events
from cmp.search.decide.extras import control_sample, extra_settings, wants_control
from cmp.search.decide.ledger import Ledger, Suggested
from cmp.space.space import Space
from cmp.train.session import TrialOutcome
from tests.search.check_journal import violations
from tests.search.fake_search import make_space

CURVE = {"0": 3.0, "1": 2.9, "4": 2.6, "16": 2.2, "64": 2.0}


def loss_of(suggested: Suggested, epoch: int) -> float:
    return 2.2 + abs(suggested.trial_settings.n_cmps - 9) / 50 + suggested.trial_settings.seed / 1000 + 0.3 / epoch


def finish(ledger: Ledger, suggested: Suggested) -> None:
    """Let a trial run to its end, or until the ledger stops it."""
    ledger.started(suggested.number)
    epochs = suggested.trial_settings.n_epochs
    for epoch in range(suggested.epoch + 1, epochs + 1):
        metrics: dict[str, Any] = {"epoch": epoch, "val_loss": loss_of(suggested, epoch), "positions": 4}
        if suggested.role == "control" and epoch == epochs:
            metrics["text_curve"] = CURVE
        if ledger.report(suggested.number, metrics) == "stop":
            return ledger.release(suggested.number)
    return ledger.finish(suggested.number, TrialOutcome("finished", epochs))


def run_all(space: Space, folder: ResultsFolder) -> Ledger:
    """The whole search, one trial at a time."""
    ledger = Ledger(space, folder)
    while not ledger.exhausted:
        suggested = ledger.next_trial()
        assert suggested is not None
        finish(ledger, suggested)
    assert ledger.complete()
    ledger.close()
    return ledger


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder(tmp_path / "fake")


def test_the_control_comes_first_and_beside_the_search(folder: ResultsFolder) -> None:
    ledger = Ledger(make_space(control=True), folder)

    control, first = ledger.next_trial(), ledger.next_trial()

    assert control is not None and first is not None
    assert (control.number, control.role, control.folder.name) == (CONTROL, "control", "text")
    assert (first.number, first.role, first.folder.name) == (0, "search", "0000")


def test_the_control_changes_no_decision_and_is_never_stopped(folder: ResultsFolder, tmp_path: Path) -> None:
    with_control = run_all(make_space(control=True), folder)
    without = run_all(make_space(), ResultsFolder(tmp_path / "without"))

    def decided(ledger: Ledger) -> list[Any]:
        return [(t.settings, t.status, [r["val_loss"] for r in t.reports]) for t in ledger.history.trials.values()]

    assert decided(with_control) == decided(without)
    assert len(with_control.history.trials) == 8, "it is not one of num_samples"
    control = with_control.history.control
    assert control is not None
    assert (control.status, control.epoch) == ("finished", 4)
    assert violations(folder.journal, ended=True) == []


def test_the_control_has_the_most_capacity_and_compresses_nothing(folder: ResultsFolder) -> None:
    space = make_space(control=True, searched={
        "lr": {"loguniform": [1e-4, 1e-2]}, "n_cmps": {"int": [2, 16], "step": 2}, "keep_len": {"choice": [0, 4]},
        "cmp_layer": {"choice": ["half", 3, -2]}, "memory": {"choice": ["hidden", "kv"]}, "lora_rank": {"int": [0, 8]},
    })  # fmt: skip
    ledger = Ledger(space, folder)

    suggested = ledger.next_trial()

    assert suggested is not None
    settings = suggested.trial_settings
    assert settings.lr == pytest.approx(1e-3)
    assert (settings.n_cmps, settings.cmp_layer, settings.memory, settings.lora_rank) == (16, -2, "kv", 8)
    assert settings.keep_len == 0
    assert control_sample(space) == ledger.history.extras[CONTROL].settings
    assert extra_settings(space, ledger.history.extras[CONTROL]) == settings


def test_a_search_that_only_reconstructs_has_no_control() -> None:
    space = Space.from_dict({"model_string": "m", "dataset": "d", "rmb_only": True, "search": {"control": True}})

    assert not wants_control(space)


def test_losses_are_worth_tokens_once_the_control_is_there(folder: ResultsFolder) -> None:
    history = run_all(make_space(control=True), folder).history
    best = history.best()

    assert best is not None and best.best_report is not None
    assert history.text_curve is not None and history.text_curve.trained
    worth = history.worth_of(best.best_report)
    assert worth is not None
    assert worth.tokens == pytest.approx(history.text_curve.worth(best.best_report["val_loss"]))
    assert worth.gain == worth.tokens / 4


def test_a_control_that_was_interrupted_is_continued_first(folder: ResultsFolder) -> None:
    space = make_space(control=True)
    ledger = Ledger(space, folder)
    control = ledger.next_trial()
    assert control is not None
    ledger.started(control.number)
    ledger.report(control.number, {"epoch": 1, "val_loss": 3.0})
    ledger.close()

    again = Ledger(space, folder)
    suggested = again.next_trial()

    assert suggested is not None
    assert (suggested.number, suggested.role, suggested.epoch, suggested.attempt) == (CONTROL, "control", 1, 2)


def test_a_control_that_fails_leaves_the_search_alone(folder: ResultsFolder) -> None:
    space = make_space(control=True)
    ledger = Ledger(space, folder)
    control = ledger.next_trial()
    assert control is not None
    ledger.started(control.number)
    ledger.finish(control.number, TrialOutcome("out_of_memory", 0, "use a smaller batch_size"))
    ledger.close()

    history = run_all(space, folder).history

    assert history.control is not None and history.control.status == "failed"
    assert history.best() is not None
    assert history.text_curve is None
    assert violations(folder.journal, ended=True) == []


def test_finalists_are_trained_again_under_two_more_seeds_when_all_have_ended(folder: ResultsFolder) -> None:
    space = make_space(confirm=2)

    history = run_all(space, folder).history

    best = [trial.number for trial in history.ranked()[:2]]
    again = [(trial.of, trial.seed) for _, trial in sorted(history.extras.items(), reverse=True)]
    assert again == [(best[0], 1), (best[1], 1), (best[0], 2), (best[1], 2)]
    assert all(trial.status == "finished" and trial.epoch == 4 for trial in history.extras.values())
    first = history.extras[-2]
    assert extra_settings(space, first).seed == 1
    assert first.settings == history.trials[best[0]].settings
    assert violations(folder.journal, ended=True) == []
    kinds = [event["event"] for event in read_events(folder.journal)]
    assert kinds[-1] == "completed" and kinds.count("completed") == 1


def test_finalists_can_be_asked_for_when_the_search_had_ended(folder: ResultsFolder) -> None:
    run_all(make_space(), folder)

    history = run_all(make_space(confirm=1, control=True), folder).history

    assert sorted(history.extras) == [-3, -2, CONTROL]
    assert run_all(make_space(confirm=1, control=True), folder).history.extras.keys() == history.extras.keys()


def test_extra_trials_have_folders_of_their_own() -> None:
    assert [trial_label(number) for number in (12, CONTROL, -2, -3)] == ["0012", "text", "confirm-01", "confirm-02"]
