"""What a results folder shows of the journal: optuna.log, the tables, best/. Called by the ledger after each event.

A view that cannot be written (a full disk, say) is reported in one line and tried again later; it never stops a search.
"""

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from cmp.results.best import BestNote, read_note, replace_best, write_note
from cmp.results.folder import ResultsFolder
from cmp.results.history import History, TrialRecord
from cmp.results.journal import Event
from cmp.results.tables import write_results_parquet, write_trials_csv
from cmp.search.decide.optuna_log import OptunaLog
from cmp.search.decide.sampler import distributions
from cmp.space.space import Space
from cmp.store import local_folder

logger = logging.getLogger(__name__)

# The tables of a long search take their time, which is the driver's: no more than this share of it.
_TABLES_EVERY_SECONDS = 5.0
_TABLES_SHARE_OF_TIME = 0.01


class FolderViews:
    """Keeps the views of one results folder up to date."""

    def __init__(self, space: Space, folder: ResultsFolder, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._searched = dict(space.searched)
        self._clock = clock
        self._optuna_log = OptunaLog(folder.optuna_log, Path(str(folder)).name, distributions(space))
        self._optuna_log_is_whole = False
        self._events: Callable[[], Iterable[Event]] = tuple
        self._tables_due = float("-inf")
        self._note: BestNote | None = None
        self._missing: BestNote | None = None

    def start(self, history: History, events: Callable[[], Iterable[Event]]) -> None:
        """Rebuild everything from the journal, which `events` reads."""
        self._events = events
        self._note = read_note(self._folder.best)
        self._refresh(history)

    def update(self, event: Event, history: History) -> None:
        """Show one event more."""
        if self._optuna_log_is_whole:
            self._optuna_log_is_whole = _attempt("optuna.log", lambda: self._optuna_log.update(event, history))
        if event["event"] in ("reported", "failed", "completed"):
            self._update_best(history, again=False)
        if self._clock() >= self._tables_due:
            self._refresh(history)

    def finish(self, history: History) -> None:
        """Show the last state."""
        self._refresh(history)

    def _refresh(self, history: History) -> None:
        if not self._optuna_log_is_whole:
            rebuild = partial(self._optuna_log.rebuild, self._events(), history)
            self._optuna_log_is_whole = _attempt("optuna.log", rebuild)
        self._update_best(history, again=True)
        self._write_tables(history)

    def _write_tables(self, history: History) -> None:
        folder, searched, began = self._folder, self._searched, time.thread_time()
        _attempt("trials.csv", lambda: write_trials_csv(folder.trials_csv, history, searched))
        _attempt("results.parquet", lambda: write_results_parquet(folder.results_parquet, history, searched))
        seconds = time.thread_time() - began
        self._tables_due = self._clock() + max(_TABLES_EVERY_SECONDS, seconds / _TABLES_SHARE_OF_TIME)

    def _update_best(self, history: History, *, again: bool) -> None:
        """Copy the best trial's best weights when they are others; what failed is tried again only where `again`."""
        trial = history.best()
        if trial is None:
            return
        wanted = _note(trial, partial=not history.completed)
        if (wanted == self._note and self._folder.best.exists()) or (wanted == self._missing and not again):
            return
        if _attempt("best", lambda: self._show_best(trial, wanted)):
            self._note, self._missing = wanted, None
        else:
            self._missing = wanted

    def _show_best(self, trial: TrialRecord, wanted: BestNote) -> None:
        best, shown = self._folder.best, self._note
        if shown is not None and best.exists() and (shown.trial, shown.epoch) == (wanted.trial, wanted.epoch):
            write_note(best, wanted)
        else:
            with local_folder(self._folder.best_of(trial.number)) as folder:
                replace_best(best, folder, wanted)


def _note(trial: TrialRecord, *, partial: bool) -> BestNote:
    report = trial.best_report
    assert report is not None, "history.best() gives trials with a loss only"
    return BestNote(trial.number, report["epoch"], report["val_loss"], partial, dict(trial.settings))


def _attempt(view: str, write: Callable[[], None]) -> bool:
    try:
        write()
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s could not be written, the search goes on: %s", view, error)
        return False
    return True
