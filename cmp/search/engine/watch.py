"""Noticing that Ray is gone: in a thread of its own, because calls to a Ray that is gone wait, the main thread in them.

Ray's own library ends the program after 60 s, with exit code 1 and without a word. Used by `cluster`.
"""

import os
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# The kernel's name of a process that no search survives, and ours.
VITAL_PROCESSES = {"raylet": "node manager", "gcs_server": "control store"}

LOOK_EVERY_SECONDS = 1.0
# While Ray starts: nobody misses a process that was never seen.
LOOK_AT_START_SECONDS = 0.1
# What the main thread gets to notice it, too; it may wait in a call to Ray, which does not return.
NOTICE_SECONDS = 5.0

# A head that is away for longer is gone. A control store that is started again elsewhere takes some seconds.
HEAD_PATIENCE_SECONDS = 30.0
HEAD_TIMEOUT_SECONDS = 3.0

# Where a process of a Ray that was started here died: what the main thread gets to stop that Ray and start another.
LOCAL_PATIENCE_SECONDS = 30.0

Leave = Callable[[str], None]
Clock = Callable[[], float]


class RayWatch(ABC):
    """Looks at Ray again and again until it is stopped or Ray is gone.

    Args:
        leave: called, in the watch's thread, when Ray is gone and nobody has called `stop`; gets what to say.
        clock: seconds that never go back.
    """

    def __init__(self, leave: Leave = lambda lost: None, clock: Clock = time.monotonic) -> None:
        self._leave = leave
        self._clock = clock
        self._over = threading.Event()

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._watch, name="ray-watch", daemon=True).start()

    def stop(self) -> None:
        """End."""
        self._over.set()

    def lost(self) -> str | None:
        """What to say of a Ray that is gone; None while it is there, and after `stop`."""
        return None if self._over.is_set() else self._lost()

    @abstractmethod
    def look(self) -> None:
        """Look once."""

    @abstractmethod
    def _lost(self) -> str | None: ...

    @property
    def _pause_seconds(self) -> float:
        return LOOK_EVERY_SECONDS

    def _watch(self) -> None:
        while not self._over.wait(self._pause_seconds):
            self.look()
            if (lost := self.lost()) is not None and not self._over.wait(NOTICE_SECONDS):
                self._leave(lost)
                return


class HeadWatch(RayWatch):
    """Knocks at the control store of a cluster.

    Args:
        address: host and port.
        leave: as of `RayWatch`.
        clock: as of `RayWatch`.
    """

    def __init__(self, address: str, leave: Leave = lambda lost: None, clock: Clock = time.monotonic) -> None:
        super().__init__(leave, clock)
        self.address = address
        self._seen = clock()

    def look(self) -> None:
        """Knock."""
        if self.answers():
            self._seen = self._clock()

    def answers(self) -> bool:
        """Is somebody there now?"""
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=HEAD_TIMEOUT_SECONDS).close()
        except OSError:
            return False
        return True

    def _lost(self) -> str | None:
        if self._clock() - self._seen < HEAD_PATIENCE_SECONDS:
            return None
        return f"the cluster's head ({self.address}) has not answered for {HEAD_PATIENCE_SECONDS:.0f} s"


class LocalWatch(RayWatch):
    """Looks at the processes of a Ray that this process starts, from before it does; sees nothing without /proc."""

    def __init__(self, leave: Leave = lambda lost: None, clock: Clock = time.monotonic) -> None:
        super().__init__(leave, clock)
        self._alive: dict[int, str] = {}
        self._died: tuple[str, float] | None = None

    def look(self) -> None:
        """Which of them are there, and has one gone that was? Once all are known, nobody else is looked at."""
        me, before = os.getpid(), self._alive
        known = before if len(before) == len(VITAL_PROCESSES) else None
        here = [each for each in processes(known) if each.parent == me and each.name in VITAL_PROCESSES]
        self._alive = {each.pid: each.name for each in here if each.state != "Z"}
        for pid in before.keys() - self._alive.keys():
            self._died = self._died or (death_of(before[pid], pid), self._clock())

    @property
    def _pause_seconds(self) -> float:
        is_up = self._died is not None or len(self._alive) == len(VITAL_PROCESSES)
        return LOOK_EVERY_SECONDS if is_up else LOOK_AT_START_SECONDS

    def _lost(self) -> str | None:
        if self._died is None or self._clock() - self._died[1] < LOCAL_PATIENCE_SECONDS:
            return None
        return f"{self._died[0]}, and Ray does not answer"


def death_of(name: str, pid: int) -> str:
    """What to say of a vital process that is gone."""
    return f"Ray's {VITAL_PROCESSES[name]} (process {pid}) died"


@dataclass(frozen=True)
class Process:
    """A process as the kernel lists it; `state` is a letter, Z for one that has ended."""

    pid: int
    parent: int
    name: str
    state: str


def processes(pids: Iterable[int] | None = None) -> Iterator[Process]:
    """Those of some ids, or all of this machine; none where there is no /proc."""
    for stat in Path("/proc").glob("[0-9]*/stat") if pids is None else [Path(f"/proc/{pid}/stat") for pid in pids]:
        with suppress(OSError):
            before, _, after = stat.read_text(errors="replace").rpartition(")")
            state, parent = after.split()[:2]
            yield Process(int(stat.parent.name), int(parent), before.partition("(")[2], state)


def descendants(root: int) -> list[int]:
    """Processes below `root`."""
    children: dict[int, list[int]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process.pid)
    found = list(children.get(root, []))
    for pid in found:
        found += children.get(pid, [])
    return found
