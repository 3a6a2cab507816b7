"""Where Ray Tune's searcher, scheduler and callback meet the ledger: what becomes of a trial's messages and its death.

`tuner` translates between Tune and this desk. The ledger decides what follows from results; the desk what follows from
faults: who is to blame, whether a trial is put to work again, and which machine gets no more of them.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from cmp.search.decide.ledger import Ledger, Suggested
from cmp.search.engine.faults import DEATHS_WITHIN_AN_EPOCH, Deaths, EarlyFailures, Failure, Silence
from cmp.search.engine.job import TrialJob
from cmp.search.engine.roster import Roster
from cmp.space.errors import UserError
from cmp.train.session import EpochReport, TrialOutcome

JobFactory = Callable[[Suggested], TrialJob]

_REPORT_FIELDS = tuple(field.name for field in fields(EpochReport))


class HopelessError(Exception):
    """Trial after trial fails before its first epoch: the search stops before it has used them up."""


@dataclass
class Desk:
    """The ledger, the machines, and which Tune trial is which of ours.

    Args:
        ledger: makes the decisions and journals them.
        job: turns a suggestion into what a process needs.
        roster: the machines.
        limit: how many trials Tune may have, running or waiting for their place.
        on_step: called at every step of Tune's loop, some ten times a second, in the main thread.
        must_end: True once Tune has to end, whatever its trials do.
        say: shows one line to people.
        clock: seconds that never go back.
    """

    ledger: Ledger
    job: JobFactory
    roster: Roster
    limit: Callable[[], int]
    on_step: Callable[[], None]
    must_end: Callable[[], bool]
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    error: UserError | HopelessError | None = None
    _numbers: dict[str, int] = field(default_factory=dict)
    _places: dict[int, str] = field(default_factory=dict)
    _early: EarlyFailures = field(default_factory=EarlyFailures)
    _deaths: Deaths = field(default_factory=Deaths)
    _silence: Silence = field(default_factory=Silence)
    _held: dict[int, TrialOutcome] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles its searcher, scheduler and callbacks for a restore that never happens here."""
        return {}

    def is_full(self) -> bool:
        """Has Tune as many trials as it may, running or waiting for their place?"""
        return len(self._numbers) >= self.limit()

    @property
    def running(self) -> int:
        """Trials whose process has begun."""
        return len(self._places)

    def release_all(self) -> None:
        """Tune is over: what did not end may be put to work again."""
        for number in [*self._numbers.values(), *self._held]:
            self.ledger.release(number)
        self._numbers.clear()
        self._places.clear()
        self._held.clear()

    @contextmanager
    def keeping_error(self) -> Iterator[None]:
        """Keep the error itself: of exceptions that pass through it, Tune makes tracebacks, and swallows some."""
        try:
            yield
        except UserError as error:
            self.error = error
            raise

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial as a config for Tune; None when there is none."""
        with self.keeping_error():
            suggested = self.ledger.next_trial()
        if suggested is None:
            return None
        self._numbers[trial_id] = suggested.number
        return {"trial": suggested.number, **suggested.settings, "job": self.job(suggested)}

    def receive(self, trial_id: str, message: Mapping[str, Any]) -> bool:
        """Hand a message to the ledger; True when the trial should go on."""
        number = self._numbers[trial_id]
        with self.keeping_error():
            if message["event"] == "started":
                self._note_start(number, message)
                return True
            self._silence.reported(number, message["epoch"], self.clock())
            self._early.an_epoch_was_done(number)
            self.fail_held()
            return self.ledger.report(number, report_metrics(message)) == "continue"

    def close(self, trial_id: str, message: Mapping[str, Any]) -> None:
        """A trial left Tune: by its own outcome, or because the ledger wanted it to."""
        if trial_id not in self._numbers:
            return  # it had left before; Tune tells of an end twice when something goes wrong at the first time
        number, node = self._take_leave(trial_id)
        with self.keeping_error():
            if message.get("event") != "outcome":
                return self.ledger.release(number)
            outcome = TrialOutcome(message["status"], message["epoch"], message.get("reason"))
            if outcome.status == "failed" and self.ledger.history.record(number).epoch == 0:
                return self._failed_early(number, node, outcome)
            return self.ledger.finish(number, outcome)

    def lose(self, trial_id: str, death: str, node: str | None = None, *, blames_node: bool = False) -> None:
        """A trial's process died.

        Args:
            trial_id: Tune's.
            death: how, in a few words.
            node: the machine, where the process did not live to say so.
            blames_node: the machine is there and may be the reason.
        """
        if trial_id not in self._numbers:
            return
        number, place = self._take_leave(trial_id)
        trial = self.ledger.history.record(number)
        if trial.has_ended:
            return
        with self.keeping_error():
            if (seconds := self._silence.take_ended(number)) is not None:
                return self._lose_silent(number, seconds)
            times = self._deaths.count(number, trial.epoch)
            if times > DEATHS_WITHIN_AN_EPOCH:
                return self.ledger.died(number, f"{death}, {times} times within one epoch")
            again = f"starting it again from its last checkpoint ({times} of {DEATHS_WITHIN_AN_EPOCH})"
            self.say(f"trial {number}: {death}; {again}")
            self.ledger.release(number)
            if blames_node and trial.epoch == 0:
                self._died_early(Failure(number, node or place, death))

    def silent(self) -> list[str]:
        """Tune's ids of trials that were silent for too long; their processes should be ended now."""
        overdue = self._silence.too_long(self.clock())
        return [trial_id for trial_id, number in self._numbers.items() if number in overdue]

    def end_silent(self, trial_id: str) -> None:
        """Note that this trial's process is being ended for its silence."""
        self._silence.end(self._numbers[trial_id], self.clock())

    def fail_held(self) -> None:
        """Others get through their first epoch, or there are no others: the held ones failed by themselves."""
        for number, outcome in list(self._held.items()):
            del self._held[number]
            self.ledger.finish(number, outcome)

    def _note_start(self, number: int, message: Mapping[str, Any]) -> None:
        key = message.get("node_id")
        node = self.roster.name(key) if key else message["node"]
        self._places[number] = key or ""
        self._silence.started(number, self.ledger.history.record(number).epoch, self.clock())
        self.ledger.started(number, node=node, pid=message["pid"])

    def _take_leave(self, trial_id: str) -> tuple[int, str | None]:
        """The number of a trial that Tune has no more, and where it was."""
        number = self._numbers.pop(trial_id)
        self._silence.left(number)
        return number, self._places.pop(number, None) or None

    def _failed_early(self, number: int, node: str | None, outcome: TrialOutcome) -> None:
        """Blame the machine for as long as another one is there to ask; then hold the trial until others do better."""
        reason = outcome.reason or "no reason given"
        failure = Failure(number, node, reason)
        elsewhere = self.roster.has_other(node)
        if self._early.is_own(failure, elsewhere=elsewhere):
            self.roster.acquit(self._early.acquitted(number))
            self.say(f"trial {number}: failed before its first epoch: {reason}")
            self._held[number] = outcome
            self.ledger.history.pause(number)
            self._count(failure)
            return
        self.say(
            f"trial {number}: failed before its first epoch on node {self.roster.name(node or '')}; trying another"
        )
        self._blame(failure)
        self.ledger.release(number)

    def _died_early(self, failure: Failure) -> None:
        if failure.node is not None and self._early.died_twice_on(failure.node) and self.roster.has_other(failure.node):
            self._blame(failure)
        else:
            self._count(failure)

    def _blame(self, failure: Failure) -> None:
        if failure.node not in self.roster.avoided:
            self._count(failure)
        if failure.node is not None:
            self.roster.avoid(failure.node, failure.reason)

    def _count(self, failure: Failure) -> None:
        if self._early.count(failure):
            many = f"{len(self._early.in_a_row)} times in a row a trial failed before its first epoch"
            self.error = HopelessError(f"{many}, the last one with: {failure.reason}")

    def _lose_silent(self, number: int, seconds: float) -> None:
        """Ended once, a silent trial is started again; twice, it has failed."""
        minutes = f"{seconds / 60:.0f} minutes"
        if self._silence.times_ended(number) > 1:
            reason = f"gave no sign for {minutes}, and was started again before"
            return self.ledger.finish(number, TrialOutcome("failed", 0, reason))
        self.say(f"trial {number}: no sign of it for {minutes}; starting it again from its last checkpoint")
        return self.ledger.release(number)


def report_metrics(message: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a report. Tune hands nested ones to its scheduler flattened, as "text_curve/16"."""
    metrics = {name: message[name] for name in _REPORT_FIELDS if name in message}
    for key, value in message.items():
        name, _, inner = key.partition("/")
        if inner and name in _REPORT_FIELDS:
            metrics.setdefault(name, {})[inner] = value
    return metrics
