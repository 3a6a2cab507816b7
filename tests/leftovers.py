"""Nothing that the tests started may outlive them: browsers, servers, processes of Ray. A run that leaves some fails.

Orphans come to the process that was started first instead of to init, so that whatever is below it at the end was left.
"""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

PR_SET_CHILD_SUBREAPER = 36
# What leaves by itself gets so long: agents of a killed Ray knock at its control store for 60 to 90 s (Ray 2.60).
PATIENCE_SECONDS = 120.0
# Python's own, which ends with the process that it belongs to.
PYTHONS_OWN = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")

BURIAL_PERIOD_SECONDS = 0.5

LEFT = pytest.StashKey[list[str]]()
UNDERTAKER = pytest.StashKey["Undertaker"]()


class Undertaker(threading.Thread):
    """Buries dead orphans while the tests go on: a Ray worker looks whether its node manager is there, dead or alive.

    Args:
        all_children: also those that this process may have started itself and may want to wait for.
    """

    def __init__(self, *, all_children: bool) -> None:
        super().__init__(name="undertaker", daemon=True)
        self.all_children = all_children
        self.over = threading.Event()

    def run(self) -> None:
        """Look now and then."""
        while not self.over.wait(BURIAL_PERIOD_SECONDS):
            bury(all_children=self.all_children)


def pytest_configure(config: pytest.Config) -> None:
    """Orphans of the tests come here."""
    if is_controller(config):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        runs_no_test = bool(getattr(config.option, "tx", None))
        config.stash[UNDERTAKER] = Undertaker(all_children=runs_no_test)
        config.stash[UNDERTAKER].start()


@pytest.hookimpl(trylast=True)  # after fixtures of the session are gone, and workers of xdist
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Wait for what is left, end it, and fail for it."""
    if not is_controller(session.config):
        return
    session.config.stash[UNDERTAKER].over.set()
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
    bury(all_children=True)
    while (found := look()) and time.monotonic() < end:
        time.sleep(0.1)
        bury(all_children=True)
    return found


def bury(*, all_children: bool) -> None:
    """Take the exit codes of dead children, so that they vanish.

    Without `all_children` only of those that were surely started by another process: they belong to a session (of the
    kernel: a terminal's processes) that is neither this process's nor one that they opened themselves.
    """
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            is_dead_child = state == "Z" and int(parent) == os.getpid()
            if is_dead_child and (all_children or int(session) not in (int(entry.name), os.getsid(0))):
                os.waitpid(int(entry.name), os.WNOHANG)


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
