"""What a history keeps up to date event by event is what looking at all events again would give."""

import math
import random
from typing import Any

import pytest

from cmp.results.agreement import MIN_TRIALS, OrderAgreement, order_agreement
from cmp.results.history import History, TrialRecord, is_finite


def some_events(seed: int, n: int = 400) -> list[dict[str, Any]]:
    """Suggestions, reports (some not finite, some out of order), ends of every kind and new sessions, at random."""
    rng = random.Random(seed)
    events: list[dict[str, Any]] = [{"event": "session", "run": 1, "time": 0.0}]
    epochs: dict[int, int] = {}
    suggested = 0
    for time in range(1, n):
        kind = rng.choice(["suggested", "started", "reported", "reported", "reported", "ended", "session"])
        open_trials = list(epochs)
        if kind == "session" and rng.random() < 0.1:
            events.append({"event": "session", "run": 2, "time": float(time)})
        elif kind == "suggested" or not open_trials:
            events.append({"event": "suggested", "trial": suggested, "settings": {"lr": rng.random()}, "time": time})
            epochs[suggested] = 0
            suggested += 1
        elif kind == "started":
            events.append({"event": "started", "trial": rng.choice(open_trials), "attempt": 1, "time": time})
        elif kind == "reported":
            trial = rng.choice(open_trials)
            epochs[trial] += 1
            loss = rng.choice([round(rng.random(), 1), rng.random(), None, math.inf])
            metrics = {"val_loss": loss, "loops": 5}
            events.append(
                {"event": "reported", "trial": trial, "epoch": epochs[trial], "metrics": metrics, "time": time}
            )
        elif kind == "ended":
            trial = rng.choice(open_trials)
            del epochs[trial]
            end = rng.choice(["stopped", "finished", "failed"])
            events.append({"event": end, "trial": trial, "epoch": 1, "kind": "diverged", "time": time})
    return events


def naive_loss(trial: TrialRecord) -> float | None:
    return min((r["val_loss"] for r in trial.reports if is_finite(r["val_loss"])), default=None)


def naive_rank(trial: TrialRecord) -> tuple[bool, bool, float, int]:
    loss = naive_loss(trial)
    return loss is None, math.inf if loss is None else loss, trial.number


@pytest.mark.parametrize("seed", range(5))
def test_order_best_and_open_trials_are_those_of_sorting_everything_after_every_event(seed: int) -> None:
    history = History()
    for event in some_events(seed):
        history.apply(event)
        trials = list(history.trials.values())
        assert history.ranked() == sorted(trials, key=naive_rank)
        good = [trial for trial in trials if naive_loss(trial) is not None]
        assert history.best() is min(good, key=naive_rank, default=None)
        assert history.unfinished() == [trial for trial in trials if not trial.has_ended]
        for trial in trials:
            assert trial.val_loss == naive_loss(trial)
            assert trial.epoch == max((report["epoch"] for report in trial.reports), default=0)
            first = next((r for r in trial.reports if r["val_loss"] == trial.val_loss), None)
            assert trial.best_report is (None if trial.val_loss is None else first)
            assert all(trial.has_reported(report["epoch"]) for report in trial.reports)


def naive_agreement(pairs: list[tuple[float, float]]) -> float | None:
    if len(pairs) < MIN_TRIALS:
        return None
    sign = [
        math.copysign(1, (a - c) * (b - d)) if (a - c) * (b - d) else 0
        for index, (a, b) in enumerate(pairs)
        for c, d in pairs[:index]
    ]
    return sum((1 + s) / 2 for s in sign) / len(sign)


@pytest.mark.parametrize("seed", range(3))
def test_agreement_kept_up_to_date_is_that_of_all_pairs(seed: int) -> None:
    rng = random.Random(seed)
    agreement, pairs = OrderAgreement(), []
    for _ in range(150):
        pairs.append((rng.choice([0.5, rng.random()]), rng.choice([0.5, rng.random()])))
        agreement.add(*pairs[-1])
        assert agreement.share() == pytest.approx(naive_agreement(pairs))
    earlier = {trial: before for trial, (before, _) in enumerate(pairs)} | {999: 0.0}
    assert order_agreement(earlier, {trial: after for trial, (_, after) in enumerate(pairs)}) == agreement.share()


def test_names_of_metrics_are_kept_once_however_often_they_are_read() -> None:
    names = []
    for copy in ("val", "VAL".lower()):
        history = History.from_events(
            [
                {"event": "suggested", "trial": 0, "settings": {}, "time": 0.0},
                {"event": "reported", "trial": 0, "epoch": 1, "metrics": {copy + "_loss": 1.0}, "time": 1.0},
            ]
        )
        names.append(next(iter(history.trials[0].reports[0])))
    assert names[0] is names[1]
