"""Who watches a search besides the terminal: the page, TensorBoard, Ray's metrics, Weights & Biases, MLflow.

All of them are views. What goes wrong in one is said in one line and costs the search nothing.
"""

import importlib.util
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cmp.report.page import write_page
from cmp.report.tensorboard import TensorBoardWriter, is_available
from cmp.results.folder import ResultsFolder
from cmp.results.history import History
from cmp.results.journal import Event, JournalReader
from cmp.search.decide.ledger import Ledger
from cmp.search.engine.metrics import RayMetrics
from cmp.search.engine.trackers import tracker_callbacks
from cmp.space.errors import UserError
from cmp.space.space import Space

logger = logging.getLogger(__name__)

# The page takes some tenths of a second of the driver's time; it is written at most this often, and never so often
# that it takes more than a few percent of one core.
PAGE_EVERY_SECONDS = 10.0
PAGE_SHARE_OF_TIME = 0.03

# What to install for each tracker; the whole of mlflow would replace pyarrow by an older one.
TRACKER_PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny"}


@contextmanager
def observers(
    space: Space, folder: ResultsFolder, ledger: Ledger, show: Callable[[Event], None]
) -> Iterator[list[Any]]:
    """Let all of them watch, and `show` too; gives the callbacks that Ray Tune has to call itself."""
    scribe = Scribe(folder)
    listeners = [show, RayMetrics(space.name, ledger.history).on_event, scribe.on_event]
    for listener in listeners:
        ledger.subscribe(listener)
    try:
        yield tracker_callbacks(space, folder, ledger.history)
    finally:
        for listener in listeners:
            ledger.unsubscribe(listener)
        scribe.close()


class Scribe:
    """Writes report.html and the TensorBoard files in a thread of its own, from the journal on disk."""

    def __init__(self, folder: ResultsFolder) -> None:
        self._folder = folder
        self._news = threading.Event()
        self._ended = False
        self._journal = JournalReader(folder.journal)
        self._history = History()
        self._tensorboard: TensorBoardWriter | None = None
        self._thread = threading.Thread(target=self._work, name="scribe", daemon=True)
        self._thread.start()

    def on_event(self, event: Event) -> None:
        """Take note that there is something to write."""
        self._news.set()

    def close(self) -> None:
        """Write the last state and end."""
        self._ended = True
        self._news.set()
        self._thread.join()
        self._write()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _work(self) -> None:
        while not self._ended:
            self._news.wait()
            self._news.clear()
            if not self._ended:
                seconds = self._write()
                self._pause(max(PAGE_EVERY_SECONDS, seconds / PAGE_SHARE_OF_TIME))

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._ended and time.monotonic() < end:
            time.sleep(0.1)

    def _write(self) -> float:
        """Write everything once; returns the processor time that it took, in seconds."""
        began = time.thread_time()
        try:
            self._read()
            write_page(self._folder.path, self._history)
            self._write_tensorboard()
        except Exception as error:  # a view that breaks must not end a search of days
            logger.warning("the page could not be written, the search goes on: %s: %s", type(error).__name__, error)
        return time.thread_time() - began

    def _write_tensorboard(self) -> None:
        if self._tensorboard is None and is_available():
            self._tensorboard = TensorBoardWriter(self._folder.path)
        if self._tensorboard is not None:
            self._tensorboard.update(self._history)

    def _read(self) -> None:
        """Take up what is new; after a journal that could not be followed, everything from the start."""
        try:
            for event in self._journal.news():
                self._history.apply(event)
        except Exception:
            self._journal, self._history = JournalReader(self._folder.journal), History()
            raise


def require_tracker(space: Space) -> None:
    """Fail early when the package that `search.tracker` names is not installed.

    Raises:
        UserError: it is not.
    """
    tracker = space.search.tracker
    if tracker is not None and importlib.util.find_spec(tracker) is None:
        remedy = f"pip install {TRACKER_PACKAGES[tracker]}, or remove this line"
        raise UserError("search.tracker", f"{tracker} is not installed; {remedy}")
