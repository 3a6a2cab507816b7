"""The wish that trials leave, from the driver to their processes, through Ray's own key-value store.

Not through a file: network file systems show a new file to other machines only after their attribute caches run out, up
to a minute later; a batch system or `ray job stop` waits for seconds. One read takes 0.3 ms of the control store.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from cmp.search.engine.ray_private import kv_delete, kv_read, kv_write

LOOK_EVERY_SECONDS = 0.25


@dataclass(frozen=True)
class Wish:
    """Who should write a checkpoint and leave: everybody, or those with a worker on one of these nodes."""

    everybody: bool = False
    nodes: frozenset[str] = frozenset()

    def concerns(self, nodes: Iterable[str | None]) -> bool:
        """Is a trial meant whose workers are on `nodes`?"""
        return self.everybody or not self.nodes.isdisjoint(nodes)

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return json.dumps({"everybody": self.everybody, "nodes": sorted(self.nodes)}).encode()

    @classmethod
    def from_bytes(cls, content: bytes | None) -> "Wish":
        """What was stored; nothing is no wish."""
        if not content:
            return cls()
        plain = json.loads(content)
        return cls(plain["everybody"], frozenset(plain["nodes"]))


@dataclass
class Control:
    """The driver's end. A signal's thread and the main one may ask at the same time: neither wish gets lost.

    Args:
        key: of this session; its trials' jobs have it.
        write: stores bytes under a key.
        delete: removes them.
    """

    key: str
    write: Callable[[str, bytes], None] = kv_write
    delete: Callable[[str], None] = kv_delete
    wish: Wish = field(default_factory=Wish)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask_everybody(self) -> None:
        """All trials should leave."""
        with self._lock:
            self._store(Wish(True, self.wish.nodes))

    def ask_on(self, nodes: frozenset[str]) -> None:
        """Trials with a worker on exactly these nodes should leave; said again only when it changes."""
        if nodes == self.wish.nodes:
            return
        with self._lock:
            self._store(Wish(self.wish.everybody, nodes))

    def forget(self) -> None:
        """The session is over."""
        self.delete(self.key)

    def _store(self, wish: Wish) -> None:
        self.wish = wish
        self.write(self.key, wish.to_bytes())


class LeaveWatch:
    """The end in a trial's process: a thread that looks, so that asking costs the training loop nothing."""

    _of_key: ClassVar[dict[str, "LeaveWatch"]] = {}

    @classmethod
    def of(cls, key: str) -> "LeaveWatch":
        """The one of this process for a session."""
        if key not in cls._of_key:
            cls._of_key[key] = cls(key)
        return cls._of_key[key]

    def __init__(self, key: str, read: Callable[[str], bytes | None] = kv_read) -> None:
        self._key = key
        self._read = read
        self._wish = Wish()
        threading.Thread(target=self._look, name="leave-watch", daemon=True).start()

    def listener(self, nodes: list[str | None]) -> Callable[[], bool]:
        """Asks whether a trial with workers on `nodes` should leave."""
        return lambda: self._wish.concerns(nodes)

    def _look(self) -> None:
        while True:
            with contextlib.suppress(Exception):  # the control store is away for a moment: the last wish holds
                self._wish = Wish.from_bytes(self._read(self._key))
            time.sleep(LOOK_EVERY_SECONDS)
