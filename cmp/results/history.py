"""What the journal says about each trial: a plain fold over its events, the same live and replayed.

Used by the ledger (which decides), the tables and the page (which show). What is asked often (the best trial, the order
of all, which are open) is kept up to date event by event: a search may have ten thousand trials.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from sys import intern
from typing import Any, Literal

from cmp.results.worth import TextCurve, TextCurves, Worth

CONTROL = -1
"""The number of the text control."""
NOTHING_COMPRESSED: dict[str, Any] = {
    "keep_len": 0, "nested": False, "piece_len": None, "recursive": False, "rmb_task": False,
}  # fmt: skip
"""What the text control has of settings that only mean something where a context is compressed."""

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

    Its `role` is "search"; an extra trial is the text "control", or "confirm": trial number `of` under another `seed`.
    `waiting` was suggested but never started; `interrupted` was running when its session ended; both are continued.
    `stopped` was ended by ASHA, or for its `reason`: by the user, or by its time limit. A `failed` trial has a `kind`
    and a `reason`. `epoch` is the last one reported, 0 before any; `best_report` has the lowest finite val_loss, the
    earliest of equals, None before any.
    """

    number: int
    settings: dict[str, Any]
    suggested: float
    role: Literal["search", "control", "confirm"] = "search"
    of: int | None = None
    seed: int | None = None
    status: Status = "waiting"
    reports: list[Metrics] = field(default_factory=list)
    report_times: list[float] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    rung: int | None = None
    kind: FailureKind | None = None
    reason: str | None = None
    log: str | None = None
    ended: float | None = None
    epoch: int = 0
    best_report: Metrics | None = None
    _reported: set[int] = field(default_factory=set, repr=False)

    @property
    def own_settings(self) -> dict[str, Any]:
        """Searched settings that mean something to it: the text control reads every number of kept tokens."""
        none = NOTHING_COMPRESSED if self.role == "control" else {}
        return {name: value for name, value in self.settings.items() if name not in none}

    @property
    def has_ended(self) -> bool:
        """True when nothing more will come from it."""
        return self.status in ENDED

    @property
    def outcome(self) -> str:
        """One word for a table: the status, or how it failed."""
        return self.kind or self.status

    @property
    def seconds(self) -> float:
        """Time spent at work over all attempts, as far as the journal saw it."""
        return sum(max(0.0, attempt.last_seen - attempt.started) for attempt in self.attempts)

    @property
    def val_loss(self) -> float | None:
        """The val_loss of the best report."""
        return None if self.best_report is None else self.best_report["val_loss"]

    def has_reported(self, epoch: int) -> bool:
        """True when this epoch is in the journal."""
        return epoch in self._reported

    def add_report(self, report: Metrics, time: float) -> None:
        """Take a report that has an `epoch` and came at `time` (unix seconds)."""
        self.reports.append(report)
        self.report_times.append(time)
        self._reported.add(report["epoch"])
        self.epoch = max(self.epoch, report["epoch"])
        if is_finite(report.get("val_loss")) and (self.val_loss is None or report["val_loss"] < self.val_loss):
            self.best_report = report


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
    """The state that a list of events adds up to.

    `trials` are those that the search chose, by number from 0; `extras` those that it only measures with, by number
    from -1 down: the text control, and finalists under other seeds. No decision about a trial looks at these.
    `learned` are trials of the earlier searches `learned_from`, which only suggestions look at; `first_tried` says
    which of `search.first` have been suggested. `gpu_seconds` are those that trials of all kinds were at work on GPUs,
    as far as the journal saw it.
    """

    trials: dict[int, TrialRecord] = field(default_factory=dict)
    extras: dict[int, TrialRecord] = field(default_factory=dict)
    sessions: list[SessionRecord] = field(default_factory=list)
    completed: bool = False
    interrupted_by: str | None = None
    gpu_seconds: float = 0.0
    first_tried: list[dict[str, Any]] = field(default_factory=list)
    learned: list[TrialRecord] = field(default_factory=list)
    learned_from: list[str] = field(default_factory=list)
    _gpus: float = 0.0
    _curves: TextCurves = field(default_factory=TextCurves, repr=False)
    _open: dict[int, None] = field(default_factory=dict, repr=False)
    _order: list["_Rank"] = field(default_factory=list, repr=False)

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

    @property
    def last_seen(self) -> float:
        """Unix time of the last event; 0 before any."""
        return self.sessions[-1].seen if self.sessions else 0.0

    def best(self) -> TrialRecord | None:
        """The trial with the lowest best val_loss, the earliest of equals.

        One that failed later counts with the epochs that it reported: the weights of its best one are there.
        """
        if not self._order:
            return None
        has_no_loss, _, number = self._order[0]
        return None if has_no_loss else self.trials[number]

    def ranked(self) -> list[TrialRecord]:
        """All trials, lowest val_loss first, those without any loss last."""
        return [self.trials[number] for *_, number in self._order]

    def unfinished(self) -> list[TrialRecord]:
        """Trials that have to be continued, in the order in which they were suggested."""
        return [self.trials[number] for number in sorted(self._open)]

    def unfinished_extras(self) -> list[TrialRecord]:
        """Extras that have to be continued, in the order in which they were suggested."""
        return [trial for _, trial in sorted(self.extras.items(), reverse=True) if not trial.has_ended]

    def record(self, number: int) -> TrialRecord:
        """A trial of the search, or an extra one."""
        return self.extras[number] if number < 0 else self.trials[number]

    @property
    def control(self) -> TrialRecord | None:
        """The text control, once it was suggested."""
        return self.extras.get(CONTROL)

    @property
    def text_curve(self) -> TextCurve | None:
        """What plain text does: the text control's curve, the backbone's own until that is there; None before any."""
        return self._curves.best

    @property
    def plain_curve(self) -> TextCurve | None:
        """What plain text does for the backbone as it is; None before any report has it."""
        return self._curves.plain

    @property
    def worth_curve(self) -> TextCurve | None:
        """The text curve that worth is read off; None while a text control may still say what text does.

        By the backbone's own curve a compressor seems worth several times as much: adaptation to the text counts in it.
        """
        curve, control = self.text_curve, self.control
        is_awaited = control is not None and not control.has_ended
        return None if curve is None or (is_awaited and not curve.trained) else curve

    def worth_of(self, report: Mapping[str, Any]) -> Worth | None:
        """What the compressor of a report is worth in plain text; None where that is not known (yet)."""
        return None if self.worth_curve is None else self._curves.worth_of(report)

    def count(self, status: Status) -> int:
        """How many trials have this status."""
        return sum(trial.status == status for trial in self.trials.values())

    @property
    def mostly_failed(self) -> bool:
        """More than half of the trials that ended have failed: what is best then says little about the space."""
        ended = sum(trial.has_ended for trial in self.trials.values())
        return 2 * self.count("failed") > ended

    def pause(self, number: int) -> None:
        """A trial is not at work any more, though it has not ended. Only shown: no decision depends on it."""
        trial = self.record(number)
        if trial.status == "running":
            trial.status = "interrupted"

    def pause_all(self) -> None:
        """No trial is at work any more."""
        for number in (*self._open, *self.extras):
            self.pause(number)

    def _move(self, trial: TrialRecord, before: "_Rank") -> None:
        """Put a trial where it belongs now in the order of all; it was at `before`."""
        del self._order[bisect_left(self._order, before)]
        insort(self._order, _rank(trial))

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


