"""The trial's `log.txt`: what happened and when, appended over all its runs. Called by everything in a trial."""

import contextlib
import time

from cmp.store import Twin


class TrialLog:
    """One line per event; a log that cannot be written never ends a trial.

    Args:
        home: the trial's folder.
        rank: of the worker that writes. On a disk all write to one file; on a store, where two would replace each
            other's, each worker has its own.
    """

    def __init__(self, home: Twin, rank: int = 0) -> None:
        self._home = home
        self._name = "log.txt" if rank == 0 or home.url is None else f"log-worker-{rank}.txt"
        self._path = home.path / self._name
        self._prefix = "" if rank == 0 else f"worker {rank}: "
        with contextlib.suppress(OSError):
            home.briefly.fetch(self._name)

    def send(self) -> None:
        """Let the store have what was written so far."""
        if self._path.exists():
            with contextlib.suppress(OSError):
                self._home.briefly.send(self._name)

    def __call__(self, text: str) -> None:
        """Append `text` after the time; further lines of it are indented."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        body = text.rstrip().replace("\n", "\n    ")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{stamp}  {self._prefix}{body}\n")
        except OSError:
            return  # a full disk, most likely: what the line would say is also in the outcome
