"""Nothing that the tests started may outlive them: browsers, servers, processes of Ray. A run that leaves some fails.

Orphans come to the process that was started first instead of to init, so that whatever is below it at the end was left.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

PR_SET_CHILD_SUBREAPER = 36
# What leaves by itself gets so long: Ray's agents notice within seconds that their node manager is gone.
PATIENCE_SECONDS = 30.0
# Python's own, which ends with the process that it belongs to.
PYTHONS_OWN = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")

LEFT = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Orphans of the tests come here; who runs no test itself buries those that have ended as the tests go on."""
    if not is_controller(config):
        return
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if getattr(config.option, "tx", None):
        config.pluginmanager.register(Burial(), "burial")


class Burial:
    """A search on Ray leaves twenty dead orphans; the process that waits for xdist's workers would keep them all."""

    def pytest_runtest_logreport(self) -> None:
        """After each phase of a test."""
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


@pytest.hookimpl(trylast=True)  # after fixtures of the session are gone, and workers of xdist
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Wait for what is left, end it, and fail for it."""
    if not is_controller(session.config):
        return
    left = wait_for_none(lambda: {pid: name for pid, name in below(os.getpid()).items() if not is_pythons_own(name)})
    session.config.stash[LEFT] = [f"process {pid}: {name}" for pid, name in left.items()]
    for pid in left:
        with suppress(ProcessLookupError, ChildProcessError):  # the second: its parent lives, and buries it
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was left running."""
    if left := config.stash.get(LEFT, []):
        terminalreporter.section("left running by the tests, and ended now", red=True)
        for line in left:
            terminalreporter.line(line, red=True)


def is_controller(config: pytest.Config) -> bool:
    """Whether this is the process that the user started, not a worker of xdist."""
    return not hasattr(config, "workerinput")


def is_pythons_own(command: str) -> bool:
    """Whether Python keeps this process for itself."""
    return any(name in command for name in PYTHONS_OWN)


def wait_for_none(look: Callable[[], dict[int, str]]) -> dict[int, str]:
    """What is still there when it has had its time."""
    end = time.monotonic() + PATIENCE_SECONDS
    while (found := look()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def below(root: int) -> dict[int, str]:
    """Process id and command line of everything below `root` that has not ended, from /proc."""
    parents, names = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(entry.name)] = int(parent)
                names[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return {pid: names[pid].strip() for pid in parents if root in _ancestors(pid, parents)}


def _ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    found: set[int] = set()
    while (pid := parents.get(pid, 0)) and pid not in found:
        found.add(pid)
    return found
