"""What a process keeps between trials: loaded backbones and opened data. Called by `trial`.

Both are read-only to a trial, so that a trial in a warm process gives the same bits as in a fresh one. Everything
else of a trial (trainables, optimizer, buffers) dies with it.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class WarmCache(Generic[T]):
    """The last few things made, by key."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The thing of `key`, made now if it is not there; the one used longest ago makes room first."""
        with self._lock:
            if key not in self._kept:
                while len(self._kept) >= self._capacity:
                    self._kept.popitem(last=False)
                self._kept[key] = make()
            self._kept.move_to_end(key)
            return self._kept[key]

    def clear(self) -> None:
        """Forget everything, to give memory back."""
        with self._lock:
            self._kept.clear()
