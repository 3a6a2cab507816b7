"""Whose fault is it: the trial's, or the machine's? Pure bookkeeping of failures, deaths and silence; no ray.

Asked by `desk` when a trial fails, its process dies, or nothing is heard of it.
"""

import re
from dataclasses import dataclass, field

# A trial that fails before its first epoch may have met a bad machine. After so many in a row, whatever the machine,
# something is wrong with all of them, and the search stops before it has used up its trials.
EARLY_FAILURES_IN_A_ROW = 6

# A trial whose process dies this often within one epoch may be what kills it.
DEATHS_WITHIN_AN_EPOCH = 3

# A trial may be silent for this many of its longest epochs, and never for less than the minimum.
SILENT_EPOCHS = 10.0
MIN_SILENT_SECONDS = 600.0

# A pause of the search itself (stopped, suspended) that must not be held against its trials.
OWN_PAUSE_SECONDS = 60.0


@dataclass(frozen=True)
class Failure:
    """A trial that failed before its first epoch: where, and what it said."""

    trial: int
    node: str | None
    reason: str

    @property
    def kind_of_reason(self) -> str:
        """The reason without numbers and paths, so that two trials' same error looks the same."""
        return re.sub(r"\S*/\S*|0x[0-9a-f]+|\d+(\.\d+)?", "#", self.reason.lower())


@dataclass
class EarlyFailures:
    """Failures before the first epoch, and what follows from them.

    One failure says nothing: it sends the trial to another machine, and other trials not to this one. The same error
    on a second machine is the trial's own, and acquits both.
    """

    by_trial: dict[int, list[Failure]] = field(default_factory=dict)
    in_a_row: list[Failure] = field(default_factory=list)
    deaths: dict[str, int] = field(default_factory=dict)
    met_everywhere: set[str] = field(default_factory=set)

    def is_own(self, failure: Failure, *, elsewhere: bool) -> bool:
        """True when the trial itself is to blame; `elsewhere` says whether another machine is there to ask."""
        before = self.by_trial.setdefault(failure.trial, [])
        others = [past for past in before if past.node != failure.node]
        before.append(failure)
        kind = failure.kind_of_reason
        if any(past.kind_of_reason == kind for past in others):
            self.met_everywhere.add(kind)
        return not elsewhere or kind in self.met_everywhere

    def died_twice_on(self, node: str) -> bool:
        """A process died here before its first epoch; True from the second one on, whichever trials they were."""
        self.deaths[node] = self.deaths.get(node, 0) + 1
        return self.deaths[node] >= 2

    def acquitted(self, trial: int) -> set[str]:
        """The machines on which a trial failed that would have failed anywhere."""
        return {failure.node for failure in self.by_trial.get(trial, []) if failure.node is not None}

    def count(self, failure: Failure) -> bool:
        """Add to the row; True when it is too long."""
        self.in_a_row.append(failure)
        return len(self.in_a_row) >= EARLY_FAILURES_IN_A_ROW

    def an_epoch_was_done(self, trial: int) -> None:
        """Somewhere a trial got through its first epoch: the row is over."""
        self.in_a_row.clear()
        self.deaths.clear()
        self.met_everywhere.clear()
        self.by_trial.pop(trial, None)


@dataclass
class Deaths:
    """How often the process of each trial died since the trial's last epoch."""

    by_trial: dict[int, tuple[int, int]] = field(default_factory=dict)

    def count(self, trial: int, epoch: int) -> int:
        """One death more, after `epoch` epochs; returns how many there were since then."""
        last_epoch, times = self.by_trial.get(trial, (epoch, 0))
        times = times + 1 if last_epoch == epoch else 1
        self.by_trial[trial] = (epoch, times)
        return times


@dataclass
class _Heard:
    """What was heard of a trial at work, in seconds of a clock that never goes back."""

    last: float
    epoch: int = 0
    longest_epoch: float | None = None


@dataclass
class Silence:
    """Since when nothing was heard of each trial at work, and how long that may go on.

    The measure is the trial's own longest epoch, before its first one that of the other trials; while no trial has done
    an epoch, nobody knows.
    """

    heard: dict[int, _Heard] = field(default_factory=dict)
    longest_first_epoch: float | None = None
    times: dict[int, int] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)
    _looked: float | None = None

    def started(self, trial: int, epoch: int, now: float) -> None:
        """A trial was put to work; `epoch` of its epochs are known already."""
        self.heard[trial] = _Heard(now, epoch)

    def reported(self, trial: int, epoch: int, now: float) -> None:
        """An epoch's report came; those that a checkpoint repeats say nothing about time."""
        state = self.heard.get(trial)
        if state is None:
            return
        if epoch > state.epoch:
            seconds = now - state.last
            if state.longest_epoch is None:
                self.longest_first_epoch = max(self.longest_first_epoch or 0.0, seconds)
            state.longest_epoch = max(state.longest_epoch or 0.0, seconds)
        state.last, state.epoch = now, max(epoch, state.epoch)

    def left(self, trial: int) -> None:
        """The trial is not at work any more."""
        self.heard.pop(trial, None)

    def too_long(self, now: float) -> dict[int, float]:
        """Trials that are silent for too long, with the seconds."""
        self._forgive_own_pause(now)
        silent = {trial: now - state.last for trial, state in self.heard.items()}
        return {trial: seconds for trial, seconds in silent.items() if seconds > self._limit(self.heard[trial])}

    def end(self, trial: int, now: float) -> None:
        """The process of this trial is being ended for its silence."""
        self.ended[trial] = now - self.heard.pop(trial).last
        self.times[trial] = self.times.get(trial, 0) + 1

    def take_ended(self, trial: int) -> float | None:
        """Whether this trial's process was ended for its silence, and after how many seconds; asked once."""
        return self.ended.pop(trial, None)

    def times_ended(self, trial: int) -> int:
        """How often that has happened."""
        return self.times.get(trial, 0)

    def _limit(self, state: _Heard) -> float:
        measure = state.longest_epoch or self.longest_first_epoch
        return float("inf") if measure is None else max(MIN_SILENT_SECONDS, SILENT_EPOCHS * measure)

    def _forgive_own_pause(self, now: float) -> None:
        pause = 0.0 if self._looked is None else now - self._looked
        if pause > OWN_PAUSE_SECONDS:
            for state in self.heard.values():
                state.last += pause
        self._looked = now
