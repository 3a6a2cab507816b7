"""Ctrl-C, a stopped driver, a second process, a search that is over: each as a user would meet it."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.search.check_journal import trajectory, violations
from tests.whole_program.harness import Run, Search

TWO_AT_A_TIME = {"n_epochs": 3, "search": {"num_samples": 4, "startup_trials": 4, "min_peers": 4, "control": False}}


def wait_for(condition: object, timeout_seconds: float = 60.0) -> None:
    end = time.time() + timeout_seconds
    while not condition():  # type: ignore[operator]
        assert time.time() < end, f"waited {timeout_seconds} s"
        time.sleep(0.05)


@pytest.mark.timeout(600)
def test_a_search_that_is_interrupted_stopped_and_watched_goes_on_to_its_end(tmp_path: Path) -> None:
    search = Search(tmp_path, TWO_AT_A_TIME)

    _interrupt(search)
    run = search.start(epoch_seconds=0.5)
    _stop_the_driver_through_the_end_of_a_trial(search, run)
    _try_a_second_process(search, run)
    assert run.wait(150) == 0, run.text()

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
    """The whole process group gets SIGINT, as from a terminal; long epochs make the checkpoint fall inside one."""
    run = search.start(epoch_seconds=0.5)
    run.wait_for_first_loop()
    wait_for(lambda: len(search.events("reported")) >= 2)
    began = time.time()
    os.killpg(run.process.pid, signal.SIGINT)

    assert run.wait(40) == 130, run.text()
    assert time.time() - began < 20
    assert search.events("interrupted")[0]["signal"] == "SIGINT"
    assert "these results are partial" in run.text()
    assert "Best:" not in run.text()
    assert f"python {Path('tests/whole_program/victim.py').resolve()} {search.space}" in run.text()
    assert list((search.results / "trials" / "0000" / "checkpoints").glob("loop-*.pt"))
    assert violations(search.journal) == []


def _stop_the_driver_through_the_end_of_a_trial(search: Search, run: Run) -> None:
    """The trial reports, finishes and waits for nobody; once the driver goes on, so does the search."""
    run.wait_for_first_loop()
    wait_for(lambda: len(search.events("started")) >= 4)
    os.kill(run.process.pid, signal.SIGSTOP)
    reported = len(search.events("reported"))
    log = search.results / "trials" / "0000" / "log.txt"
    wait_for(lambda: "finished after epoch 3" in log.read_text())

    assert len(search.events("reported")) == reported, "the driver was stopped, and only it writes the journal"
    assert not search.events("finished")
    os.kill(run.process.pid, signal.SIGCONT)
    wait_for(lambda: search.events("finished"))


def _try_a_second_process(search: Search, first: Run) -> None:
    """It is refused and told by whom; the first does not notice."""
    second = search.start()

    assert second.wait(60) == 2
    assert f"process {first.process.pid}" in second.text()
    assert "another search is running here" in second.text()


def _ask_again(search: Search) -> None:
    """A finished search answers at once, and changes nothing."""
    journal = search.journal.read_bytes()
    again = search.start()

    assert again.wait(60) == 0
    assert "Best: " in again.text()
    assert "Ray dashboard" not in again.text()
    assert search.journal.read_bytes() == journal
