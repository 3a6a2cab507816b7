"""`optuna.log`: the journal in the words of Optuna's JournalStorage, so that optuna-dashboard can show a search.

A view: nothing reads it back. Each journal event becomes the same few lines whenever it is translated, so the file
rebuilt at a start begins with what it held before, and a dashboard that has it open reads on. The states are those
of the journal: finished = COMPLETE with the best val_loss, stopped = PRUNED with its last one, failed = FAIL. User
attributes are those of a trial's last report. What it is worth in plain text is known once the text control is done;
a trial that ended before has no such attribute, because Optuna changes nothing of a trial that has ended.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.study import StudyDirection
from optuna.trial import TrialState

from cmp.results.history import CONTROL, History, TrialRecord, is_finite
from cmp.results.journal import Event
from cmp.results.worth import TextCurves
from cmp.search.decide.optuna_private import JournalOperation
from cmp.store import replacing

Line = dict[str, Any]

_ATTRIBUTES = ("swapped_loss", "recovered")
_NEEDED_FOR_WORTH = ("val_loss", "positions")


class OptunaLog:
    """Writes and extends the file.

    Args:
        path: where; replaced by `rebuild`.
        name: the study's name in the dashboard.
        distributions: the searched domains in Optuna's words.
        has_control: whether the search trains a text control, by whose curve worth is told.
    """

    def __init__(
        self, path: Path, name: str, distributions: Mapping[str, BaseDistribution], *, has_control: bool = False
    ) -> None:
        self._path = path
        self._name = name
        self._distributions = dict(distributions)
        self._written = {name: distribution_to_json(domain) for name, domain in self._distributions.items()}
        self._has_control = has_control
        self._forget()

    def _forget(self) -> None:
        """Know of no event: what a line says of worth depends on the events before it alone."""
        self._curves = TextCurves()
        self._awaits_control = self._has_control
        self._last: dict[int, dict[str, Any]] = {}

    def rebuild(self, events: Iterable[Event], history: History) -> None:
        """Replace the file by a translation of these events, which the history already has."""
        self._forget()
        head = _line(JournalOperation.CREATE_STUDY, study_name=self._name, directions=[StudyDirection.MINIMIZE])
        with replacing(self._path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(_as_text([head]))
            for event in events:
                file.write(_as_text(self._translate(event, history)))

    def update(self, event: Event, history: History) -> None:
        """Add one event, which the history already has."""
        lines = self._translate(event, history)
        if lines:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_as_text(lines))

    def _translate(self, event: Event, history: History) -> list[Line]:
        kind, number = event["event"], event.get("trial", 0)
        if number < 0:  # measured with, not chosen from
            return self._control(event) if number == CONTROL else []
        if kind == "suggested":
            return [self._suggested(event)]
        if kind == "reported":
            return self._reported(event)
        if kind in ("stopped", "finished", "failed"):
            self._last.pop(number, None)
            return _ended(event, history.trials[number])
        return []

    def _suggested(self, event: Event) -> Line:
        domains = self._distributions
        return _line(
            JournalOperation.CREATE_TRIAL,
            study_id=0,
            datetime_start=_moment(event),
            state=TrialState.RUNNING,
            params={name: domains[name].to_internal_repr(value) for name, value in event["settings"].items()},
            distributions=self._written,
            user_attrs={},
            system_attrs={},
            intermediate_values={},
        )

    def _reported(self, event: Event) -> list[Line]:
        number, metrics = event["trial"], event["metrics"]
        changed = self._curves.take(metrics)
        lines = []
        if is_finite(metrics.get("val_loss")):
            values = {"step": event["epoch"], "intermediate_value": metrics["val_loss"]}
            lines.append(_line(JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE, trial_id=number, **values))
        names = _ATTRIBUTES if number in self._last else ("positions", *_ATTRIBUTES)
        known = {name: metrics[name] for name in names if is_finite(metrics.get(name))}
        self._last[number] = {name: metrics.get(name) for name in _NEEDED_FOR_WORTH}
        lines += _attributes(number, known | self._worth_of(metrics))
        return lines + (self._worths() if changed else [])

    def _control(self, event: Event) -> list[Line]:
        """What open trials are worth, once the text control has said what plain text does, or never will."""
        failed = event["event"] == "failed"
        if not (failed or (event["event"] == "reported" and self._curves.take(event["metrics"]))):
            return []
        self._awaits_control &= not failed
        return self._worths()

    def _worths(self) -> list[Line]:
        return [line for number, report in self._last.items() for line in _attributes(number, self._worth_of(report))]

    def _worth_of(self, report: Mapping[str, Any]) -> dict[str, float]:
        """As attributes; none while the only curve is one that the control's will replace."""
        curve, worth = self._curves.best, self._curves.worth_of(report)
        if curve is None or worth is None or (self._awaits_control and not curve.trained):
            return {}
        return worth.columns


def _attributes(number: int, values: Mapping[str, Any]) -> list[Line]:
    operation = JournalOperation.SET_TRIAL_USER_ATTR
    return [_line(operation, trial_id=number, user_attr={name: value}) for name, value in values.items()]


def _ended(event: Event, trial: TrialRecord) -> list[Line]:
    lines = []
    state, value = TrialState.FAIL, None
    if event["event"] == "stopped":
        state, value = TrialState.PRUNED, trial.reports[-1].get("val_loss")
    elif event["event"] == "finished" and trial.val_loss is not None:
        state, value = TrialState.COMPLETE, trial.val_loss
    if event["event"] == "failed":
        lines += _attributes(trial.number, {"reason": f"{event['kind']}: {event['reason']}"})
    values = None if value is None else [value]
    end = {"state": state, "values": values, "datetime_complete": _moment(event)}
    return [*lines, _line(JournalOperation.SET_TRIAL_STATE_VALUES, trial_id=trial.number, **end)]


def _line(operation: JournalOperation, **fields: Any) -> Line:
    return {"op_code": int(operation), "worker_id": "cmp", **fields}


def _moment(event: Event) -> str:
    return datetime.fromtimestamp(event["time"], UTC).isoformat(timespec="microseconds")


def _as_text(lines: Iterable[Line]) -> str:
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
