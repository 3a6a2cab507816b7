"""What is known of a search's trials, as arrays that follow its history: where each lies, and how it stands.

Kept by the sampler from one suggestion to the next, so that only trials that have changed cost anything; a function
of the history all the same. How trials are ranked: a finished one by its best val_loss, before all others; a stopped
one by the epoch that it reached, then by the loss there, which is what ASHA's rungs mean. A running trial that has
reported is ranked as if it were stopped now; before its first report it is taken for bad, so that others keep away
(constant liar). Taking all running ones for bad hides the best trials, which are those that run longest: with 64 slots
in `tests.benchmarks.simulate` (800 epochs, 5 seeds) the best val_loss was 1.756 that way and 1.745 this way, with 68 %
and 29 % of the epochs wasted; with 2 slots there is no difference. A diverged trial or one that ran out of memory
counts among the bad ones; one that failed for another reason says nothing about its settings.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution

from cmp.results.front import losses_by_price
from cmp.results.history import History, Metrics, TrialRecord, is_finite
from cmp.search.decide.tpe import coordinates
from cmp.space.space import Space

GOOD_SHARE, MOST_GOOD = 0.1, 25
"""TPE's defaults: of the ranked trials the first tenth is good, but never more than this many."""

_FINISHED, _OTHER, _BAD, _SILENT = range(4)
"""Kinds of standing; the first two are ranked."""


class Evidence:
    """The arrays of one search.

    Args:
        space: gives each trial's prices.
        domains: of the settings that vary, in the order of the columns of `points`.
    """

    def __init__(self, space: Space, domains: Mapping[str, BaseDistribution]) -> None:
        self._space = space
        self._domains = domains
        self._tried: set[tuple[Any, ...]] = set()
        self._seen: list[tuple[str, int]] = []
        self._points = np.empty((64, len(domains)))
        self._standings = np.empty((64, 4))
        self._prices, self._losses = np.empty((64, 1)), np.empty((64, 1))

    @property
    def points(self) -> np.ndarray:
        """(trials, domains): where each trial lies, in the order of suggestion."""
        return self._points[: len(self._seen)]

    def update(self, history: History) -> None:
        """Take up what has changed. A trial stands as it did while its status and number of reports are the same.

        Trials of earlier searches come first; none is added between two calls.
        """
        for index, trial in enumerate([*history.learned, *history.trials.values()]):
            state = trial.status, len(trial.reports)
            if index == len(self._seen):
                self._add(trial)
                if index >= len(history.learned):
                    self._tried.add(self._values(trial.settings))
            elif self._seen[index] == state:
                continue
            self._seen[index] = state
            self._standings[index] = (*_standing(trial), trial.has_ended)
            self._price(index, trial)

    def ended(self) -> int:
        """How many trials have ended in a way that says something about their settings."""
        kinds, _, _, has_ended = self._standings[: len(self._seen)].T
        return int(np.sum((has_ended == 1) & (kinds != _SILENT)))

    def was_tried(self, settings: Mapping[str, Any]) -> bool:
        """True when a trial has these very settings."""
        return self._values(settings) in self._tried

    def _values(self, settings: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(settings[name] for name in self._domains)

    def price_range(self) -> tuple[float, float]:
        """The lowest and the highest price at which a trial has a loss; 1 and 1 before there is one."""
        known = self._prices[: len(self._seen)]
        known = known[np.isfinite(known)]
        return (float(known.min()), float(known.max())) if len(known) else (1.0, 1.0)

    def split(self, most_positions: float = math.inf) -> tuple[np.ndarray, np.ndarray]:
        """Rows of `points` with good trials and with others, each in the order of suggestion.

        No good ones: nothing is ranked yet.

        Args:
            most_positions: a budget: trials are ranked by their lowest loss within it, and those without one are not
                good. By default by their own loss, whatever they cost.
        """
        kinds, epochs, losses, _ = self._standings[: len(self._seen)].T
        ranked = np.flatnonzero(kinds <= _OTHER)
        if most_positions < math.inf:
            rows = slice(len(self._seen))
            losses = np.where(self._prices[rows] <= most_positions, self._losses[rows], math.inf).min(axis=1)
            ranked = ranked[np.isfinite(losses[ranked])]
        order = ranked[np.lexsort((losses[ranked], -epochs[ranked], kinds[ranked]))]
        n_good = min(math.ceil(GOOD_SHARE * len(order)), MOST_GOOD)
        good = np.sort(order[:n_good])
        return good, np.setdiff1d(np.flatnonzero(kinds != _SILENT), good)

    def _price(self, index: int, trial: TrialRecord) -> None:
        """Enter what a trial reached at which price: one entry, or one for each prefix of a nested trial."""
        report = ranking_report(trial)
        settings = self._space.settings_of(trial.settings)
        found = {} if report is None else losses_by_price(settings, report)
        missing = len(found) - self._prices.shape[1]
        if missing > 0:
            wider = np.full((len(self._prices), missing), math.inf)
            self._prices, self._losses = np.hstack([self._prices, wider]), np.hstack([self._losses, wider])
        self._prices[index] = self._losses[index] = math.inf
        self._prices[index, : len(found)] = list(found)
        self._losses[index, : len(found)] = list(found.values())

    def _add(self, trial: TrialRecord) -> None:
        index = len(self._seen)
        self._seen.append((trial.status, 0))
        if index == len(self._points):
            self._points = np.concatenate([self._points, np.empty_like(self._points)])
            self._standings = np.concatenate([self._standings, np.empty_like(self._standings)])
            self._prices = np.concatenate([self._prices, np.empty_like(self._prices)])
            self._losses = np.concatenate([self._losses, np.empty_like(self._losses)])
        self._points[index] = coordinates(self._domains, trial.settings)


def _standing(trial: TrialRecord) -> tuple[float, float, float]:
    """Kind, epoch and loss that a trial is ranked by."""
    if trial.status == "failed":
        # A trial that failed by its settings is behind all others, as if it had reached less than nothing.
        return (_OTHER, -1.0, 0.0) if trial.kind in ("diverged", "out_of_memory") else (_SILENT, 0.0, 0.0)
    if trial.status == "finished" and trial.val_loss is not None:
        return _FINISHED, 0.0, trial.val_loss
    report = ranking_report(trial)
    if report is not None:
        return _OTHER, float(report["epoch"]), report["val_loss"]
    if trial.reason == "user":  # who stopped it before its first report knows why
        return _SILENT, 0.0, 0.0
    return (_OTHER, -1.0, 0.0) if trial.has_ended else (_BAD, 0.0, 0.0)


def ranking_report(trial: TrialRecord) -> Metrics | None:
    """The report that a trial is ranked by: its best when it has finished, else the last with a finite val_loss."""
    if trial.status == "failed":
        return None
    if trial.status == "finished":
        return trial.best_report
    scored = (report for report in trial.reports if is_finite(report.get("val_loss")))
    return max(scored, key=lambda report: report["epoch"], default=None)
