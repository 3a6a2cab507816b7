"""TensorBoard's view of a search: scalars of every report, and settings with their result in the HPARAMS tab.

`search` calls `TensorBoardWriter.update` now and then. One run per trial under `<results>/tensorboard/`; a view of the
journal like the tables. A process writes the runs of open trials anew, so that a resumed search shows no report twice,
and leaves those of ended ones alone where they are whole. When the text control's curve comes, all runs so far are
written once more: worth is read off it. Needs tensorboardX, which `ray[tune]` brings; the module imports without it.
"""

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmp.results.folder import ResultsFolder
from cmp.results.history import History, TrialRecord, is_finite
from cmp.results.space_file import read_space_file
from cmp.results.worth import TextCurve
from cmp.space.domains import Choice
from cmp.space.space import Space

SCALARS = (
    "val_loss",
    "swapped_loss",
    "worth_tokens",
    "gain",
    "carried",
    "train_loss",
    "recovered",
    "val_ppl",
    "val_acc",
    "val_top5",
    "val_rmb_loss",
    "val_rmb_acc",
    "no_context_loss",
    "full_context_loss",
    "tokens_per_second",
    "peak_memory_bytes",
    "lr",
)
RESULTS = (
    "best/val_loss",
    "best/gain",
    "best/worth_tokens",
    "best/positions",
    "best/recovered",
    "best/compression_ratio",
)
"""What the HPARAMS tab shows beside the settings: of the best epoch so far."""

_MARK = "whole"
"""Beside the event file of a trial that has ended: what it holds."""


def is_available() -> bool:
    """Whether tensorboardX is installed."""
    return importlib.util.find_spec("tensorboardX") is not None


class TensorBoardWriter:
    """Writes what is new in a history since the last call. Steps are training loops, times those of the reports.

    Args:
        folder: the results folder; its space.yaml must be there.

    Raises:
        ModuleNotFoundError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if not is_available():
            raise ModuleNotFoundError("TensorBoard files need tensorboardX: pip install -r requirements.txt")
        results = ResultsFolder(Path(folder))
        self._root = results.path / "tensorboard"
        self._texts = _mixed_choices(Space.from_dict(read_space_file(results.space)))
        self._runs: dict[int, _Run] = {}
        self._closed: set[int] = set()
        self._curve: TextCurve | None = None

    def update(self, history: History) -> None:
        """Write the reports and ends of trials that are not written yet, and flush them to the files."""
        if history.worth_curve != self._curve:
            self.close()
            self._closed.clear()
            self._curve = history.worth_curve
        for number, record in history.trials.items():
            if number in self._closed or not (record.reports or record.has_ended):
                continue
            mark = _mark(record, self._curve)
            if number not in self._runs and record.has_ended and _is_whole(self._folder(record), mark):
                self._closed.add(number)
                continue
            run = self._runs.get(number) or self._open(record)
            run.write(record, history)
            if record.has_ended:
                run.close(record, mark)
                del self._runs[number]
                self._closed.add(number)

    def close(self) -> None:
        """Close the files of trials that have not ended."""
        for run in self._runs.values():
            run.leave()
        self._runs.clear()

    def _open(self, record: TrialRecord) -> "_Run":
        settings = {k: str(v) if k in self._texts else v for k, v in record.settings.items()}
        run = _Run(self._folder(record), settings)
        self._runs[record.number] = run
        return run

    def _folder(self, record: TrialRecord) -> Path:
        return self._root / f"trial-{record.number:04d}"


def _mixed_choices(space: Space) -> set[str]:
    """Choices between unlike types, such as `half` and -1: HPARAMS wants one type for each setting."""
    choices = {name: domain for name, domain in space.searched.items() if isinstance(domain, Choice)}
    return {name for name, domain in choices.items() if len({_kind(v) for v in domain.values}) > 1}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else "text"


def _is_whole(folder: Path, mark: str) -> bool:
    """True when an earlier process wrote all that there is of a trial that has ended."""
    try:
        return (folder / _MARK).read_text() == mark
    except OSError:
        return False


def _mark(record: TrialRecord, curve: TextCurve | None) -> str:
    measure = (
        "" if curve is None else f", worth by {'the text control' if curve.trained else 'the backbone'} {curve.points}"
    )
    return f"{record.status} after {len(record.reports)} reports{measure}\n"


def _with_worth(report: Mapping[str, Any], history: History) -> dict[str, Any]:
    worth = history.worth_of(report)
    return {**report, **({} if worth is None else worth.columns)}


class _Run:
    """The event file of one trial. A report is one event with all its scalars: a tenth of the time of one for each."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.summary import hparams

        folder.mkdir(parents=True, exist_ok=True)
        for old in (*folder.glob("events.out.tfevents.*"), folder / _MARK):
            old.unlink(missing_ok=True)
        self._folder = folder
        self._event, self._summary = Event, Summary
        self._file = EventsWriter(str(folder / "events"))
        known = {name: value for name, value in settings.items() if value is not None}
        experiment, start, self._end = hparams(known, dict.fromkeys(RESULTS, 0.0))
        self._add(experiment)
        self._add(start)
        self._written = 0
        self._best: dict[str, Any] | None = None

    def write(self, record: TrialRecord, history: History) -> None:
        """The reports after the last one written."""
        new = list(zip(record.report_times, record.reports, strict=True))[self._written :]
        for moment, report in new:
            better = is_finite(report.get("val_loss")) and (
                self._best is None or report["val_loss"] < self._best["val_loss"]
            )
            self._best = report if better else self._best
            known = _with_worth(report, history)
            scalars = {name: known.get(name) for name in SCALARS}
            if self._best is not None:
                best = known if better else _with_worth(self._best, history)
                scalars |= {name: best.get(name.removeprefix("best/")) for name in RESULTS}
            self._add(self._summary_of(scalars), int(report.get("loops") or report["epoch"]), moment)
        self._written += len(new)
        if new:
            self._file.flush()

    def close(self, record: TrialRecord, mark: str) -> None:
        """Mark the run as ended well, unless it failed, close its file and note that it is whole."""
        if record.status != "failed":
            self._add(self._end)
        self.leave()
        (self._folder / _MARK).write_text(mark)

    def leave(self) -> None:
        """Close the file; another process will write it anew."""
        self._file.close()

    def _summary_of(self, scalars: dict[str, Any]) -> Any:
        known = {name: value for name, value in scalars.items() if is_finite(value)}
        return self._summary(value=[self._summary.Value(tag=tag, simple_value=value) for tag, value in known.items()])

    def _add(self, summary: Any, step: int = 0, moment: float | None = None) -> None:
        event = self._event(summary=summary, step=step, wall_time=time.time() if moment is None else moment)
        self._file.write_event(event)
