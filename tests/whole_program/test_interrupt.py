"""Ctrl-C, a stopped driver, a second process, a search that is over: each as a user would meet it."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.search.check_journal import trajectory, violations
from tests.whole_program.harness import Run, Search

TWO_AT_A_TIME = {
    "n_epochs": 3,
    "search": {"num_samples": 4, "max_concurrent": 2, "startup_trials": 4, "min_peers": 4, "control": False},
}


def wait_for(condition: object, timeout_seconds: float = 120.0) -> None:
    end = time.time() + timeout_seconds
    while not condition():  # type: ignore[operator]
        assert time.time() < end, f"waited {timeout_seconds} s"
        time.sleep(0.05)


@pytest.mark.timeout(600)
def test_a_search_that_is_interrupted_stopped_and_watched_goes_on_to_its_end(tmp_path: Path) -> None:
    search = Search(tmp_path, TWO_AT_A_TIME)

    _interrupt(search)
    run = _stop_the_driver_through_the_end_of_a_trial(search)
    assert run.wait(300) == 0, run.text()

    assert violations(search.journal, ended=True) == []
    ends = [end for _, _, end in trajectory(search.journal).values()]
    assert ends == [("finished", 3, None)] * 4
    assert "Going on: 0 trials finished, 0 stopped early, 2 unfinished; " in run.text()
    _look_at_what_was_settled(search)
    _ask_again(search)


def _look_at_what_was_settled(search: Search) -> None:
    """`torch_dtype: auto` is decided once, noted by both sessions, and trials are told what it came to."""
    assert [event["facts"]["torch_dtype"] for event in search.events("session")] == ["float32"] * 2
    for name in ("trials/0003/settings.json", "best/config.json"):
        assert json.loads((search.results / name).read_text())["settings"]["torch_dtype"] == "float32"


def _interrupt(search: Search) -> None:
    """The whole process group gets SIGINT, as from a terminal; trials hear of it while they are inside an epoch."""
    run = search.start(epoch_seconds=0.5)
    wait_for(lambda: search.events("reported"))
    with search.held():
        os.killpg(run.process.pid, signal.SIGINT)
        wait_for(lambda: search.events("interrupted"))
        time.sleep(0.5)

    assert run.wait(40) == 130, run.text()
    assert "did not leave in time" not in run.text()
    assert search.events("interrupted")[0]["signal"] == "SIGINT"
    assert "these results are partial" in run.text()
    assert "Best:" not in run.text()
    assert f"python {Path('tests/whole_program/victim.py').resolve()} {search.space}" in run.text()
    assert list((search.results / "trials" / "0000" / "checkpoints").glob("loop-*.pt"))
    assert violations(search.journal) == []


def _stop_the_driver_through_the_end_of_a_trial(search: Search) -> Run:
    """The trial reports, finishes and waits for nobody; once the driver goes on, so does the search."""
    with search.held():
        run = search.start()
        wait_for(lambda: len(search.events("started")) >= 4)
        os.kill(run.process.pid, signal.SIGSTOP)
    reported = len(search.events("reported"))
    log = search.results / "trials" / "0000" / "log.txt"
    wait_for(lambda: "finished after epoch 3" in log.read_text())
    _try_a_second_process(search, run)

    assert len(search.events("reported")) == reported, "the driver was stopped, and only it writes the journal"
    assert not search.events("finished")
    os.kill(run.process.pid, signal.SIGCONT)
    return run


def _try_a_second_process(search: Search, first: Run) -> None:
    """It is refused and told by whom; the first, which holds the folder also while it is stopped, does not notice."""
    second = search.start()

    assert second.wait(120) == 2, second.text()
    assert f"process {first.process.pid}" in second.text()
    assert "another search is running here" in second.text()


def _ask_again(search: Search) -> None:
    """A finished search answers at once, and changes nothing."""
    journal = search.journal.read_bytes()
    again = search.start()

    assert again.wait(120) == 0
    assert "Best: " in again.text()
    assert "Ray dashboard" not in again.text()
    assert search.journal.read_bytes() == journal
