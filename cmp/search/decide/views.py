"""What a results folder shows of the journal: optuna.log, tables, best/, front/. Called by the ledger after each event.

A view that cannot be written (a full disk, say) is reported in one line and tried again later; it never stops a search.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from cmp.results.best import BestNote, read_note, replace_best, write_note
from cmp.results.folder import ResultsFolder
from cmp.results.front import Front, Point, points_of
from cmp.results.history import History
from cmp.results.journal import Event
from cmp.results.tables import write_results_parquet, write_trials_csv
from cmp.search.decide.extras import wants_control
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
        self._space = space
        self._folder = folder
        self._clock = clock
        name, has_control = Path(str(folder)).name, wants_control(space)
        self._optuna_log = OptunaLog(folder.optuna_log, name, distributions(space), has_control=has_control)
        self._optuna_log_is_whole = False
        self._events: Callable[[], Iterable[Event]] = tuple
        self._tables_due = float("-inf")
        self._front = Front(space)
        self._best = _Copy(folder, folder.best)
        self._copies: dict[int, _Copy] = {}

    def start(self, history: History, events: Callable[[], Iterable[Event]]) -> None:
        """Rebuild everything from the journal, which `events` reads."""
        self._events = events
        for trial in history.trials.values():
            self._front.update(trial)
        for path in self._folder.front.glob("[0-9]*"):
            self._copies[int(path.name)] = _Copy(self._folder, path)
        self._refresh(history)

    def update(self, event: Event, history: History) -> None:
        """Show one event more."""
        if self._optuna_log_is_whole:
            self._optuna_log_is_whole = _attempt("optuna.log", lambda: self._optuna_log.update(event, history))
        if event.get("trial", -1) >= 0:
            self._front.update(history.trials[event["trial"]])
        if event["event"] in ("reported", "failed", "completed"):
            self._update_copies(history, again=False)
        if self._clock() >= self._tables_due:
            self._refresh(history)

    def finish(self, history: History) -> None:
        """Show the last state."""
        self._refresh(history)

    def _refresh(self, history: History) -> None:
        if not self._optuna_log_is_whole:
            rebuild = partial(self._optuna_log.rebuild, self._events(), history)
            self._optuna_log_is_whole = _attempt("optuna.log", rebuild)
        self._update_copies(history, again=True)
        self._write_tables(history)

    def _write_tables(self, history: History) -> None:
        folder, space, began = self._folder, self._space, time.thread_time()
        _attempt("trials.csv", lambda: write_trials_csv(folder.trials_csv, history, space))
        _attempt("results.parquet", lambda: write_results_parquet(folder.results_parquet, history, space.searched))
        seconds = time.thread_time() - began
        self._tables_due = self._clock() + max(_TABLES_EVERY_SECONDS, seconds / _TABLES_SHARE_OF_TIME)

    def _update_copies(self, history: History, *, again: bool) -> None:
        """Copy the weights of best/ and front/ when they are others; what failed is tried again only where `again`."""
        best = self._chosen(history)
        if best is not None:
            self._best.show(best, history, again=again)
        points = {point.positions: point for point in self._front.points()}
        for positions, point in points.items():
            copy = self._copies.setdefault(positions, _Copy(self._folder, self._folder.front / str(positions)))
            copy.show(point, history, again=again, linked=True)
        for positions in self._copies.keys() - points.keys():
            self._copies.pop(positions).remove()

    def _chosen(self, history: History) -> Point | None:
        """What best/ holds; as `results.front.best_point`, from the front that is known here."""
        budget = self._space.search.best_positions
        if budget is not None:
            return self._front.best_within(budget)
        trial = history.best()
        return None if trial is None else points_of(self._space.settings_of(trial.settings), trial)[-1]


class _Copy:
    """One folder with a copy of a trial's best weights."""

    def __init__(self, folder: ResultsFolder, path: Path) -> None:
        self._folder = folder
        self._path = path
        self._note = read_note(path)
        self._missing: BestNote | None = None

    def show(self, point: Point, history: History, *, again: bool, linked: bool = False) -> None:
        """Hold this compressor."""
        wanted = _note(point, history)
        if (wanted == self._note and self._path.exists()) or (wanted == self._missing and not again):
            return
        view = str(self._path.relative_to(self._folder.path))
        if _attempt(view, lambda: self._write(wanted, linked)):
            self._note, self._missing = read_note(self._path), None
        else:
            self._missing = wanted

    def remove(self) -> None:
        """Hold nothing any more."""
        _attempt(str(self._path.relative_to(self._folder.path)), lambda: shutil.rmtree(self._path, ignore_errors=True))

    def _write(self, wanted: BestNote, linked: bool) -> None:
        shown = self._note
        if shown is not None and self._path.exists() and _weights(shown) == _weights(wanted):
            write_note(self._path, wanted)
        else:
            with local_folder(self._folder.best_of(wanted.trial)) as source:
                replace_best(self._path, source, wanted, linked=linked and self._folder.url is None)


def _weights(note: BestNote) -> tuple[int, int, int | None]:
    return note.trial, note.epoch, note.n_cmps


def _note(point: Point, history: History) -> BestNote:
    trial = history.trials[point.trial]
    return BestNote(
        trial=point.trial,
        epoch=point.epoch,
        val_loss=point.val_loss,
        partial=not history.completed,
        settings=dict(trial.settings),
        positions=point.positions,
        n_cmps=point.n_cmps if point.is_prefix else None,
    )


def _attempt(view: str, write: Callable[[], None]) -> bool:
    try:
        write()
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s could not be written, the search goes on: %s", view, error)
        return False
    return True
