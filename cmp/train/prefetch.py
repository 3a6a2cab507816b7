"""The next batch is prepared by a thread while the device computes. Called by `loop` and `evaluation`."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
DEPTH = 2  # one being read, one ready


class _End(Generic[T]):
    """Put last into the queue: the makers' error, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


@contextlib.contextmanager
def prefetched(makers: Iterable[Callable[[], T]]) -> Iterator[Iterator[T]]:
    """Iterate over what `makers` return, each called in a thread a little ahead of time.

    An error in the thread is raised by the iterator. Leaving the context stops the thread and waits for it.
    """
    ready: queue.Queue[T | _End[T]] = queue.Queue(maxsize=DEPTH)
    leaving = threading.Event()
    thread = threading.Thread(target=_fill, args=(ready, leaving, makers), name="prefetch", daemon=True)
    thread.start()
    try:
        yield _take(ready)
    finally:
        leaving.set()
        with contextlib.suppress(queue.Empty):
            while True:
                ready.get_nowait()
        thread.join()


def _fill(ready: "queue.Queue[T | _End[T]]", leaving: threading.Event, makers: Iterable[Callable[[], T]]) -> None:
    error: BaseException | None = None
    try:
        for make in makers:
            if leaving.is_set():
                return
            _put(ready, leaving, make())
    except BaseException as caught:  # handed to the thread that waits for the batch
        error = caught
    _put(ready, leaving, _End(error))


def _put(ready: "queue.Queue[T | _End[T]]", leaving: threading.Event, item: "T | _End[T]") -> None:
    while not leaving.is_set():
        try:
            return ready.put(item, timeout=0.1)
        except queue.Full:
            continue


def _take(ready: "queue.Queue[T | _End[T]]") -> Iterator[T]:
    while True:
        item = ready.get()
        if isinstance(item, _End):
            if item.error is not None:
                raise item.error
            return
        yield item
