"""What the journal says about each trial: a plain fold over its events, the same live and replayed.

Used by the ledger (which decides), the tables and the page (which show).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["waiting", "running", "interrupted", "stopped", "finished", "failed"]
FailureKind = Literal["diverged", "out_of_memory", "failed", "worker_died"]

ENDED: frozenset[Status] = frozenset({"stopped", "finished", "failed"})
Metrics = dict[str, Any]


@dataclass
class Attempt:
    """One time a trial was put to work: where, and from when to when (unix seconds)."""

    number: int
    node: str | None
    pid: int | None
    started: float
    last_seen: float


@dataclass
class TrialRecord:
    """All that is known of one trial.

    `waiting` was suggested but never started; `interrupted` was running when its session ended; both are continued.
    `stopped` was ended by ASHA. A `failed` trial has a `kind` and a `reason`.
    """

    number: int
    settings: dict[str, Any]
    suggested: float
    status: Status = "waiting"
    reports: list[Metrics] = field(default_factory=list)
    report_times: list[float] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    rung: int | None = None
    kind: FailureKind | None = None
    reason: str | None = None
    log: str | None = None
    ended: float | None = None

    @property
    def has_ended(self) -> bool:
        """True when nothing more will come from it."""
        return self.status in ENDED

    @property
    def outcome(self) -> str:
        """One word for a table: the status, or how it failed."""
        return self.kind or self.status

    @property
    def epoch(self) -> int:
        """The last epoch reported; 0 before the first."""
        return max((report["epoch"] for report in self.reports), default=0)

    @property
    def seconds(self) -> float:
        """Time spent at work over all attempts, as far as the journal saw it."""
        return sum(max(0.0, attempt.last_seen - attempt.started) for attempt in self.attempts)

    @property
    def best_report(self) -> Metrics | None:
        """The report with the lowest finite val_loss, the earliest of equals; None before the first."""
        scored = [report for report in self.reports if is_finite(report.get("val_loss"))]
        return min(scored, key=lambda report: report["val_loss"], default=None)

    @property
    def val_loss(self) -> float | None:
        """The val_loss of the best report."""
        report = self.best_report
        return None if report is None else report["val_loss"]

    def has_reported(self, epoch: int) -> bool:
        """True when this epoch is in the journal."""
        return any(report["epoch"] == epoch for report in self.reports)


@dataclass
class SessionRecord:
    """One run of the program on this folder. `seen` is the time of its last event (unix seconds)."""

    run: int
    started: float
    seen: float
    event: dict[str, Any]

    @property
    def seconds(self) -> float:
        """From the session's start to its last event; never negative, whatever was done to the clock."""
        return max(0.0, self.seen - self.started)


@dataclass
class History:
    """The state that a list of events adds up to."""

    trials: dict[int, TrialRecord] = field(default_factory=dict)
    sessions: list[SessionRecord] = field(default_factory=list)
    completed: bool = False
    interrupted_by: str | None = None

    @classmethod
    def from_events(cls, events: Iterable[Mapping[str, Any]]) -> "History":
        """Replay events in order."""
        history = cls()
        for event in events:
            history.apply(event)
        return history

    @property
    def seconds(self) -> float:
        """Time spent searching, over all sessions; the time between sessions does not count."""
        return sum(session.seconds for session in self.sessions)

    def best(self) -> TrialRecord | None:
        """The trial with the lowest best val_loss, failed ones left out; the earliest of equals."""
        candidates = [
            trial for trial in self.trials.values() if trial.status != "failed" and trial.val_loss is not None
        ]
        return min(candidates, key=lambda trial: (trial.val_loss, trial.number), default=None)

    def ranked(self) -> list[TrialRecord]:
        """All trials, lowest val_loss first, failed ones after the others, those without any loss last."""
        return sorted(self.trials.values(), key=_rank)

    def unfinished(self) -> list[TrialRecord]:
        """Trials that have to be continued, in the order in which they were suggested."""
        return [trial for _, trial in sorted(self.trials.items()) if not trial.has_ended]

    def count(self, status: Status) -> int:
        """How many trials have this status."""
        return sum(trial.status == status for trial in self.trials.values())

    def pause(self, number: int) -> None:
        """A trial is not at work any more, though it has not ended. Only shown: no decision depends on it."""
        if self.trials[number].status == "running":
            self.trials[number].status = "interrupted"

    def apply(self, event: Mapping[str, Any]) -> None:
        """Add one event. Unknown kinds of events are passed over, so that an older reader can read a newer journal."""
        handler = _HANDLERS.get(event["event"])
        if event["event"] != "session" and self.sessions:
            self.sessions[-1].seen = event["time"]
        if handler is not None:
            handler(self, event)


def is_finite(value: Any) -> bool:
    """True for a number that can be compared; None, NaN and infinities cannot."""
    return isinstance(value, int | float) and math.isfinite(value)


def _rank(trial: TrialRecord) -> tuple[bool, bool, float, int]:
    loss = trial.val_loss
    return loss is None, trial.status == "failed", math.inf if loss is None else loss, trial.number


def _session(history: History, event: Mapping[str, Any]) -> None:
    history.sessions.append(SessionRecord(event["run"], event["time"], event["time"], dict(event)))
    history.completed = False
    history.interrupted_by = None
    for number in history.trials:
        history.pause(number)


def _suggested(history: History, event: Mapping[str, Any]) -> None:
    number = event["trial"]
    history.trials[number] = TrialRecord(number, dict(event["settings"]), event["time"])


def _started(history: History, event: Mapping[str, Any]) -> None:
    trial = history.trials[event["trial"]]
    trial.status = "running"
    node, pid = event.get("node"), event.get("pid")
    trial.attempts.append(Attempt(event["attempt"], node, pid, event["time"], event["time"]))


def _reported(history: History, event: Mapping[str, Any]) -> None:
    trial = history.trials[event["trial"]]
    _see(trial, event)
    trial.reports.append({**event["metrics"], "epoch": event["epoch"]})
    trial.report_times.append(event["time"])


def _ended(history: History, event: Mapping[str, Any]) -> None:
    trial = history.trials[event["trial"]]
    _see(trial, event)
    trial.status = event["event"]
    trial.rung = event.get("rung")
    trial.kind = event.get("kind")
    trial.reason = event.get("reason")
    trial.log = event.get("log")
    trial.ended = event["time"]


def _see(trial: TrialRecord, event: Mapping[str, Any]) -> None:
    """Count the time up to here, unless the event was only made up for by a later session."""
    if trial.status == "running":
        trial.attempts[-1].last_seen = event["time"]


def _interrupted(history: History, event: Mapping[str, Any]) -> None:
    history.interrupted_by = event["signal"]


def _completed(history: History, event: Mapping[str, Any]) -> None:
    history.completed = True
    for number in history.trials:
        history.pause(number)


_HANDLERS = {
    "session": _session,
    "suggested": _suggested,
    "started": _started,
    "reported": _reported,
    "stopped": _ended,
    "finished": _ended,
    "failed": _ended,
    "interrupted": _interrupted,
    "completed": _completed,
}
