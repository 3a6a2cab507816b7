"""How a search on a cluster ends when it is told to, when its head goes, and when a trial falls silent."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.search.check_journal import violations
from tests.whole_program.harness import Search, command_line, descendants
from tests.whole_program.machines import machines, wait_for, wait_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_stop_reaches_trials_on_other_nodes_through_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file on NFS took up to a minute; a batch system waits for seconds. The checkpoint is inside the epoch."""
    search = Search(
        tmp_path,
        {"n_epochs": 2, "n_train_loops": 100_000, "search": {"control": False, "num_samples": 2, "min_peers": 2}},
    )
    with machines(tmp_path, monkeypatch) as cluster:
        cluster.add("far")
        run = cluster.start(search)
        wait_in(run, lambda: (tmp_path / "marks" / "first-loop").exists())
        time.sleep(2.0)
        os.kill(run.process.pid, signal.SIGTERM)
        code = run.wait(40)

    assert code == 130, run.text()
    assert "did not leave in time" not in run.text()
    assert list((search.results / "trials" / "0000" / "checkpoints").glob("loop-*.pt"))
    assert not list((search.results / ".ray").glob("stop")), "no file asks for it"
    assert violations(search.journal) == []


def test_a_head_that_dies_has_an_exit_code_of_its_own_and_the_line_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's library ended the program with code 1 after 61 s, and said nothing."""
    search = Search(tmp_path, {"n_epochs": 500, "search": {"control": False, "num_samples": 2, "min_peers": 2}})
    with machines(tmp_path, monkeypatch, epoch_seconds=0.5) as cluster:
        cluster.add("worker")
        run = cluster.start(search, epoch_seconds=0.5)
        wait_in(run, lambda: len(search.events("reported")) >= 2)
        began = time.monotonic()
        cluster.kill_head()
        code = run.wait(120)
        took = time.monotonic() - began

    assert code == 75, run.text()
    assert took < 58, f"{took:.1f} s; Ray itself ends the program after 60"
    assert "the cluster's head" in run.text() and "has not answered for 30 s" in run.text()
    assert "To go on from here" in run.text()
    assert violations(search.journal) == []


def test_a_trial_that_falls_silent_is_ended_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(tmp_path, {"n_epochs": 4, "search": {"control": False, "num_samples": 1}})
    with machines(tmp_path, monkeypatch, epoch_seconds=1.0) as cluster:
        cluster.add("worker")
        run = cluster.start(search, epoch_seconds=1.0, CRASH_PATIENCE="15")
        wait_in(run, lambda: len(search.events("reported")) >= 2)
        os.kill(search.events("started")[0]["pid"], signal.SIGSTOP)
        code = run.wait(200)

    assert code == 0, run.text()
    assert "trial 0: no sign of it for" in run.text()
    assert len(search.events("started")) == 2
    assert violations(search.journal, ended=True) == []


def test_a_group_keeps_no_process_that_does_not_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Driver, controller, mailbox and cleaner took about 1.5 GB per trial."""
    settings = {
        "n_epochs": 500,
        "search": {"control": False, "num_samples": 1},
        "resources": {"workers": 2, "cpus_per_worker": 1},
    }
    search = Search(tmp_path, settings)
    with machines(tmp_path, monkeypatch, epoch_seconds=0.5) as cluster:
        cluster.add("left")
        cluster.add("right")
        run = cluster.start(search, epoch_seconds=0.5)
        wait_in(run, lambda: len(search.events("reported")) >= 2)
        titles = {pid: command_line(pid) for pid in descendants(os.getpid())}
        ours = [title for title in titles.values() if title.startswith("ray::") and "IDLE" not in title]
        kinds = sorted(title.split()[0] for title in ours if "Agent" not in title and "raylet" not in title)
        os.kill(run.process.pid, signal.SIGINT)
        assert run.wait(60) == 130, run.text()
        wait_for(lambda: not [pid for pid in titles if command_line(pid).startswith("ray::Worker")], "workers are left")

    assert kinds == ["ray::Trial", "ray::Worker"], ours
