"""The two tables of a results folder, derived from the history and replaced in one step.

`trials.csv` has one row per trial, best first, for people; `results.parquet` one typed row per report, for analysis.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmp.results.front import Front, positions_by_trial
from cmp.results.history import History, TrialRecord
from cmp.space.domains import Choice, Domain, Int, LogInt
from cmp.space.space import Space
from cmp.store import replacing

if TYPE_CHECKING:
    import pyarrow as pa

TRIAL_COLUMNS = (
    "trial",
    "status",
    "epoch",
    "loops",
    "seconds",
    "val_loss",
    "positions",
    "front",
    "worth_tokens",
    "gain",
    "carried",
    "swapped_loss",
    "recovered",
    "no_context_loss",
    "full_context_loss",
    "compression_ratio",
)
"""Then the searched settings. Losses and what follows are those of the trial's best epoch.

`front` has the numbers of positions at which no trial does better at that price or below: for a nested trial perhaps
several, none for a trial that is not on the front.
"""

_BEST_COLUMNS = (
    "val_loss",
    "swapped_loss",
    "recovered",
    "no_context_loss",
    "full_context_loss",
    "compression_ratio",
)
_WHOLE_METRICS = ("epoch", "loops", "tokens", "peak_memory_bytes", "positions")
_REAL_METRICS = (
    "train_loss",
    "val_loss",
    "val_ppl",
    "val_acc",
    "val_top5",
    "no_context_loss",
    "full_context_loss",
    "recovered",
    "compression_ratio",
    "tokens_per_second",
    "seconds",
    "lr",
    "val_rmb_loss",
    "val_rmb_acc",
    "swapped_loss",
)
_WORTH_METRICS = ("worth_tokens", "gain", "carried")


def trial_rows(history: History, space: Space) -> list[dict[str, Any]]:
    """The rows of trials.csv, best first; a value that is not known is None."""
    on_front = positions_by_trial(Front.of(history, space).points())
    return [_trial_row(history, space, trial, on_front.get(trial.number, [])) for trial in history.ranked()]


def write_trials_csv(path: Path, history: History, space: Space) -> None:
    """Replace trials.csv. Unknown values are empty cells."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*TRIAL_COLUMNS, *space.searched], lineterminator="\n")
        writer.writeheader()
        writer.writerows(trial_rows(history, space))


def write_results_parquet(path: Path, history: History, searched: Mapping[str, Domain]) -> None:
    """Replace results.parquet.

    One row per report: trial, status (of the trial), time (UTC, when the report was journalled), the metrics
    of `EpochReport`, and the searched settings as `setting.<name>`, so that a setting never hides a metric.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = results_schema(searched)
    table = pa.Table.from_pydict(report_columns(history, searched), schema=schema)
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def results_schema(searched: Mapping[str, Domain]) -> "pa.Schema":
    """Names and types of results.parquet's columns."""
    import pyarrow as pa

    whole = [(name, pa.int64()) for name in _WHOLE_METRICS]
    real = [(name, pa.float64()) for name in (*_REAL_METRICS, *_WORTH_METRICS)]
    settings = [(f"setting.{name}", _arrow_type(domain)) for name, domain in searched.items()]
    moment = pa.timestamp("us", tz="UTC")
    return pa.schema([("trial", pa.int64()), ("status", pa.string()), ("time", moment), *whole, *real, *settings])


def _arrow_type(domain: Domain) -> "pa.DataType":
    import pyarrow as pa

    if isinstance(domain, Int | LogInt):
        return pa.int64()
    if not isinstance(domain, Choice):
        return pa.float64()
    kinds = {type(value) for value in domain.values if value is not None}
    types = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    if kinds == {int, float}:
        return pa.float64()
    return types.get(kinds.pop(), pa.string()) if len(kinds) == 1 else pa.string()


def _trial_row(history: History, space: Space, trial: TrialRecord, on_front: list[int]) -> dict[str, Any]:
    best = trial.best_report or {}
    last = trial.reports[-1] if trial.reports else {}
    return {
        "trial": trial.number,
        "status": trial.outcome,
        "epoch": trial.epoch,
        "loops": last.get("loops", 0),
        "seconds": round(trial.seconds, 1),
        **{name: best.get(name) for name in _BEST_COLUMNS},
        "positions": space.settings_of(trial.settings).positions if trial.reports else None,
        "front": " ".join(map(str, on_front)) or None,
        **_worth_cells(history, trial.best_report),
        **{name: trial.settings[name] for name in space.searched},
    }


def report_columns(history: History, searched: Mapping[str, Domain]) -> dict[str, list[Any]]:
    """The columns of results.parquet, times in microseconds.

    Column by column, which for a hundred thousand reports takes a fifth of the time of row by row.
    """
    trials = [trial for _, trial in sorted(history.trials.items())]
    reports = [report for trial in trials for report in trial.reports]

    def of_trial(value: Callable[[TrialRecord], Any]) -> list[Any]:
        return [shown for trial in trials for shown in [value(trial)] * len(trial.reports)]

    def setting(name: str, as_text: bool) -> list[Any]:
        return of_trial(lambda trial: _cell(trial.settings[name], as_text))

    return {
        "trial": of_trial(lambda trial: trial.number),
        "status": of_trial(lambda trial: trial.outcome),
        "time": [round(moment * 1e6) for trial in trials for moment in trial.report_times],
        **{name: [report.get(name) for report in reports] for name in (*_WHOLE_METRICS, *_REAL_METRICS)},
        **_worth_columns(history, reports),
        **{f"setting.{name}": setting(name, str(_arrow_type(domain)) == "string") for name, domain in searched.items()},
    }


def _worth_cells(history: History, report: Mapping[str, Any] | None) -> dict[str, float | None]:
    worth = None if report is None else history.worth_of(report)
    return dict(
        zip(_WORTH_METRICS, (None,) * 3 if worth is None else (worth.tokens, worth.gain, worth.carried), strict=True)
    )


def _worth_columns(history: History, reports: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    cells = [_worth_cells(history, report) for report in reports]
    return {name: [row[name] for row in cells] for name in _WORTH_METRICS}


def _cell(value: Any, as_text: bool) -> Any:
    return str(value) if as_text and value is not None else value
