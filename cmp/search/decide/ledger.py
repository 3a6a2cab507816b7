"""The one place where a search decides: which trial next, which to stop, when it is over. No ray here.

Every decision is a pure function of the space and the journal, and every event is in the journal before it has any
effect. So a ledger opened on the journal of a search that was killed anywhere goes on as that search would have.
`engine.tuner` adapts it to Ray Tune; tests and the simulation drive it directly.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cmp.results.folder import ResultsFolder
from cmp.results.front import losses_by_price
from cmp.results.history import CONTROL, History, TrialRecord, is_finite
from cmp.results.journal import Event, plain
from cmp.results.store_journal import open_journal
from cmp.search.decide.asha import Asha
from cmp.search.decide.clock import SessionClock
from cmp.search.decide.extras import control_sample, extra_settings, next_finalist, wants_control
from cmp.search.decide.identity import refuse_another_search, refuse_other_facts, session_event, write_space
from cmp.search.decide.learning import learned_event
from cmp.search.decide.sampler import Sampler, max_trials
from cmp.search.decide.views import FolderViews
from cmp.space.settings import TrialSettings
from cmp.space.space import Space

if TYPE_CHECKING:
    from cmp.train.session import EpochReport, Role, TrialOutcome

logger = logging.getLogger(__name__)

Listener = Callable[[Event], None]
_MAX_RELEASES = 3


@dataclass(frozen=True)
class Suggested:
    """A trial to put to work now.

    Args:
        number: its number, counted from 0.
        settings: the searched settings only, as journalled.
        trial_settings: all settings.
        folder: where it keeps checkpoints, best weights and its log.
        attempt: 1 the first time it is put to work.
        epoch: epochs that the journal already has; its reports up to there will be dropped as repeats.
        role: "search", or that of an extra trial.
    """

    number: int
    settings: dict[str, Any]
    trial_settings: TrialSettings
    folder: Path
    attempt: int
    epoch: int
    role: "Role" = "search"


@dataclass(frozen=True)
class _DueStop:
    """After which epoch a trial has to stop, at which rung, and why where it was not ASHA."""

    epoch: int
    rung: int | None
    reason: Literal["user", "time limit"] | None = None


class Ledger:
    """Opens a results folder, replays its journal, and goes on from there. The caller holds the folder's lock.

    Args:
        space: what to search; only the budget, the concurrency and the resources may differ from earlier sessions.
        folder: the results folder.
        clock: unix seconds; replaced in simulations. By default a steady one that goes on from the journal's end.
        views: keep optuna.log, the tables and best/ up to date.

    Raises:
        SpaceError: the folder holds another search; every difference is listed.
        JournalError: the journal is corrupt or cannot be written.
    """

    def __init__(
        self, space: Space, folder: ResultsFolder, clock: Callable[[], float] | None = None, *, views: bool = True
    ) -> None:
        self.space = space
        self.folder = folder
        self.history = History()
        self._lock = threading.RLock()
        self._listeners: list[Listener] = []
        self._issued: set[int] = set()
        self._releases: dict[int, int] = {}
        self._settings: dict[int, TrialSettings] = {}
        self._due_stops: dict[int, _DueStop] = {}
        self._asked_to_stop: set[int] = set()
        self._time_limit: float | None = None
        self._begun = False
        self._interrupting = False
        search = space.search
        self._asha = Asha(
            space.rungs, space.max_epochs, reduction_factor=search.reduction_factor, min_peers=search.min_peers
        )
        self._sampler = Sampler(space)
        self._journal = open_journal(folder, replay=self._replay)
        self.clock = clock or SessionClock(not_before=self.history.last_seen)
        self._views = FolderViews(space, folder, self.clock) if views else None

    @property
    def resumes(self) -> bool:
        """True when an earlier session left a history here."""
        return bool(self.history.trials or self.history.extras)

    @property
    def exhausted(self) -> bool:
        """True when `next_trial` has nothing to give: all trials were issued, a budget is spent, or we are leaving."""
        with self._lock:
            if self._interrupting or self.budget_is_spent():
                return True
            waiting = any(trial.number not in self._issued for trial in self._unfinished())
            return (
                not waiting and not self._control_is_due() and self._all_suggested() and self._next_finalist() is None
            )

    @property
    def seconds(self) -> float:
        """Time spent searching, over all sessions up to now; the time between sessions does not count."""
        sessions = self.history.sessions
        if not self._begun:
            return self.history.seconds
        return sum(session.seconds for session in sessions[:-1]) + self.clock() - sessions[-1].started

    def budget_is_spent(self) -> bool:
        """True when the budget of time or of GPU hours, counted over all sessions, is spent.

        Then no trial is issued any more and running ones leave after their next report. They stay unfinished: a larger
        budget continues them.
        """
        search = self.space.search
        if search.time_budget_seconds is not None and self.seconds >= search.time_budget_seconds:
            return True
        return search.gpu_hours is not None and self.history.gpu_seconds >= 3600 * search.gpu_hours

    def subscribe(self, listener: Listener) -> None:
        """Call `listener(event)` after each event; what it raises is logged and costs the search nothing."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Call it no more."""
        self._listeners.remove(listener)

    @property
    def begun(self) -> bool:
        """True once this session is in the journal."""
        return self._begun

    def begin(
        self,
        *,
        resources: Mapping[str, Any] | None = None,
        facts: Mapping[str, str] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Open a session: journal the start and complete what the last session left half done. Called once.

        Args:
            resources: what a trial occupies and how many run at once, for the record.
            facts: fingerprints of things the settings only name, like the data and the backbone; they must be
                those of the earlier sessions.
            data: counts of the data set, for the record.

        Raises:
            SpaceError: a fact differs.
            UserError: an earlier search that `search.learn_from` names does not compare with this one.
        """
        with self._lock:
            if self._begun:
                raise RuntimeError("a ledger begins only one session")
            refuse_other_facts(self.folder, self.history, facts or {})
            news = [place for place in self.space.search.learn_from if place not in self.history.learned_from]
            learned = [learned_event(self.space, place, facts or {}) for place in news]
            self._begun = True
            run = len(self.history.sessions) + 1
            event = session_event(self.space, run, resources=resources or {}, facts=facts or {}, data=data or {})
            write_space(self.folder, event)
            if self._views is not None:
                self._views.start(self.history, self._journal.read)
            self._append(event)
            for known in learned:
                self._append(known)
            self._complete_decisions()

    def next_trial(self) -> Suggested | None:
        """The next trial to put to work: unfinished ones first, in order, then a new one; None when exhausted."""
        with self._lock:
            self._begin_if_needed()
            if self._interrupting or self.budget_is_spent():
                return None
            if self._control_is_due():
                settings = control_sample(self.space)
                self._append({"event": "suggested", "trial": CONTROL, "role": "control", "settings": settings})
            for trial in self._unfinished():
                if trial.number not in self._issued:
                    return self._issue(trial)
            number = len(self.history.trials)
            if self._all_suggested():
                finalist = self._next_finalist()
                if finalist is None:
                    return None
                self._append(finalist)
                return self._issue(self.history.extras[finalist["trial"]])
            self._append(self._sampler.event(number, self.history))
            return self._issue(self.history.trials[number])

    def started(self, number: int, *, node: str | None = None, pid: int | None = None) -> None:
        """Note that a trial is at work; called for every attempt."""
        with self._lock:
            trial = self.history.record(number)
            if not trial.has_ended:
                attempt = len(trial.attempts) + 1
                self._append({"event": "started", "trial": number, "attempt": attempt, "node": node, "pid": pid})

    def report(self, number: int, report: "EpochReport | Mapping[str, Any]") -> Literal["continue", "stop"]:
        """Take a trial's report of one epoch; a repeat of an epoch changes nothing.

        Returns:
            "stop" when the trial must not train on: ASHA, the user or its time limit ended it, it diverged, it had
            ended before, or the search is being interrupted or its budget is spent (then it stays unfinished;
            `history.trials[number].has_ended` tells).
        """
        metrics = _as_dict(report)
        epoch = metrics["epoch"]
        with self._lock:
            self._begin_if_needed()
            trial = self.history.record(number)
            if trial.has_ended:
                return "stop"
            if not trial.has_reported(epoch):
                self._append({"event": "reported", "trial": number, "epoch": epoch, "metrics": metrics})
                self._end_if_due(trial, epoch)
            if trial.has_ended:
                return "stop"
            is_last = epoch >= self._n_epochs(number)
            return "stop" if not is_last and (self._interrupting or self.budget_is_spent()) else "continue"

    def finish(self, number: int, outcome: "TrialOutcome") -> None:
        """Take a trial's own account of how it ended. An interrupted one can be issued again; an ended one stays so."""
        with self._lock:
            self._begin_if_needed()
            trial = self.history.record(number)
            if not trial.has_ended:
                self._take_outcome(trial, outcome)
            self.release(number)

    def died(self, number: int, reason: str) -> None:
        """Give up a trial whose worker died more often than it may."""
        with self._lock:
            self._issued.discard(number)
            trial = self.history.record(number)
            if not trial.has_ended:
                self._fail(trial, "worker_died", reason)

    def retry_failed(self) -> list[int]:
        """Put failed trials back to work, from their last checkpoints; returns their numbers.

        A diverged one stays as it is: the same settings diverge again.
        """
        with self._lock:
            self._begin_if_needed()
            failed = self.failed()
            for number in failed:
                self._append({"event": "retried", "trial": number})
            return failed

    def failed(self) -> list[int]:
        """Trials that failed by more than their settings."""
        known = [*self.history.trials.values(), *self.history.extras.values()]
        return [trial.number for trial in known if trial.status == "failed" and trial.kind != "diverged"]

    def ask_to_stop(self, number: int) -> bool:
        """End a trial of the search because the user wants it: after its next report, or now when it is not at work.

        Returns:
            False when there is no such trial, it has ended, or was asked before.
        """
        with self._lock:
            trial = self.history.trials.get(number)
            if trial is None or trial.has_ended or number in self._asked_to_stop:
                return False
            self._begin_if_needed()
            self._append({"event": "stop_asked", "trial": number})
            if number not in self._issued:
                self._stop(trial, _DueStop(trial.epoch, None, "user"))
            return True

    def release(self, number: int) -> None:
        """Take back a trial that could not be put to work or left early; it will be issued again."""
        with self._lock:
            self._issued.discard(number)
            self.history.pause(number)

    def interrupt(self, signal: str) -> None:
        """Stop issuing trials and note why; reports that still come are taken."""
        with self._lock:
            self._begin_if_needed()
            if not self._interrupting:
                self._interrupting = True
                self._append({"event": "interrupted", "signal": signal})

    def complete(self) -> bool:
        """Close the search if nothing is left to do within its budget; returns whether that is so."""
        with self._lock:
            if self.history.completed and self.exhausted:
                return True
            self._begin_if_needed()
            is_over = not self._interrupting and not self._issued and self.exhausted
            if is_over:
                self._append({"event": "completed"})
            return is_over

    def close(self) -> None:
        """Bring the views up to date and close the journal. A ledger that was not completed left a partial search."""
        with self._lock:
            if self._views is not None and self._begun:
                self._views.finish(self.history)
            self._journal.close()

    def trial_settings(self, number: int) -> TrialSettings:
        """All settings of a trial."""
        if number not in self._settings:
            record = self.history.record(number)
            extra = number < 0
            self._settings[number] = (
                extra_settings(self.space, record) if extra else self.space.trial_settings(record.settings)
            )
        return self._settings[number]

    def _losses(self, number: int, metrics: Mapping[str, Any]) -> dict[int, float]:
        """What a report says by price; the price is the same for all where only the loss counts."""
        if self.space.search.objective != "front":
            return {0: metrics["val_loss"]}
        return losses_by_price(self.space.settings_of(self.history.trials[number].settings), metrics)

    def _n_epochs(self, number: int) -> int:
        return int(self.history.record(number).settings.get("n_epochs") or self.space.fixed["n_epochs"])

    def _unfinished(self) -> list[TrialRecord]:
        return [*self.history.unfinished_extras(), *self.history.unfinished()]

    def _all_suggested(self) -> bool:
        return len(self.history.trials) >= max_trials(self.space)

    def _control_is_due(self) -> bool:
        return wants_control(self.space) and self.history.control is None

    def _next_finalist(self) -> Event | None:
        """None, too, while a trial of the search may still become one."""
        return None if self.history.unfinished() else next_finalist(self.space, self.history)

    def _issue(self, trial: TrialRecord) -> Suggested:
        self._issued.add(trial.number)
        return Suggested(
            number=trial.number,
            settings=dict(trial.settings),
            trial_settings=self.trial_settings(trial.number),
            folder=self.folder.trial(trial.number),
            attempt=len(trial.attempts) + 1,
            epoch=trial.epoch,
            role=trial.role,
        )

    def _take_outcome(self, trial: TrialRecord, outcome: "TrialOutcome") -> None:
        if outcome.status == "interrupted":
            return
        if outcome.status != "finished":
            self._fail(trial, outcome.status, outcome.reason or "no reason given")
        elif self._has_all_reports(trial, outcome.epoch):
            self._append({"event": "finished", "trial": trial.number, "epoch": outcome.epoch})

    def _append(self, event: Event) -> None:
        written = self._journal.append({"event": event["event"], "time": self.clock(), **event})
        self._apply(written)
        if self._views is not None:
            self._views.update(written, self.history)
        for listener in self._listeners:
            _tell(listener, written)

    def _apply(self, event: Event) -> None:
        """Everything that an event changes, the same when it happens and when it is replayed."""
        self.history.apply(event)
        kind, number = event["event"], event.get("trial", 0)
        if kind == "session":
            self._time_limit = event.get("space", {}).get("search", {}).get("trial_time_limit_seconds")
        elif kind == "stop_asked":
            self._asked_to_stop.add(number)
        elif kind in ("stopped", "finished", "failed"):
            self._due_stops.pop(number, None)
            self._asked_to_stop.discard(number)
            self._issued.discard(number)
        elif kind == "reported" and number >= 0 and is_finite(event["metrics"].get("val_loss")):
            due = self._stop_after(number, event["epoch"], event["metrics"])
            if due is not None and event["epoch"] < self._n_epochs(number):
                self._due_stops.setdefault(number, due)

    def _stop_after(self, number: int, epoch: int, metrics: Mapping[str, Any]) -> "_DueStop | None":
        """Whether a trial must stop after this report, and why; one that the user stops enters no rung."""
        if number in self._asked_to_stop:
            return _DueStop(epoch, None, "user")
        decision = self._asha.record(number, epoch, self._losses(number, metrics))
        if decision.stop:
            return _DueStop(epoch, decision.rung)
        is_late = self._time_limit is not None and self.history.trials[number].seconds >= self._time_limit
        return _DueStop(epoch, None, "time limit") if is_late else None

    def _end_if_due(self, trial: TrialRecord, epoch: int) -> None:
        if not is_finite(trial.reports[-1].get("val_loss")):
            self._fail(trial, "diverged", f"val_loss is not finite after epoch {epoch}")
        elif trial.number in self._due_stops:
            self._stop(trial, self._due_stops[trial.number])

    def _stop(self, trial: TrialRecord, due: "_DueStop") -> None:
        why = {} if due.reason is None else {"reason": due.reason}
        self._append({"event": "stopped", "trial": trial.number, "epoch": due.epoch, "rung": due.rung, **why})

    def _complete_decisions(self) -> None:
        """Write the ends that follow from the journal but did not reach it."""
        for trial in self._unfinished():
            if trial.reports:
                self._end_if_due(trial, trial.epoch)
            if not trial.has_ended and trial.epoch >= self._n_epochs(trial.number):
                self._append({"event": "finished", "trial": trial.number, "epoch": trial.epoch})
            if not trial.has_ended and trial.number in self._asked_to_stop:
                self._stop(trial, _DueStop(trial.epoch, None, "user"))

    def _fail(self, trial: TrialRecord, kind: str, reason: str) -> None:
        log = (self.folder.trial(trial.number) / "log.txt").relative_to(self.folder.path)
        failure = {"trial": trial.number, "kind": kind, "reason": reason, "log": str(log), "epoch": trial.epoch}
        self._append({"event": "failed", **failure})

    def _has_all_reports(self, trial: TrialRecord, epoch: int) -> bool:
        """False sends the trial back to report again from its checkpoint; after some tries it is given up."""
        missing = [number for number in range(1, epoch + 1) if not trial.has_reported(number)]
        if not missing:
            return True
        self._releases[trial.number] = self._releases.get(trial.number, 0) + 1
        logger.warning("trial %d finished, but reports of epochs %s are missing", trial.number, missing)
        if self._releases[trial.number] > _MAX_RELEASES:
            self._fail(trial, "failed", f"reports of epochs {missing} were lost")
        return False

    def _begin_if_needed(self) -> None:
        if not self._begun:
            self.begin()

    def _replay(self, event: Event) -> None:
        if event["event"] == "suggested" and not self.history.trials:
            refuse_another_search(self.folder, self.history, self.space)
        if event["event"] == "suggested" and (
            event["trial"] in self.history.trials or event["trial"] in self.history.extras
        ):
            raise ValueError(f"trial {event['trial']} is suggested again, as when two searches write here")
        self._apply(event)


def _as_dict(report: Any) -> dict[str, Any]:
    return plain(asdict(report) if is_dataclass(report) and not isinstance(report, type) else report)


def _tell(listener: Listener, event: Event) -> None:
    try:
        listener(event)
    except Exception:  # a display that breaks must not end a search of days
        logger.exception("a listener failed on %s", event["event"])
