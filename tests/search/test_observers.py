"""Views of a search may be missing or broken; the search never is."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from cmp.results.folder import ResultsFolder
from cmp.results.history import History
from cmp.search import observers
from cmp.search.decide.ledger import Ledger
from cmp.search.observers import Scribe, require_tracker, tracker_callbacks
from cmp.space.errors import UserError
from cmp.space.space import Space
from tests.search.fake_search import make_space


def tracked(tracker: str | None) -> Space:
    space = make_space()
    return replace(space, search=replace(space.search, tracker=tracker))


@pytest.mark.parametrize(("tracker", "package"), [("wandb", "wandb"), ("mlflow", "mlflow-skinny")])
def test_a_tracker_that_is_not_installed_is_named_before_anything_starts(
    tracker: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(UserError, match=f"search.tracker: {tracker} is not installed; pip install {package}, "):
        require_tracker(tracked(tracker))
    require_tracker(tracked(None))


def test_without_a_tracker_ray_tune_gets_no_callback(tmp_path: Path) -> None:
    assert tracker_callbacks(tracked(None), ResultsFolder(tmp_path), History()) == []


def test_the_page_and_tensorboard_show_the_last_state_when_the_search_ends(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "fake")
    ledger = Ledger(make_space(), folder, views=False)
    ledger.begin()
    scribe = Scribe(folder)
    ledger.subscribe(scribe.on_event)
    suggested = ledger.next_trial()
    assert suggested is not None
    ledger.started(suggested.number)
    ledger.report(suggested.number, {"epoch": 1, "loops": 10, "val_loss": 2.123456, "train_loss": 2.0})
    scribe.close()
    ledger.close()

    assert "2.123" in folder.report.read_text()
    assert list((folder.path / "tensorboard").rglob("events.out.tfevents*"))


def test_a_page_that_cannot_be_written_costs_the_search_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(folder: Path, history: History) -> None:
        raise ZeroDivisionError("a bug in a plot")

    monkeypatch.setattr(observers, "write_page", broken)
    monkeypatch.setattr(observers.logger.parent, "propagate", True)
    folder = ResultsFolder(tmp_path / "fake")
    ledger = Ledger(make_space(), folder, views=False)
    scribe = Scribe(folder)
    ledger.subscribe(scribe.on_event)
    ledger.begin()
    scribe.close()
    ledger.close()

    assert "the page could not be written, the search goes on: ZeroDivisionError: a bug in a plot" in caplog.text
