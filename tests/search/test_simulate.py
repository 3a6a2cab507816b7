"""The simulation drives the real ledger, spends what it may, and learns its curves from a recorded search."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from cmp.results.folder import ResultsFolder
from cmp.search.ledger import Ledger
from cmp.space.settings import SearchSettings
from cmp.train.session import TrialOutcome
from tests.benchmarks.curves import FormulaCurves, RecordedCurves, place
from tests.benchmarks.simulate import METHODS, SWEPT, Reference, simulate, sweep, table
from tests.search.fake_search import Clock, make_space


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize("slots", [1, 8])
def test_epochs_are_spent_up_to_the_budget_and_running_trials_are_finished(slots: int) -> None:
    curves = FormulaCurves.default(n_epochs=5)
    reference = Reference(lowest=1.0, best_tenth=10.0)
    outcomes = {
        name: simulate(
            curves,
            dataclasses.replace(curves.space, search=method(SearchSettings(num_samples=1000))),
            slots=slots,
            epochs=40,
            reference=reference,
        )
        for name, method in METHODS.items()
    }
    assert all(40 <= outcome.epochs < 40 + 5 * slots for outcome in outcomes.values())
    assert outcomes["random"].trials * 5 == outcomes["random"].epochs
    assert outcomes["ASHA"].trials > outcomes["random"].trials
    assert all(outcome.wasted == 0.0 for outcome in outcomes.values())


def test_more_slots_take_less_time_for_the_same_epochs() -> None:
    curves = FormulaCurves.default(n_epochs=5)
    space = dataclasses.replace(curves.space, search=METHODS["random"](SearchSettings(num_samples=1000)))
    hours = [
        simulate(curves, space, slots=slots, epochs=80, reference=Reference(1.0, 10.0)).hours for slots in (1, 4, 16)
    ]
    assert hours[0] > 3 * hours[1] > 6 * hours[2]


def test_the_table_has_a_line_for_every_method_and_number_of_slots() -> None:
    curves = FormulaCurves.default(n_epochs=4)
    lines = list(table(curves, SearchSettings(), slots=[1, 4], epochs=12, seeds=1))
    assert len(lines) == 3 + 2 * len(METHODS)
    assert [line.split()[0] for line in lines[3:]] == ["1"] * 4 + ["4"] * 4


def test_a_sweep_changes_one_setting_at_a_time_and_marks_the_defaults() -> None:
    curves = FormulaCurves.default(n_epochs=4)
    lines = list(sweep(curves, SearchSettings(), slots=[1], epochs=12, seeds=2))
    assert len(lines) == 2 + sum(map(len, SWEPT.values()))
    starred = [line for line in lines if "*" in line]
    assert len(starred) == len(SWEPT)
    assert len({line.split("*")[1] for line in starred}) == 1


def straight(settings: dict[str, Any]) -> list[float]:
    """Curves that differ by a constant, which depends on the number of vectors alone."""
    return [3.0 - settings["n_cmps"] / 10 - 0.1 * epoch for epoch in range(1, 5)]


def test_recorded_curves_come_back_and_a_stopped_trial_is_continued_in_the_shape_of_the_others(tmp_path: Path) -> None:
    ledger = Ledger(make_space(num_samples=10), ResultsFolder(tmp_path), Clock())
    while (suggested := ledger.next_trial()) is not None:
        ledger.started(suggested.number)
        for epoch, loss in enumerate(straight(suggested.settings), start=1):
            if ledger.report(suggested.number, {"epoch": epoch, "val_loss": loss}) == "stop":
                break
        else:
            ledger.finish(suggested.number, TrialOutcome("finished", 4))
    ledger.close()
    history = ledger.history
    assert history.count("stopped") > 0

    curves = RecordedCurves.of_results(tmp_path)
    for trial in history.trials.values():
        expected = straight(trial.settings)
        assert curves.losses(trial.settings, seed=0) == pytest.approx(expected, abs=0.1)
        assert curves.losses(trial.settings, seed=0) == curves.losses(trial.settings, seed=0)
        assert curves.epoch_seconds(trial.settings, seed=0) > 0


def test_choices_lie_apart_and_numbers_from_0_to_1() -> None:
    searched = make_space().searched
    assert place(searched["lr"], 1e-4) == [0.0]
    assert place(searched["lr"], 1e-1) == [1.0]
    assert place(searched["n_cmps"], 9) == [0.5]
    assert place(searched["cmp_layer"], -1) == pytest.approx([0, 0.5**0.5, 0])
