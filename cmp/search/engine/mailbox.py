"""What passes between a trial and the process that answers to Ray Tune: reports one way, decisions the other.

The same class serves inside one process (one worker) and as a tiny actor without CPU (several workers). Nothing in it
ever makes the sender wait, except `wait_for_answer`, which is bounded, so that a driver that is slow, stopped or
gone never holds a trial for good.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

Message = dict[str, Any]


class Mailbox:
    """An unbounded queue of messages, the last epoch that was answered, and a flag that asks the trial to leave."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open()

    def _open(self) -> None:
        self._messages: deque[Message] = deque()
        self._answered_epoch = 0
        self._stopped = False
        self._outcome: Message | None = None

    def reopen(self) -> None:
        """Release everybody who still waits on the last trial and start empty."""
        with self._changed:
            self._open()
            self._changed.notify_all()

    def put(self, message: Message) -> None:
        """Append a message. The first outcome is kept, so that a worker that was restarted can see it."""
        with self._changed:
            if message["event"] == "outcome":
                if self._outcome is not None:
                    return
                self._outcome = message
            self._messages.append(message)
            self._changed.notify_all()

    def outcome(self) -> Message | None:
        """How this trial ended, if it has."""
        with self._changed:
            return self._outcome

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

    def wait_for_stop(self) -> bool:
        """Return True once the trial is asked to leave, False when this trial is over."""
        with self._changed:
            messages = self._messages
            self._wait_until(lambda: self._stopped or self._messages is not messages, None)
            return self._stopped and self._messages is messages

    def _wait_until(self, true: Callable[[], bool], timeout_seconds: float | None) -> bool:
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not true():
            remaining = None if end is None else end - time.monotonic()
            if remaining is not None and remaining <= 0:
                return False
            self._changed.wait(remaining)
        return True


@dataclass(frozen=True)
class RemoteMailbox:
    """A mailbox in an actor of its own, that needs no CPU: for trials whose workers are other processes."""

    actor: Any

    @classmethod
    def start(cls) -> "RemoteMailbox":
        """Start the actor; threads, because several workers wait in it at once."""
        return cls(ray.remote(Mailbox).options(num_cpus=0, max_concurrency=32).remote())

    def __getattr__(self, name: str) -> Any:
        """Call a method of the mailbox and wait for what it returns."""
        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(self.actor, name)
        return lambda *args: ray.get(method.remote(*args))
