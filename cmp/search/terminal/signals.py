"""What Ctrl-C, a polite kill and a closed terminal mean to a search.

Before trials run, a signal ends the program at once. While they run, the first signal asks all of them to checkpoint
where they are, through Ray; the search then ends by itself, or by force when it takes too long. A
second signal ends the process on the spot: the journal and the checkpoints already hold everything.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from cmp.space.errors import EXIT_INTERRUPTED

# From the first signal on: Tune is told to end, and then the process ends however far Tune has got.
LEAVE_SECONDS = 12.0
FORCE_SECONDS = 17.0

# Batch systems signal all processes of a job, Ray's own too. Tune would wait for an answer of a Ray that is gone.
WITHOUT_RAY_SECONDS = 2.0
WATCH_PERIOD_SECONDS = 0.25

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = "\x1b[?25h"


class InterruptedEarlyError(KeyboardInterrupt):
    """A signal arrived while no trial was running."""


class Interruption:
    """Installed around a search; asked by its loop.

    Args:
        farewell: what to tell the user, called when the process has to end by force.
        end: ends the process; replaced in tests.
    """

    def __init__(self, farewell: Callable[[], str], end: Callable[[int], Any] = os._exit) -> None:
        self._request_stop: Callable[[], None] = lambda: None
        self._farewell = farewell
        self._end = end
        self._previous: dict[signal.Signals, Any] = {}
        self._ray_is_alive: Callable[[], bool] | None = None
        self._since: float | None = None
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._leave_in_time, name="leave-in-time", daemon=True)
        self.signal: str | None = None

    def __enter__(self) -> Self:
        """Take over the signals; one that is ignored (as under nohup) stays ignored."""
        self.install()
        return self

    def __exit__(self, *error: object) -> None:
        """Give the signals back."""
        self._over.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Take over the signals, again where Ray has put a handler of its own in between.

        Only the main thread gets signals; in another one the search is left alone by them.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            current = signal.getsignal(number)
            if current is signal.SIG_IGN or current == self._handle:
                continue
            self._previous.setdefault(number, current)
            signal.signal(number, self._handle)

    def trials_run(self, ray_is_alive: Callable[[], bool], request_stop: Callable[[], None]) -> None:
        """From now on a signal lets trials checkpoint first, as long as Ray is there to let them.

        Args:
            ray_is_alive: asked several times a second.
            request_stop: makes the trials leave; it may wait for Ray, so it is called in a thread of its own.
        """
        self._request_stop = request_stop
        self._ray_is_alive = ray_is_alive

    def trials_ended(self) -> None:
        """Ray may go now; a signal that came before still ends the program in time."""
        self._ray_is_alive = lambda: True

    @property
    def requested(self) -> bool:
        """True once a signal has arrived."""
        return self.signal is not None

    def overdue(self) -> bool:
        """True when the trials have had their time to leave."""
        return self._since is not None and time.monotonic() - self._since > LEAVE_SECONDS

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.signal is not None:
            self._abort(f"\n{name} again: leaving at once. Nothing is lost. {self._farewell()}\n")
            return
        self.signal = name
        if self._ray_is_alive is None:
            raise InterruptedEarlyError(name)
        self._since = time.monotonic()
        threading.Thread(target=self._request_stop, name="ask-trials-to-leave", daemon=True).start()
        self._watch.start()

    def _leave_in_time(self) -> None:
        """A thread of its own: the main thread may hang in a call to Ray."""
        assert self._since is not None and self._ray_is_alive is not None
        ray_seen = self._since
        while not self._over.wait(WATCH_PERIOD_SECONDS):
            now = time.monotonic()
            ray_seen = now if self._ray_is_alive() else ray_seen
            if now - ray_seen > WITHOUT_RAY_SECONDS:
                return self._leave_by_force("Ray was ended, too")
            if now - self._since > FORCE_SECONDS:
                return self._leave_by_force("A trial did not leave in time")
        return None

    def _leave_by_force(self, reason: str) -> None:
        self._abort(f"\n{reason}; nothing before the trials' last checkpoints is lost. {self._farewell()}\n")

    def _abort(self, message: str) -> None:
        os.write(sys.stderr.fileno(), ((_SHOW_CURSOR if sys.stderr.isatty() else "") + message).encode())
        self._end(EXIT_INTERRUPTED)
