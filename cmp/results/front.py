"""The front of a search: for every number of positions the compressor with the lowest loss.

Positions are the price: what the decoder reads in the context's place, vectors and kept tokens. A nested trial stands
on the front with each of its prefixes, at that prefix's price. From the history alone, kept up to date trial by trial.
Used by the ledger, the views, the tables, the page, the last word of a search and the simulation.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cmp.results.folder import ResultsFolder
from cmp.results.history import History, TrialRecord, is_finite
from cmp.results.recovered import recovered_fraction
from cmp.results.scores import Candidate, load_scores
from cmp.space.settings import TrialSettings
from cmp.space.space import Space


@dataclass(frozen=True, order=True)
class Point:
    """A compressor and its loss. The first of equals is the one with fewer positions, then of the earlier trial.

    Args:
        positions: its price.
        val_loss: nats per token.
        trial: whose it is.
        epoch: the epoch of its weights.
        n_cmps: vectors of each piece.
        kept: tokens that stay text.
        is_prefix: fewer vectors than the trial has, the first ones.
    """

    positions: int
    val_loss: float
    trial: int
    epoch: int
    n_cmps: int
    kept: int
    is_prefix: bool

    @property
    def candidate(self) -> Candidate:
        """The same without its loss."""
        return Candidate(self.trial, self.epoch, self.positions - self.kept, self.kept)

    def report(self, whole: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's report as it would be of this point: itself, or what is known of a prefix."""
        if not self.is_prefix:
            return dict(whole)
        known = {name: whole.get(name) for name in ("epoch", "loops", "no_context_loss", "full_context_loss")}
        bounds = known["no_context_loss"], known["full_context_loss"]
        ratio = whole.get("compression_ratio")
        return {
            **known,
            "val_loss": self.val_loss,
            "positions": self.positions,
            "recovered": recovered_fraction(*bounds, self.val_loss),
            "compression_ratio": ratio and ratio * whole["positions"] / self.positions,
        }


def points_of(settings: TrialSettings, trial: TrialRecord) -> tuple[Point, ...]:
    """A trial's best epoch, with all its vectors and with fewer where it is nested, also where it failed later."""
    report = trial.best_report
    if report is None:
        return ()
    kept = settings.keep_len
    return tuple(
        Point(
            positions=n_cmps * settings.n_pieces + kept,
            val_loss=loss,
            trial=trial.number,
            epoch=report["epoch"],
            n_cmps=n_cmps,
            kept=kept,
            is_prefix=n_cmps < settings.n_cmps,
        )
        for n_cmps, loss in _losses_by_vectors(settings, report).items()
    )


def losses_by_price(settings: TrialSettings, report: Mapping[str, Any]) -> dict[int, float]:
    """What a report says of a trial and of its prefixes: finite val_loss by positions."""
    losses = _losses_by_vectors(settings, report)
    return {n_cmps * settings.n_pieces + settings.keep_len: loss for n_cmps, loss in losses.items()}


def _losses_by_vectors(settings: TrialSettings, report: Mapping[str, Any]) -> dict[int, float]:
    prefixes = {int(n_cmps): loss for n_cmps, loss in (report.get("nested") or {}).items()}
    losses = {**prefixes, settings.n_cmps: report["val_loss"]}
    return {n_cmps: loss for n_cmps, loss in losses.items() if is_finite(loss)}


def hypervolume(losses: Mapping[int, float], most_positions: int, worst_loss: float) -> float:
    """The area under a front, over log(positions): what a search found, in one number.

    Args:
        losses: val_loss by positions; points that others beat do not matter.
        most_positions: the dearest price that counts.
        worst_loss: the loss from which on a point is worth nothing.

    Returns:
        Nats times log positions; 0 for no point.
    """
    area, lowest = 0.0, worst_loss
    for positions, loss in sorted(losses.items()):
        if positions < most_positions and loss < lowest:
            area += (lowest - loss) * math.log(most_positions / positions)
            lowest = loss
    return area


