"""Who searches below a URL: an object that its process renews every few seconds. Called by `folder`.

For politeness only: a second search is told whom it would disturb, as by the lock on a disk. What keeps two writers
apart for certain is that each event of the journal is created once. No two clocks are compared: whoever comes watches
whether the object still changes.
"""

import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cmp.objects import NoObjectError, ObjectStore, StoreError

logger = logging.getLogger(__name__)

NAME = "lease.json"
BEAT_SECONDS = 5.0
WATCH_SECONDS = 16.0
"""Three missed beats: who is silent for so long is gone, or cut off and stopped by the journal when it comes back."""
_LOOK_SECONDS = 1.0


@contextmanager
def hold(store: ObjectStore, me: dict[str, Any], refuse: Callable[[dict[str, Any]], Exception]) -> Iterator[None]:
    """Hold the lease for the time of a block.

    Args:
        store: of the results.
        me: who holds it from now on: `host`, `pid`, `since`. The caller has made sure that no other process of this
            host does.
        refuse: makes the error to raise from who holds it already.
    """
    holder = _read(store)
    if holder is not None and holder.get("host") != me["host"] and _is_alive(store, holder):
        raise refuse(holder)
    mine = {**me, "holder": uuid.uuid4().hex}
    store.put(NAME, _text(mine, 0))
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(store.briefly(), mine, over), name="lease", daemon=True)
    beat.start()
    try:
        yield
    finally:
        over.set()
        beat.join()
        with contextlib.suppress(StoreError):
            if _is_mine(store.briefly(), mine):
                store.briefly().delete([NAME])


def _is_alive(store: ObjectStore, holder: dict[str, Any]) -> bool:
    """Watch for a while; true as soon as the object changes."""
    logger.warning(
        "%s: a search on %s was here last; watching for %.0f s whether it still runs",
        store.url, holder.get("host", "another machine"), WATCH_SECONDS,
    )  # fmt: skip
    end = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
        now = _read(store)
        if now != holder:
            return now is not None
    return False


def _beat(store: ObjectStore, mine: dict[str, Any], over: threading.Event) -> None:
    """Renew the lease until it is over or somebody else has taken it: then the journal stops this search."""
    number = 0
    while not over.wait(BEAT_SECONDS):
        number += 1
        with contextlib.suppress(StoreError):
            if not _is_mine(store, mine):
                return
            store.put(NAME, _text(mine, number))


def _is_mine(store: ObjectStore, mine: dict[str, Any]) -> bool:
    found = _read(store)
    return found is not None and found.get("holder") == mine["holder"]


def _read(store: ObjectStore) -> dict[str, Any] | None:
    try:
        found = json.loads(store.get(NAME))
    except (NoObjectError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _text(holder: dict[str, Any], beat: int) -> bytes:
    return json.dumps({**holder, "beat": beat}).encode()
