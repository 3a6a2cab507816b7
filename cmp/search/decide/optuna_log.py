"""`optuna.log`: the journal in the words of Optuna's JournalStorage, so that optuna-dashboard can show a search.

A view: nothing reads it back. Each journal event becomes the same few lines whenever it is translated, so the file
rebuilt at a start begins with what it held before, and a dashboard that has it open reads on. The states are those
of the journal: finished = COMPLETE with the best val_loss, stopped = PRUNED with its last one, failed = FAIL.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.study import StudyDirection
from optuna.trial import TrialState

from cmp.results.history import History, TrialRecord, is_finite
from cmp.results.journal import Event
from cmp.search.decide.optuna_private import JournalOperation
from cmp.store import replacing

Line = dict[str, Any]


class OptunaLog:
    """Writes and extends the file.

    Args:
        path: where; replaced by `rebuild`.
        name: the study's name in the dashboard.
        distributions: the searched domains in Optuna's words.
    """

    def __init__(self, path: Path, name: str, distributions: Mapping[str, BaseDistribution]) -> None:
        self._path = path
        self._name = name
        self._distributions = dict(distributions)
        self._written = {name: distribution_to_json(domain) for name, domain in self._distributions.items()}

    def rebuild(self, events: Iterable[Event], history: History) -> None:
        """Replace the file by a translation of these events, which the history already has."""
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
        kind = event["event"]
        if event.get("trial", 0) < 0:  # measured with, not chosen from
            return []
        if kind == "suggested":
            return [self._suggested(event)]
        if kind == "reported":
            return _reported(event)
        if kind in ("stopped", "finished", "failed"):
            return _ended(event, history.trials[event["trial"]])
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


def _reported(event: Event) -> list[Line]:
    trial, metrics = event["trial"], event["metrics"]
    lines = []
    if is_finite(metrics.get("val_loss")):
        values = {"step": event["epoch"], "intermediate_value": metrics["val_loss"]}
        lines.append(_line(JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE, trial_id=trial, **values))
    if is_finite(metrics.get("recovered")):
        attribute = {"recovered": metrics["recovered"]}
        lines.append(_line(JournalOperation.SET_TRIAL_USER_ATTR, trial_id=trial, user_attr=attribute))
    return lines


def _ended(event: Event, trial: TrialRecord) -> list[Line]:
    lines = []
    state, value = TrialState.FAIL, None
    if event["event"] == "stopped":
        state, value = TrialState.PRUNED, trial.reports[-1].get("val_loss")
    elif event["event"] == "finished" and trial.val_loss is not None:
        state, value = TrialState.COMPLETE, trial.val_loss
    if event["event"] == "failed":
        reason = {"reason": f"{event['kind']}: {event['reason']}"}
        lines.append(_line(JournalOperation.SET_TRIAL_USER_ATTR, trial_id=trial.number, user_attr=reason))
    values = None if value is None else [value]
    end = {"state": state, "values": values, "datetime_complete": _moment(event)}
    return [*lines, _line(JournalOperation.SET_TRIAL_STATE_VALUES, trial_id=trial.number, **end)]


def _line(operation: JournalOperation, **fields: Any) -> Line:
    return {"op_code": int(operation), "worker_id": "cmp", **fields}


def _moment(event: Event) -> str:
    return datetime.fromtimestamp(event["time"], UTC).isoformat(timespec="microseconds")


def _as_text(lines: Iterable[Line]) -> str:
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
