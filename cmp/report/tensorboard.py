"""TensorBoard's view of a search: scalars of every report, and settings with their result in the HPARAMS tab.

`search` calls `TensorBoardWriter.update` after each event of the ledger. One run per trial under
`<results>/tensorboard/`; a view of the journal like the tables, written anew by each process, so that a resumed search
shows no report twice. Needs tensorboardX, which `ray[tune]` brings; the module imports without it.
"""

import importlib.util
from pathlib import Path
from typing import Any

from cmp.results.folder import ResultsFolder
from cmp.results.history import History, TrialRecord, is_finite
from cmp.results.space_file import read_space_file
from cmp.space.domains import Choice
from cmp.space.space import Space

SCALARS = (
    "val_loss",
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
RESULTS = ("best/val_loss", "best/recovered", "best/compression_ratio")
"""What the HPARAMS tab shows beside the settings: of the best epoch so far."""


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

    def update(self, history: History) -> None:
        """Write the reports and ends of trials that are not written yet, and flush them to the files."""
        for number, record in history.trials.items():
            if number in self._closed or not (record.reports or record.has_ended):
                continue
            run = self._runs.get(number) or self._open(record)
            run.write(record)
            if record.has_ended:
                run.close(record)
                del self._runs[number]
                self._closed.add(number)

    def close(self) -> None:
        """Close the files of trials that have not ended."""
        for run in self._runs.values():
            run.writer.close()
        self._runs.clear()

    def _open(self, record: TrialRecord) -> "_Run":
        settings = {k: str(v) if k in self._texts else v for k, v in record.settings.items()}
        run = _Run(self._root / f"trial-{record.number:04d}", settings)
        self._runs[record.number] = run
        return run


def _mixed_choices(space: Space) -> set[str]:
    """Choices between unlike types, such as `half` and -1: HPARAMS wants one type for each setting."""
    choices = {name: domain for name, domain in space.searched.items() if isinstance(domain, Choice)}
    return {name for name, domain in choices.items() if len({_kind(v) for v in domain.values}) > 1}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else "text"


class _Run:
    """The event file of one trial."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = SummaryWriter(str(folder))
        known = {name: value for name, value in settings.items() if value is not None}
        experiment, start, self._end = hparams(known, dict.fromkeys(RESULTS, 0.0))
        self.writer.file_writer.add_summary(experiment)
        self.writer.file_writer.add_summary(start)
        self._written = 0
        self._best: dict[str, Any] | None = None

    def write(self, record: TrialRecord) -> None:
        """The reports after the last one written."""
        new = list(zip(record.report_times, record.reports, strict=True))[self._written :]
        for time, report in new:
            self._scalars({name: report.get(name) for name in SCALARS}, report, time)
            better = is_finite(report.get("val_loss")) and (
                self._best is None or report["val_loss"] < self._best["val_loss"]
            )
            self._best = report if better else self._best
            if self._best is not None:
                best = {name: self._best.get(name.removeprefix("best/")) for name in RESULTS}
                self._scalars(best, report, time)
        self._written += len(new)
        if new:
            self.writer.flush()

    def close(self, record: TrialRecord) -> None:
        """Mark the run as ended well, unless it failed, and close its file."""
        if record.status != "failed":
            self.writer.file_writer.add_summary(self._end)
        self.writer.close()

    def _scalars(self, values: dict[str, Any], report: dict[str, Any], time: float) -> None:
        for name, value in values.items():
            if is_finite(value):
                self.writer.add_scalar(name, value, int(report.get("loops") or report["epoch"]), walltime=time)
