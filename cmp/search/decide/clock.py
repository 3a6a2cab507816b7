"""The time of a session's events: unix seconds that only ever go forward. Called by the ledger.

The wall clock may jump: network time corrects it, a laptop wakes up, a person sets it. Durations are differences of the
times in the journal, so within a session these follow a steady clock, which does not count while a machine sleeps.
"""

import time
from collections.abc import Callable


class SessionClock:
    """Begins at the wall clock's time, or where the journal ended if that is later.

    Args:
        not_before: the time of the journal's last event.
        wall: unix seconds; looked at once.
        steady: seconds that go on evenly.
    """

    def __init__(
        self,
        not_before: float = 0.0,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._steady = steady
        self._offset = max(wall(), not_before) - steady()

    def __call__(self) -> float:
        """Now, in unix seconds."""
        return self._offset + self._steady()
