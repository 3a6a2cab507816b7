"""What the page knows of a search: trials, clock and totals, worked out once from the journal's history.

Called by `page`; read by `figures` and the sections. Everything here is a fact of the journal or of space.yaml; how it
looks is decided elsewhere.
"""

import itertools
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cmp.report.numbers import thinned
from cmp.results.agreement import order_agreement
from cmp.results.controls import ReadingLoss, readings_on_test, readings_on_validation, worth_caveat
from cmp.results.finalists import Finalist, finalists
from cmp.results.front import Front, Point, best_point, points_of
from cmp.results.history import CONTROL, History, TrialRecord, is_finite
from cmp.results.scores import CompressorScores, SplitScores
from cmp.results.worth import TextCurve, Worth
from cmp.space.domains import Choice, Domain, LogInt, LogUniform
from cmp.space.space import Space

OUTCOMES = ("finished", "stopped", "running", "failed")

MOST_DRAWN = 2_000
"""So many trials are drawn in a plot at most: the better half of them all, and evenly spaced ones of the others."""
MOST_LISTED = 1_000
"""So many rows the table of trials has at most; trials.csv has them all."""


def scale(domain: Domain) -> str:
    """How a searched setting is laid out: `choice` (labels), `log` (distances are ratios) or `linear`."""
    if isinstance(domain, Choice):
        return "choice"
    return "log" if isinstance(domain, LogUniform | LogInt) else "linear"


@dataclass(frozen=True)
class TrialView:
    """A trial's record and what the page works out of it. Losses are nats per token, times unix seconds."""

    record: TrialRecord
    planned_loops: int
    alive: bool
    """Whether the search runs; a trial at work in a search that does not is interrupted."""

    @property
    def number(self) -> int:
        """The trial's number."""
        return self.record.number

    @property
    def label(self) -> str:
        """As people call it, in few letters: its number, the text control by what it is, a finalist by its seed too."""
        record = self.record
        if record.role == "search":
            return str(record.number)
        return "text" if record.role == "control" else f"{record.of} seed {record.seed}"

    @property
    def name(self) -> str:
        """The same in words."""
        return "the text control" if self.record.role == "control" else f"trial {self.label}"

    @cached_property
    def points(self) -> list[tuple[float, dict[str, Any]]]:
        """(time, metrics) of every report with a finite val_loss."""
        pairs = zip(self.record.report_times, self.record.reports, strict=True)
        return [(time, report) for time, report in pairs if is_finite(report.get("val_loss"))]

    @cached_property
    def best(self) -> dict[str, Any] | None:
        """The report with the lowest val_loss, or None before the first."""
        return self.record.best_report

    @cached_property
    def loss(self) -> float:
        """Its best val_loss; infinite before the first report."""
        return float(self.best["val_loss"]) if self.best else float("inf")

    @property
    def loops(self) -> int:
        """Loops run up to the last report."""
        return int(self.record.reports[-1].get("loops") or 0) if self.record.reports else 0

    @property
    def saved_loops(self) -> int:
        """Loops that the scheduler spared by stopping it."""
        return max(0, self.planned_loops - self.loops) if self.record.status == "stopped" else 0

    @property
    def failed(self) -> bool:
        """Whether it ended by a failure of its own."""
        return self.record.status == "failed"

    @cached_property
    def group(self) -> str:
        """One of `OUTCOMES`: the four kinds that plots tell apart."""
        return self.record.status if self.record.status in OUTCOMES else "running"

    @property
    def word(self) -> str:
        """Its outcome in words."""
        words = {"stopped": "stopped early", "out_of_memory": "out of memory", "worker_died": "worker died"}
        if self.record.status == "running" and not self.alive:
            return "interrupted"
        if self.record.status == "stopped" and self.record.reason is not None:
            return {"user": "stopped by the user", "time limit": "out of time"}[self.record.reason]
        return words.get(self.record.outcome, self.record.outcome)


@dataclass(frozen=True)
class Clock:
    """Search time: unix time with the pauses between sessions taken out."""

    sessions: tuple[tuple[float, float], ...]

    def at(self, time: float) -> float:
        """Seconds of search before `time`."""
        return sum(max(0.0, min(time, end) - start) for start, end in self.sessions)

    @property
    def resumed_at(self) -> list[float]:
        """Search time at which each later session began."""
        return [self.at(start) for start, _ in self.sessions[1:]]


