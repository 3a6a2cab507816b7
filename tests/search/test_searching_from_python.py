"""What Python code gets of a search, without running one: results as tables, requests, overrides."""

import logging
from pathlib import Path

import pytest
from rich.console import Console

import cmp
from cmp.results.folder import ResultsFolder
from cmp.results.requests import ask_to_stop, asked_to_stop, take_away
from cmp.results.space_file import write_space_file
from cmp.search.api import _written, open_search, stop_trial
from cmp.search.decide.ledger import Ledger
from cmp.search.requests import RequestWatch
from cmp.search.run import _warnings_on
from cmp.space.errors import UserError
from tests.search.fake_search import Clock, make_space, run


def a_search(path: Path) -> Path:
    space = make_space(objective="front", nested=True)
    run(space, path, views=True)
    write_space_file(path / "space.yaml", space.to_dict(), {}, None)
    return path


def test_results_are_tables_best_first_and_cheapest_first(tmp_path: Path) -> None:
    result = open_search(a_search(tmp_path))

    assert result.completed and result.exit_code is None
    assert list(result.trials.index) == [trial.number for trial in result.history.ranked()]
    assert len(result.reports) == sum(len(trial.reports) for trial in result.history.trials.values())
    assert result.reports["time"].dt.tz is not None
    front = result.front
    assert list(front.columns) == ["positions", "val_loss", "trial", "epoch", "n_cmps", "lr", "cmp_layer"]
    assert front["positions"].is_monotonic_increasing and front["val_loss"].is_monotonic_decreasing
    best = result.best
    assert best is not None
    assert (best.trial, best.val_loss) == (result.trials.iloc[0]["trial"], front["val_loss"].min())
    assert best.place == f"{tmp_path}/best" and best.settings == result.history.trials[best.trial].settings
    cheap = result.within(3)
    assert cheap is not None and (cheap.positions, cheap.place) == (2, f"{tmp_path}/front/2")
    assert result.within(0) is None


def test_an_empty_search_has_empty_tables(tmp_path: Path) -> None:
    space = make_space()
    Ledger(space, ResultsFolder(tmp_path), Clock()).begin()
    write_space_file(tmp_path / "space.yaml", space.to_dict(), {}, None)

    result = open_search(tmp_path)

    assert result.best is None and not result.completed
    assert all(len(table) == 0 and "val_loss" in table for table in (result.trials, result.reports, result.front))


def test_what_is_no_search_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a results folder"):
        open_search(tmp_path / "nothing")
    with pytest.raises(UserError, match="overrides: they are for a space file"):
        cmp.run_search(make_space(), ["lr=1"])


def test_overrides_are_lines_or_values() -> None:
    assert _written(["n_epochs=3"]) == ["n_epochs=3"]
    assert _written({"n_epochs": 3, "cmp_layer": "half", "lr": {"uniform": [0.1, 0.2]}, "grad_clip": None}) == [
        "n_epochs=3",
        "cmp_layer=half",
        'lr={"uniform": [0.1, 0.2]}',
        "grad_clip=null",
    ]


def test_a_request_to_stop_a_trial_is_journalled_and_taken_away(tmp_path: Path) -> None:
    folder, space = ResultsFolder(tmp_path), make_space()
    write_space_file(folder.space, space.to_dict(), {}, None)
    ledger = Ledger(space, folder, Clock(), views=False)
    for number in range(2):
        ledger.next_trial()
        ledger.started(number)

    stop_trial(tmp_path, 1)
    ask_to_stop(folder, 77)  # of no trial: only taken away
    with RequestWatch(folder) as watch:
        stopping: list[int] = []
        for _ in range(200):
            stopping += watch.answer(ledger)
            if not asked_to_stop(folder):
                break
            watch._over.wait(0.05)

    assert stopping == [1]
    assert ledger.report(1, {"epoch": 1, "val_loss": 2.0}) == "stop"
    assert ledger.report(0, {"epoch": 1, "val_loss": 2.0}) == "continue"
    with pytest.raises(UserError, match="--stop-trial: trial 1 has ended already: stopped"):
        stop_trial(tmp_path, 1)
    with pytest.raises(UserError, match="has no trial 9"):
        stop_trial(tmp_path, 9)


def test_requests_travel_through_a_store(s3: str, tmp_path: Path) -> None:
    here, there = (ResultsFolder(tmp_path / name, f"{s3}/search", "abc") for name in ("here", "there"))

    ask_to_stop(there, 3)
    ask_to_stop(there, 12)

    assert asked_to_stop(here) == [3, 12]
    take_away(here, 3)
    assert asked_to_stop(there) == [12]


def test_names_are_imported_when_they_are_asked_for() -> None:
    assert set(cmp.__all__) <= set(dir(cmp)) | set(cmp._HOMES)
    assert all(getattr(cmp, name).__name__ == name for name in cmp.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cmp.nothing


def test_warnings_are_printed_by_a_search_only_while_it_runs_and_only_where_it_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger = logging.getLogger("cmp")
    before = list(logger.handlers), logger.propagate
    with _warnings_on(Console()):
        logging.getLogger("cmp.x").warning("one thing")
    with _warnings_on(Console(quiet=True)):
        assert (logger.handlers, logger.propagate) == before
    assert (logger.handlers, logger.propagate) == before
    assert capsys.readouterr().out == "one thing\n"
