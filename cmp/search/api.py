"""Searching from Python: `from cmp import load_space, run_search`. The command line is a thin layer over it.

Works in a script, a notebook, a thread and without a console; a Ray that the caller is in already is used and left
running.
"""

import _thread
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmp.results.folder import ResultsFolder
from cmp.results.front import Front, Point, best_point
from cmp.results.history import History
from cmp.results.journal import each_event
from cmp.results.opening import reading
from cmp.results.requests import ask_to_stop
from cmp.results.space_file import read_space_file
from cmp.results.tables import TRIAL_COLUMNS, report_columns, trial_rows
from cmp.space.errors import UserError
from cmp.space.loading import load_space
from cmp.space.space import Space

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from cmp.model.api import Compressor
    from cmp.search.run import OnReport


@dataclass(frozen=True)
class FoundCompressor:
    """A compressor that a search found.

    Args:
        place: its folder or URL.
        point: whose it is, what it costs and its val_loss.
        settings: the searched settings of its trial.
    """

    place: str
    point: Point
    settings: Mapping[str, Any]

    @property
    def trial(self) -> int:
        """The trial's number."""
        return self.point.trial

    @property
    def positions(self) -> int:
        """What the decoder reads in the context's place."""
        return self.point.positions

    @property
    def val_loss(self) -> float:
        """Nats per target token, on the validation split."""
        return self.point.val_loss

    def compressor(self, **loading: Any) -> "Compressor":
        """Load it; arguments as of `Compressor.from_pretrained`."""
        from cmp.model.api import Compressor

        return Compressor.from_pretrained(self.place, **loading)


@dataclass(frozen=True)
class SearchResult:
    """What a search has found so far, read from its results.

    Args:
        place: the results folder, or its URL.
        space: what was searched.
        history: all that the journal says.
        exit_code: of the session that just ended, as of the command line; None where results were only opened.
    """

    place: str
    space: Space
    history: History
    exit_code: int | None = None

    @property
    def completed(self) -> bool:
        """False for partial results: the same call goes on."""
        return self.history.completed

    @cached_property
    def trials(self) -> "pd.DataFrame":
        """One row per trial, best first: the columns of trials.csv."""
        import pandas as pd

        columns = [*TRIAL_COLUMNS, *self.space.searched]
        return pd.DataFrame(trial_rows(self.history, self.space), columns=columns).set_index("trial", drop=False)

    @cached_property
    def reports(self) -> "pd.DataFrame":
        """One row per report: the columns of results.parquet."""
        import pandas as pd

        columns = report_columns(self.history, self.space.searched)
        return pd.DataFrame({**columns, "time": pd.to_datetime(columns["time"], unit="us", utc=True)})

    @cached_property
    def front(self) -> "pd.DataFrame":
        """One row per compressor on the front, cheapest first: positions, val_loss, trial, epoch, n_cmps, settings."""
        import pandas as pd

        rows = [
            {
                **self.history.trials[point.trial].settings,
                **{name: getattr(point, name) for name in ("positions", "val_loss", "trial", "epoch", "n_cmps")},
            }
            for point in self._front
        ]
        names = ["positions", "val_loss", "trial", "epoch", "n_cmps"]
        names += [name for name in self.space.searched if name not in names]
        return pd.DataFrame(rows, columns=names)

    @property
    def best(self) -> FoundCompressor | None:
        """The compressor in best/; None before a trial succeeded."""
        point = best_point(self.space, self.history)
        return None if point is None else self._found(point, "best")

    def within(self, positions: int) -> FoundCompressor | None:
        """The best compressor of at most this many positions; None where the front has none."""
        points = [point for point in self._front if point.positions <= positions]
        return self._found(points[-1], f"front/{points[-1].positions}") if points else None

    @cached_property
    def _front(self) -> list[Point]:
        return Front.of(self.history, self.space).points()

    def _found(self, point: Point, name: str) -> FoundCompressor:
        return FoundCompressor(f"{self.place}/{name}", point, self.history.trials[point.trial].settings)


def run_search(
    space: Space | str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    address: str | None = None,
    fresh: bool = False,
    retry_failed: bool = False,
    on_report: "OnReport | None" = None,
    console: "Console | None" = None,
) -> SearchResult:
    """Search, or go on with a search, until it is over or interrupted.

    Args:
        space: a space, or a space file.
        overrides: over the file's lines: `KEY=VALUE`, as on the command line, or values by key.
        address: a running Ray cluster; None is the Ray that this process is in, or one that is started for the search.
        fresh: move existing results aside and start over.
        retry_failed: put failed trials back to work.
        on_report: called with a trial's number and its metrics after each report; -1 is the text control.
        console: where to write; nothing is written by default.

    Returns:
        The results. An interrupted search (Ctrl-C, in the main thread) gives partial ones; calling again goes on.

    Raises:
        UserError: a mistake in the space, a folder that is in use, a setting that does not suit the model, the data or
            the machines.
    """
    from rich.console import Console

    from cmp.search.run import run_search as run

    if not isinstance(space, Space):
        space = load_space(space, _written(overrides))
    elif overrides:
        raise UserError(None, "overrides: they are for a space file; load_space(file, overrides) gives a space")
    code = run(
        space,
        address=address,
        fresh=fresh,
        retry_failed=retry_failed,
        console=console or Console(quiet=True, force_terminal=False),
        on_report=on_report,
        leave=_leaving(),
    )
    return open_search(space.results_place, exit_code=code)


def open_search(place: str | Path, *, exit_code: int | None = None) -> SearchResult:
    """The results of a search, running or over.

    Args:
        place: its results folder, or its URL.
        exit_code: as in `SearchResult`.

    Raises:
        UserError: there are none.
    """
    with reading(str(place)) as folder:
        _require_history(folder)
        history = History.from_events(each_event(folder.journal))
        space = Space.from_dict(read_space_file(folder.space), folder.space)
        return SearchResult(str(folder), space, history, exit_code)


def stop_trial(place: str | Path, number: int) -> None:
    """Ask a search, which may run anywhere, to stop one of its trials after its next report.

    It counts as stopped by the user; a trial that is not at work is stopped as soon as the search looks.

    Args:
        place: the search's results folder, or its URL.
        number: the trial's.

    Raises:
        UserError: there is no such search or trial, or it has ended.
    """
    with reading(str(place)) as folder:
        _require_history(folder)
        trial = History.from_events(each_event(folder.journal)).trials.get(number)
        if trial is None:
            raise UserError("--stop-trial", f"{folder} has no trial {number}")
        if trial.has_ended:
            raise UserError("--stop-trial", f"trial {number} has ended already: {trial.outcome}")
        ask_to_stop(folder, number)


def _require_history(folder: ResultsFolder) -> None:
    if not folder.has_history():
        raise UserError(None, f"{folder}: not a results folder, it has no {folder.journal.name}")


def _written(overrides: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Overrides as the command line has them; JSON is YAML."""
    if not isinstance(overrides, Mapping):
        return list(overrides)
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in overrides.items()]


def _leaving() -> Callable[[int], None]:
    """What to do when a search does not leave in time: break it off where it runs in the main thread; never more."""
    runs_in_main = threading.current_thread() is threading.main_thread()

    def leave(code: int) -> None:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        if runs_in_main:
            _thread.interrupt_main()

    return leave