@dataclass(frozen=True)
class SearchView:
    """Everything the page shows but the examples.

    Args:
        state: `empty`, `running`, `lost` (its process is gone without a word), `interrupted` or `completed`.
        space: the resolved space.
        extras: the text control and finalists under other seeds, in the order in which they were suggested.
        scores: on documents that decided nothing, where the search has them.
    """

    history: History
    state: str
    space: Space
    trials: tuple[TrialView, ...]
    clock: Clock
    extras: tuple[TrialView, ...] = ()
    scores: SplitScores | None = None

    @property
    def name(self) -> str:
        """The search's name."""
        return self.space.name

    @property
    def domains(self) -> dict[str, Domain]:
        """The searched settings, in file order."""
        return self.space.searched

    @property
    def updated(self) -> float | None:
        """Unix time of the last event; None before the first."""
        return self.history.sessions[-1].seen if self.history.sessions else None

    @property
    def session(self) -> dict[str, Any]:
        """The last `session` event: versions, commit, host, resources."""
        return self.history.sessions[-1].event if self.history.sessions else {}

    @cached_property
    def scored(self) -> list[TrialView]:
        """Trials with at least one finite val_loss, in the order of the results table."""
        return [t for t in self.ranked if t.best]

    @cached_property
    def ranked(self) -> list[TrialView]:
        """All trials: lowest val_loss first, those without any last."""
        views = {t.number: t for t in self.trials}
        return [views[record.number] for record in self.history.ranked()]

    @cached_property
    def drawn(self) -> list[TrialView]:
        """Of `scored` those that plots show."""
        return [self.scored[index] for index in thinned(len(self.scored), MOST_DRAWN, always=MOST_DRAWN // 2)]

    @cached_property
    def no_context_losses(self) -> list[float]:
        """The distinct ones, ascending."""
        return self._distinct("no_context_loss")

    @cached_property
    def full_context_losses(self) -> list[float]:
        """Likewise; several where `cmp_len` is searched."""
        return self._distinct("full_context_loss")

    def _distinct(self, bound: str) -> list[float]:
        found = {t.best.get(bound) for t in self.scored if t.best}
        return sorted({round(float(value), 4) for value in found if value is not None})

    @cached_property
    def best(self) -> TrialView | None:
        """The trial of the best compressor: of the lowest val_loss, or of the lowest within `search.best_positions`."""
        point = self.best_point
        return None if point is None else next(t for t in self.trials if t.number == point.trial)

    @cached_property
    def best_point(self) -> Point | None:
        """What best/ holds."""
        return best_point(self.space, self.history)

    @property
    def best_report(self) -> dict[str, Any]:
        """The numbers of the best compressor, which may be a part of its trial's memory; empty before there is one."""
        if self.best is None or self.best_point is None:
            return {}
        return self.best_point.report(self.best.best or {})

    @property
    def control(self) -> TrialView | None:
        """The text control."""
        return next((t for t in self.extras if t.number == CONTROL), None)

    @property
    def text_curve(self) -> TextCurve | None:
        """What plain text does, on validation documents."""
        return self.history.text_curve

    @property
    def worth_curve(self) -> TextCurve | None:
        """The same where worth is read off it; None while the text control is not done."""
        return self.history.worth_curve

    @property
    def trained_curve(self) -> TextCurve | None:
        """The same where it is the text control's."""
        return self.text_curve if self.text_curve is not None and self.text_curve.trained else None

    @property
    def plain_curve(self) -> TextCurve | None:
        """What plain text does for the model as it is."""
        return self.history.plain_curve

    @property
    def caveat(self) -> str | None:
        """What is wrong with worth, if anything."""
        return worth_caveat(self.space, self.history)

    @cached_property
    def tested(self) -> CompressorScores | None:
        """The test scores of the best compressor; None where there are none, or of an earlier best only."""
        if self.scores is None or not self.scores.compressors or self.best_point is None:
            return None
        first = self.scores.compressors[0]
        return first if first.candidate == self.best_point.candidate else None

    @property
    def best_worth(self) -> Worth | None:
        """What the best compressor is worth, on test where it was scored there."""
        return self.history.worth_of(self.best_report) if self.tested is None else self.tested.worth

    @property
    def readings(self) -> list[ReadingLoss]:
        """The best compressor beside its controls, on test where it was scored there; none before there is a best."""
        if self.best_point is None:
            return []
        if self.scores is not None and self.tested is not None:
            return readings_on_test(self.scores, self.tested)
        return readings_on_validation(self.history, self.best_report, self.best_point.candidate)

    @cached_property
    def finalists(self) -> list[Finalist]:
        """The best trials under several seeds."""
        return finalists(self.history)

    def worth(self, trial: TrialView) -> Worth | None:
        """What a trial's best epoch is worth, by the numbers that it was selected on."""
        return None if trial.best is None or trial.number == CONTROL else self.history.worth_of(trial.best)

    def count(self, group: str) -> int:
        """How many trials belong to one of `OUTCOMES`."""
        return sum(t.group == group for t in self.trials)

    @property
    def saved_slot_seconds(self) -> float:
        """What the spared loops would have taken, each at its own trial's pace; time on slots, not wall time."""
        return sum(t.saved_loops * t.record.seconds / t.loops for t in self.trials if t.loops)

    @cached_property
    def agreements(self) -> dict[tuple[int, int], float]:
        """By (rung, next rung or last epoch): how well the order at one foretells the other, where enough is known."""
        epochs = [*self.space.rungs, self.space.max_epochs]
        losses: dict[int, dict[int, float]] = {epoch: {} for epoch in epochs}
        for trial in self.scored:
            for _, report in trial.points:
                if report["epoch"] in losses:
                    losses[report["epoch"]][trial.number] = report["val_loss"]
        found = {
            (rung, later): order_agreement(losses[rung], losses[later]) for rung, later in itertools.pairwise(epochs)
        }
        return {between: agreement for between, agreement in found.items() if agreement is not None}

    def of(self, trial: TrialView, setting: str) -> Any:
        """The value of `setting` in `trial`, searched or fixed."""
        return trial.record.settings.get(setting, self.space.fixed.get(setting))

    @cached_property
    def points(self) -> list[tuple[Point, dict[str, Any]]]:
        """Every compressor that may be used, with its numbers: trials that did not fail, and their prefixes."""
        found = []
        for trial in self.scored:
            settings = self.space.settings_of(trial.record.settings)
            found += [(point, point.report(trial.best or {})) for point in points_of(settings, trial.record)]
        return found

    @cached_property
    def prices(self) -> list[Point]:
        """The lowest loss at every number of positions, cheapest first."""
        return self._front.lowest_by_price()

    @cached_property
    def front(self) -> list[Point]:
        """Those that nothing cheaper beats."""
        return self._front.points()

    @cached_property
    def _front(self) -> Front:
        return Front.of(self.history, self.space)

    def positions(self, trial: TrialView) -> int:
        """What the decoder reads in the context's place: vectors and kept tokens."""
        return self.space.settings_of(trial.record.settings).positions


def build(history: History, space: Space, scores: SplitScores | None = None) -> SearchView:
    """What the page shows of a history, the space that it searched, and scores on the test split."""
    state = _state(history)

    def views(records: Iterable[TrialRecord]) -> tuple[TrialView, ...]:
        return tuple(
            TrialView(record, _planned_loops({**space.fixed, **record.settings}), state == "running")
            for record in records
        )

    trials = views(history.trials[number] for number in sorted(history.trials))
    extras = views(history.extras[number] for number in sorted(history.extras, reverse=True))
    clock = Clock(tuple((session.started, session.seen) for session in history.sessions))
    return SearchView(history, state, space, trials, clock, extras, scores)


def _planned_loops(settings: Mapping[str, Any]) -> int:
    return int(settings["n_epochs"]) * int(settings["n_train_loops"])


def _state(history: History) -> str:
    if not history.sessions:
        return "empty"
    if history.completed:
        return "completed"
    if history.interrupted_by:
        return "interrupted"
    return "lost" if _process_is_gone(history.sessions[-1].event) else "running"


def _process_is_gone(session: Mapping[str, Any]) -> bool:
    """True when the session ran on this very machine and its process no longer exists."""
    if session.get("host") != socket.gethostname() or not session.get("pid"):
        return False
    try:
        os.kill(int(session["pid"]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
