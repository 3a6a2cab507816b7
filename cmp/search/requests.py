"""Looks for what is asked of a running search from elsewhere, in a thread: a store may take its time to answer."""

import logging
import queue
import threading
from typing import Self

from cmp.objects import StoreError
from cmp.results.folder import ResultsFolder
from cmp.results.requests import asked_to_stop, take_away
from cmp.search.decide.ledger import Ledger

logger = logging.getLogger(__name__)

EVERY_SECONDS = 2.0
EVERY_SECONDS_ON_A_STORE = 20.0


class RequestWatch:
    """Asked by the search's loop at every step."""

    def __init__(self, folder: ResultsFolder) -> None:
        self._folder = folder
        self._found: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="request-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def answer(self, ledger: Ledger) -> list[int]:
        """Journal the requests that have come; returns the trials that will stop because of them."""
        stopping = []
        while not self._found.empty():
            number = self._found.get()
            if ledger.ask_to_stop(number):
                stopping.append(number)
            self._take_away(number)
        return stopping

    def _look(self) -> None:
        pause = EVERY_SECONDS if self._folder.url is None else EVERY_SECONDS_ON_A_STORE
        seen: set[int] = set()
        while not self._over.is_set():
            try:
                now = set(asked_to_stop(self._folder))
                for number in sorted(now - seen):
                    self._found.put(number)
                seen = now
            except (OSError, StoreError) as error:
                logger.debug("requests could not be looked for: %s", error)
            self._over.wait(pause)

    def _take_away(self, number: int) -> None:
        try:
            take_away(self._folder, number)
        except (OSError, StoreError) as error:
            logger.warning("the request to stop trial %d is still there: %s", number, error)
