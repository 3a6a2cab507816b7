"""The simulation drives the real ledger, spends what it may, and learns its curves from a recorded search."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from cmp.results.folder import ResultsFolder
from cmp.search.decide.ledger import Ledger
from cmp.space.settings import SearchSettings
from cmp.train.session import TrialOutcome
from tests.benchmarks.curves import FormulaCurves, InterpolatedCurves, PricedCurves, RecordedCurves, place
from tests.benchmarks.simulate import FRONT_METHODS, METHODS, SWEPT, Reference, front_rows, simulate, sweep, table
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


def between_two(n_cmps: int = 4) -> InterpolatedCurves:
    """Two whole trials at the ends of lr and a stopped one in the middle, which is better as long as it lasts."""
    others = {"n_cmps": n_cmps, "cmp_layer": -1}
    trials = [
        ({"lr": 1e-4, **others}, [5.0, 4.0, 3.0, 2.0]),
        ({"lr": 1e-1, **others}, [6.0, 5.0, 4.0, 3.0]),
        ({"lr": 10**-2.5, **others}, [1.0]),
    ]
    return InterpolatedCurves(make_space(), trials)


def test_between_trials_that_differ_in_one_real_number_the_curve_is_linear_in_its_logarithm() -> None:
    settings = {"lr": 10**-2.5, "n_cmps": 4, "cmp_layer": -1}
    assert between_two().losses({**settings, "lr": 1e-4}, seed=3) == pytest.approx([5.0, 4.0, 3.0, 2.0])
    assert between_two().losses(settings, seed=0) == pytest.approx([1.0, 4.5, 3.5, 2.5])
    assert between_two().losses({**settings, "lr": 10**-3.25}, seed=0) == pytest.approx([3.0, 4.25, 3.25, 2.25])


def test_combinations_that_never_ran_to_the_end_are_refused() -> None:
    short = [({"lr": 1e-3, "n_cmps": 2, "cmp_layer": -1}, [3.0])]
    with pytest.raises(SystemExit, match="ran all 4 epochs"):
        InterpolatedCurves(make_space(), short)


def test_the_epochs_to_a_target_are_those_that_all_trials_had_spent() -> None:
    curves = FormulaCurves.default(n_epochs=4)
    space = dataclasses.replace(curves.space, search=METHODS["random"](SearchSettings(num_samples=1000)))

    def spent(target: float) -> float:
        return simulate(
            curves, space, slots=1, epochs=40, reference=Reference(1.0, 10.0), target=target
        ).epochs_to_target

    best = simulate(curves, space, slots=1, epochs=40, reference=Reference(1.0, 10.0)).best
    assert spent(100.0) == 1
    assert 1 < spent(best) <= 40
    assert spent(best - 1e-6) == float("inf")


def test_choices_lie_apart_and_numbers_from_0_to_1() -> None:
    searched = make_space().searched
    assert place(searched["lr"], 1e-4) == [0.0]
    assert place(searched["lr"], 1e-1) == [1.0]
    assert place(searched["n_cmps"], 9) == [0.5]
    assert place(searched["cmp_layer"], -1) == pytest.approx([0, 0.5**0.5, 0])


def test_every_way_to_search_a_front_has_a_row_at_equal_epochs() -> None:
    search = SearchSettings(startup_trials=3)

    rows = list(front_rows(PricedCurves.default(4), search, slots=[2], epochs=60, seeds=2))

    assert {row["search"] for row in rows} == set(FRONT_METHODS) and rows[0]["search"] == "loss"
    areas = [row["area after 60 epochs, %"] for row in rows]
    assert all(20 < area < 120 for area in areas) and len(set(areas)) > 3
    found = {row["search"]: row for row in rows}
    assert found["MOTPE"]["trials"] == found["random"]["trials"] < found["front"]["trials"]
    assert found["MOTPE"]["of the front stopped early, %"] == 0
