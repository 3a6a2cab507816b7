"""Trials of two workers in real Ray: the same numbers as with one, and a worker that is killed is started again."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.search.check_journal import trajectory, violations
from tests.whole_program.harness import Search, processes

ONE_AFTER_THE_OTHER = {"n_epochs": 3, "search": {"num_samples": 2, "max_concurrent": 1, "min_peers": 2}}


@pytest.mark.timeout(600)
def test_two_workers_give_the_numbers_of_one_also_when_one_of_them_is_killed(tmp_path: Path) -> None:
    alone = Search(tmp_path / "alone", ONE_AFTER_THE_OTHER)
    assert alone.start().wait(200) == 0

    group = Search(tmp_path / "group", {**ONE_AFTER_THE_OTHER, "resources": {"workers": 2, "cpus_per_worker": 0.5}})
    run = group.start(epoch_seconds=0.5)
    run.wait_for_first_loop()
    _wait_until(lambda: len(group.events("reported")) >= 1)
    assert run.kill("group_worker", random.Random(0)), "there was no worker to kill"
    code = run.wait(300)

    assert code == 0, run.text()
    assert violations(group.journal, ended=True) == []
    expected, found = trajectory(alone.journal), trajectory(group.journal)
    assert found.keys() == expected.keys()
    for number, (settings, losses, end) in found.items():
        assert settings == expected[number][0]
        assert end == expected[number][2] == ("finished", 3, None)
        assert losses == {epoch: pytest.approx(loss, rel=1e-4) for epoch, loss in expected[number][1].items()}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_interrupted_group_writes_a_checkpoint_and_goes_on(tmp_path: Path) -> None:
    search = Search(tmp_path, {**ONE_AFTER_THE_OTHER, "resources": {"workers": 2, "cpus_per_worker": 0.5}})
    run = search.start(epoch_seconds=1.0)
    run.wait_for_first_loop()
    _wait_until(lambda: len(search.events("reported")) >= 1)
    assert processes(run.process.pid, "group_worker")
    began = time.time()
    os.killpg(run.process.pid, signal.SIGINT)

    assert run.wait(40) == 130, run.text()
    assert time.time() - began < 20
    assert search.start().wait(200) == 0
    assert violations(search.journal, ended=True) == []


def _wait_until(condition: object, timeout_seconds: float = 120.0) -> None:
    end = time.time() + timeout_seconds
    while not condition():  # type: ignore[operator]
        assert time.time() < end, f"waited {timeout_seconds} s"
        time.sleep(0.05)
