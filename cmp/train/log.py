"""The trial's `log.txt`: what happened and when, appended over all its runs. Called by everything in a trial."""

import time
from pathlib import Path


class TrialLog:
    """One line per event; a log that cannot be written never ends a trial."""

    def __init__(self, path: Path, prefix: str = "") -> None:
        self._path = path
        self._prefix = prefix

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
