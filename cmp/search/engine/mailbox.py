"""What passes between a trial's thread and the one that answers to Ray Tune: reports one way, decisions the other.

Nothing in it ever makes the trial wait, except `wait_for_answer`, which is bounded, so that a driver that is slow,
stopped or gone never holds a trial for good. Each trial has a mailbox of its own.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]


class Mailbox:
    """An unbounded queue of messages, the last epoch that was answered, and a flag that asks the trial to leave."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages: deque[Message] = deque()
        self._answered_epoch = 0
        self._stopped = False
        self._outcome: Message | None = None

    def put(self, message: Message) -> None:
        """Append a message. Only the first outcome counts."""
        with self._changed:
            if message["event"] == "outcome":
                if self._outcome is not None:
                    return
                self._outcome = message
            self._messages.append(message)
            self._changed.notify_all()

    def wait_for_outcome(self, timeout_seconds: float) -> bool:
        """Return True once the trial has an outcome, False after `timeout_seconds`."""
        with self._changed:
            return self._wait_until(lambda: self._outcome is not None, timeout_seconds)

    def next(self, timeout_seconds: float | None = None) -> Message | None:
        """The oldest message, waiting for one; None after `timeout_seconds`."""
        with self._changed:
            if self._wait_until(lambda: bool(self._messages), timeout_seconds):
                return self._messages.popleft()
            return None

    def answer(self, epoch: int) -> None:
        """The search has seen `epoch` and lets the trial go on."""
        with self._changed:
            self._answered_epoch = max(self._answered_epoch, epoch)
            self._changed.notify_all()

    def wait_for_answer(self, epoch: int, timeout_seconds: float) -> None:
        """Return once `epoch` was answered, the trial was asked to leave, or the time is over."""
        with self._changed:
            self._wait_until(lambda: self._stopped or self._answered_epoch >= epoch, timeout_seconds)

    def stop(self) -> None:
        """Ask the trial to leave."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def stopped(self) -> bool:
        """True once the trial was asked to leave."""
        return self._stopped

    def _wait_until(self, true: Callable[[], bool], timeout_seconds: float | None) -> bool:
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not true():
            remaining = None if end is None else end - time.monotonic()
            if remaining is not None and remaining <= 0:
                return False
            self._changed.wait(remaining)
        return True
