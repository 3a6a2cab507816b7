"""A run of tests that leaves a process behind says which, ends it, and fails."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import leftovers

ROOT = Path(__file__).resolve().parents[1]
CONFTEST = """
from tests import leftovers
from tests.leftovers import pytest_configure, pytest_sessionfinish, pytest_terminal_summary
leftovers.PATIENCE_SECONDS = 0.2
"""
BURIED = """
import subprocess, time
from pathlib import Path

def test_that_leaves_an_orphan_which_ends():
    subprocess.run(["sh", "-c", "sleep 0.2 & echo $! >orphan"], check=True, start_new_session=True)
    time.sleep(2)
    assert not Path("/proc", Path("orphan").read_text().strip()).exists()

def test_that_waits_for_its_own_child():
    child = subprocess.Popen(["sh", "-c", "exit 7"], start_new_session=True)
    time.sleep(2)
    assert child.wait() == 7
"""
LEAVES = """
import subprocess

def test_that_leaves_an_orphan():
    subprocess.run(["sh", "-c", "sleep 1234 & echo $! >orphan"], check=True)
"""


def run(folder: Path, tests: str, workers: str) -> "subprocess.CompletedProcess[str]":
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(tests)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", workers, "-p", "no:cacheprovider"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_orphan_of_a_test_is_named_and_ended(tmp_path: Path, workers: str) -> None:
    done = run(tmp_path, LEAVES, workers)
    orphan = int((tmp_path / "orphan").read_text())

    assert done.returncode == 1, done.stdout
    assert "1 passed" in done.stdout
    assert f"process {orphan}: sleep 1234" in done.stdout
    assert not Path(f"/proc/{orphan}").exists()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_dead_orphans_are_buried_while_tests_go_on_and_children_are_not(tmp_path: Path, workers: str) -> None:
    done = run(tmp_path, BURIED, workers)

    assert done.returncode == 0, done.stdout


def test_everything_below_a_process_is_found_whatever_its_name() -> None:
    parent = subprocess.Popen(["sh", "-c", "sleep 99 & sleep 98 & echo; wait"], stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None and parent.stdout.readline()
        end = time.monotonic() + 20
        while sorted((found := leftovers.below(parent.pid)).values()) != ["sleep 98", "sleep 99"]:
            assert time.monotonic() < end, found  # a child has its parent's name until it is a program of its own
            time.sleep(0.05)
    finally:
        for pid in [*leftovers.below(parent.pid), parent.pid]:
            os.kill(pid, 9)
        parent.communicate()