_Rank = tuple[bool, float, int]


def _rank(trial: TrialRecord) -> _Rank:
    loss = trial.val_loss
    return loss is None, math.inf if loss is None else loss, trial.number


def _session(history: History, event: Mapping[str, Any]) -> None:
    history.sessions.append(SessionRecord(event["run"], event["time"], event["time"], dict(event)))
    history.completed = False
    history.interrupted_by = None
    resources = event.get("resources") or {}
    history._gpus = (resources.get("workers") or 1) * (resources.get("gpus_per_worker") or 0.0)
    history.pause_all()


def _suggested(history: History, event: Mapping[str, Any]) -> None:
    number = event["trial"]
    trial = TrialRecord(number, dict(event["settings"]), event["time"])
    if number < 0:
        trial.role, trial.of, trial.seed = event["role"], event.get("of"), event.get("seed")
        history.extras[number] = trial
        return
    history.trials[number] = trial
    if "first" in event:
        history.first_tried.append(event["first"])
    history._open[number] = None
    insort(history._order, _rank(trial))


def _learned(history: History, event: Mapping[str, Any]) -> None:
    history.learned_from.append(event["from"])
    for known in event["trials"]:
        trial = TrialRecord(len(history.learned), dict(known["settings"]), event["time"], status=known["status"])
        trial.kind = known.get("kind")
        if known.get("report") is not None:
            trial.add_report(dict(known["report"]), event["time"])
        history.learned.append(trial)


def _started(history: History, event: Mapping[str, Any]) -> None:
    trial = history.record(event["trial"])
    trial.status = "running"
    node, pid = event.get("node"), event.get("pid")
    trial.attempts.append(Attempt(event["attempt"], node, pid, event["time"], event["time"]))


def _reported(history: History, event: Mapping[str, Any]) -> None:
    trial = history.record(event["trial"])
    _see(history, trial, event)
    before, loss_before = _rank(trial), trial.val_loss
    # Names of metrics are the same in a hundred thousand reports, but each line of a journal brings its own copies.
    report = {intern(name): value for name, value in event["metrics"].items()} | {"epoch": event["epoch"]}
    trial.add_report(report, event["time"])
    if "text_curve" in report or "plain_curve" in report:
        history._curves.take(report)
    if trial.val_loss != loss_before and trial.number >= 0:
        history._move(trial, before)


def _ended(history: History, event: Mapping[str, Any]) -> None:
    trial = history.record(event["trial"])
    _see(history, trial, event)
    before = _rank(trial)
    trial.status = event["event"]
    trial.rung = event.get("rung")
    trial.kind = event.get("kind")
    trial.reason = event.get("reason")
    trial.log = event.get("log")
    trial.ended = event["time"]
    if trial.number >= 0:
        history._open.pop(trial.number, None)
        history._move(trial, before)


def _see(history: History, trial: TrialRecord, event: Mapping[str, Any]) -> None:
    """Count the time up to here, unless the event was only made up for by a later session."""
    if trial.status == "running":
        attempt = trial.attempts[-1]
        history.gpu_seconds += history._gpus * max(0.0, event["time"] - attempt.last_seen)
        attempt.last_seen = event["time"]


def _retried(history: History, event: Mapping[str, Any]) -> None:
    trial = history.record(event["trial"])
    before = _rank(trial)
    trial.status = "interrupted" if trial.attempts else "waiting"
    trial.kind = trial.reason = trial.log = trial.ended = None
    if trial.number >= 0:
        history._open[trial.number] = None
        history._move(trial, before)


def _interrupted(history: History, event: Mapping[str, Any]) -> None:
    history.interrupted_by = event["signal"]


def _completed(history: History, event: Mapping[str, Any]) -> None:
    history.completed = True
    history.pause_all()


_HANDLERS = {
    "session": _session,
    "suggested": _suggested,
    "learned": _learned,
    "started": _started,
    "reported": _reported,
    "stopped": _ended,
    "finished": _ended,
    "failed": _ended,
    "retried": _retried,
    "interrupted": _interrupted,
    "completed": _completed,
}
