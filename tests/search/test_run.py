"""A Ray that dies or does not come up: how often it is started again, and when a search gives up or leaves."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from rich.console import Console

from cmp.results.folder import ResultsFolder
from cmp.search import run
from cmp.search.decide.ledger import Ledger
from cmp.search.engine.cluster import RayLostError, connected
from cmp.search.terminal.signals import Interruption
from cmp.space.errors import UserError
from tests.search.fake_search import make_space

OnRay = Callable[[Ledger, Interruption], None]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(make_space(num_samples=20), ResultsFolder(tmp_path / "fake"), views=False)
    yield ledger
    ledger.close()


@pytest.fixture
def search(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[OnRay], str]:
    """Runs the loop around Ray with something in Ray's place; returns what was printed."""

    def search(on_ray: OnRay) -> str:
        console = Console(record=True, width=200)
        session = run._Search(make_space(), ResultsFolder(tmp_path / "fake"), console, None)
        monkeypatch.setattr(run, "prepare", lambda *_: None)
        monkeypatch.setattr(run._Search, "_search_on_ray", lambda self, ledger, stop, prepared: on_ray(ledger, stop))
        session._search(ledger, Interruption(lambda: ""))
        return console.export_text()

    return search


def report_an_epoch(ledger: Ledger) -> None:
    suggested = ledger.next_trial()
    assert suggested is not None
    ledger.started(suggested.number)
    ledger.report(suggested.number, {"epoch": 1, "loops": 1, "val_loss": 2.0})


def test_four_deaths_without_an_epoch_between_them_end_the_search(search: Callable[[OnRay], str]) -> None:
    deaths = []

    def die(ledger: Ledger, interruption: Interruption) -> None:
        deaths.append(1)
        raise RayLostError("Ray's node manager (process 7) died")

    with pytest.raises(UserError, match=r"node manager \(process 7\) died, 4 times in a row; see /tmp/ray"):
        search(die)
    assert len(deaths) == 4


def test_a_ray_that_gets_epochs_done_may_die_as_often_as_it_likes(search: Callable[[OnRay], str]) -> None:
    deaths = []

    def die_after_an_epoch(ledger: Ledger, interruption: Interruption) -> None:
        if len(deaths) == 9:
            return
        report_an_epoch(ledger)
        deaths.append(1)
        raise RayLostError("Ray's control store died")

    printed = search(die_after_an_epoch)
    assert printed.count("Ray's control store died; starting Ray again. No finished epoch is lost.") == 9


def test_a_ray_that_a_signal_ended_too_is_not_started_again(search: Callable[[OnRay], str], ledger: Ledger) -> None:
    def die_with_everything(ledger: Ledger, interruption: Interruption) -> None:
        interruption.signal = "SIGTERM"
        raise RayLostError("Ray's node manager died")

    assert search(die_with_everything) == ""
    assert ledger.history.interrupted_by == "SIGTERM"


def test_a_cluster_that_is_gone_is_not_started_again_and_has_an_exit_code_of_its_own(
    search: Callable[[OnRay], str], ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_head(self: object, ledger: Ledger, interruption: Interruption, prepared: object) -> None:
        report_an_epoch(ledger)
        raise RayLostError("the cluster's head (10.0.0.1:6379) has not answered for 30 s")

    console = Console(record=True, width=200)
    session = run._Search(make_space(), ResultsFolder(tmp_path / "fake"), console, "10.0.0.1:6379")
    monkeypatch.setattr(run, "prepare", lambda *_: None)
    monkeypatch.setattr(run, "require_reachable", lambda address: None)
    monkeypatch.setattr(run._Search, "_search_on_ray", lose_head)
    session._search(ledger, Interruption(lambda: ""))

    assert session._end(ledger) == 75
    text = console.export_text()
    assert "Stopped (the cluster's head (10.0.0.1:6379) has not answered for 30 s) with 8 of 8 trials" in text
    assert "To go on from here" in text


def test_nothing_is_moved_aside_before_the_cluster_answers(tmp_path: Path) -> None:
    space = make_space()
    space.fixed["save_root"] = str(tmp_path)
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "journal.jsonl").touch()
    with pytest.raises(UserError, match="nobody answers at 127"):
        run.run_search(space, address="127.0.0.1:1", fresh=True, console=Console(record=True))

    assert [path.name for path in tmp_path.iterdir()] == ["fake"]


def test_a_ray_that_does_not_come_up_is_a_lost_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: object) -> None:
        raise Exception("The current node timed out during startup.\nmore")

    monkeypatch.setattr(ray, "init", fail)
    with (
        pytest.raises(RayLostError, match=r"Ray did not start \(The current node timed out during startup\.\)$"),
        connected(None, job_name="test"),
    ):
        pass