class Front:
    """The front of one search.

    Args:
        space: gives each trial's prices.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._levels: dict[int, list[Point]] = {}
        self._of_trial: dict[int, tuple[Point, ...]] = {}

    @classmethod
    def of(cls, history: History, space: Space) -> "Front":
        """The front of a whole history."""
        front = cls(space)
        for trial in history.trials.values():
            front.update(trial)
        return front

    def update(self, trial: TrialRecord) -> bool:
        """Take up what is new of a trial; returns whether anything is."""
        now = points_of(self._space.settings_of(trial.settings), trial)
        before = self._of_trial.get(trial.number, ())
        if now == before:
            return False
        for point in before:
            level = self._levels[point.positions]
            del level[bisect_left(level, point)]
        for point in now:
            insort(self._levels.setdefault(point.positions, []), point)
        self._of_trial[trial.number] = now
        return True

    def points(self) -> list[Point]:
        """The front, cheapest first: each has a lower loss than all that cost less or the same."""
        found: list[Point] = []
        for point in self.lowest_by_price():
            if not found or point.val_loss < found[-1].val_loss:
                found.append(point)
        return found

    def lowest_by_price(self) -> list[Point]:
        """The lowest loss at every price that was tried, on the front or not, cheapest first."""
        return [level[0] for _, level in sorted(self._levels.items()) if level]

    def best_within(self, most_positions: int) -> Point | None:
        """The lowest loss at no more than this price; the cheapest of equals."""
        within = [point for point in self.points() if point.positions <= most_positions]
        return within[-1] if within else None


def positions_by_trial(points: Iterable[Point]) -> dict[int, list[int]]:
    """At which prices each trial stands on a front."""
    found: dict[int, list[int]] = {}
    for point in points:
        found.setdefault(point.trial, []).append(point.positions)
    return found


def front(space: Space, history: History) -> list[Candidate]:
    """The compressors on the front, cheapest first."""
    return [point.candidate for point in Front.of(history, space).points()]


def best_point(space: Space, history: History) -> Point | None:
    """What `best/` holds: the trial with the lowest val_loss, or the lowest within `search.best_positions`."""
    budget = space.search.best_positions
    if budget is not None:
        return Front.of(history, space).best_within(budget)
    trial = history.best()
    return None if trial is None else points_of(space.settings_of(trial.settings), trial)[-1]


def candidate_of(space: Space, trial: TrialRecord) -> Candidate:
    """A trial's best epoch, with all its vectors."""
    settings, report = space.settings_of(trial.settings), trial.best_report or {}
    return Candidate(trial.number, report.get("epoch", 0), settings.n_vectors, settings.keep_len)


# A front of more points says no more, and each is one more pass over the test windows.
MOST_SCORED = 12


@dataclass(frozen=True)
class ToScore:
    """What a search scores on documents that decided nothing.

    Args:
        candidates: the best, the runner-up, and the rest of the front, cheapest first.
        runner_up: the trial with the second-lowest val_loss, with all its vectors; None where there is one trial only.
    """

    candidates: tuple[Candidate, ...]
    runner_up: Candidate | None


def to_score(space: Space, history: History) -> ToScore | None:
    """What to score when a search has ended; None where it has no best."""
    best = best_point(space, history)
    if best is None:
        return None
    others = (trial for trial in history.ranked() if trial.val_loss is not None)
    second = next((trial for trial in others if trial.number != best.trial), None)
    runner_up = None if second is None else candidate_of(space, second)
    wanted = dict.fromkeys([best.candidate, *([] if runner_up is None else [runner_up]), *front(space, history)])
    return ToScore(tuple(wanted)[:MOST_SCORED], runner_up)


def is_scored(folder: ResultsFolder, space: Space, history: History) -> bool:
    """Whether the best and the front, as they are now, have been scored on the test split."""
    wanted, scores = to_score(space, history), load_scores(folder.test_scores)
    if wanted is None or scores is None:
        return False
    return tuple(scored.candidate for scored in scores.compressors) == wanted.candidates
