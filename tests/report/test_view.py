import os
import socket
from typing import Any

import pytest

from cmp.report.sections import curves, tradeoff
from cmp.report.view import SearchView, build
from cmp.results.history import History
from cmp.space.space import Space
from tests.report.synthetic import EPOCHS, LOOPS_PER_EPOCH, SPACE, events_of, metrics, session


def view_of(events: list[dict[str, Any]], **search: Any) -> SearchView:
    return build(History.from_events(events), Space.from_dict({**SPACE, "search": {**SPACE["search"], **search}}))


def trial_events(number: int, n_cmps: int, losses: list[float], end: str, start: float) -> list[dict[str, Any]]:
    settings = {"cmp_len": 50, "n_cmps": n_cmps, "cmp_layer": -1, "lr": 0.01, "memory": "kv", "l2": 0.0}
    events: list[dict[str, Any]] = [
        {"time": start, "event": "suggested", "trial": number, "settings": settings},
        {"time": start, "event": "started", "trial": number, "attempt": 1, "node": None, "pid": 1},
    ]
    for epoch, loss in enumerate(losses, start=1):
        reported = metrics(settings, epoch, loss, 10.0)
        time = start + 10 * epoch
        events.append({"time": time, "event": "reported", "trial": number, "epoch": epoch, "metrics": reported})
    last = {"time": start + 10 * len(losses), "event": end, "trial": number, "epoch": len(losses)}
    return [*events, last] if end else events


def test_early_stopping_saved_what_the_stopped_trials_did_not_run() -> None:
    events = [session(0.0, 1), *trial_events(0, 2, [2.0] * EPOCHS, "finished", 0.0)]
    events += trial_events(1, 4, [2.3, 2.2, 2.1], "stopped", 90.0)

    view = view_of(events)

    assert sum(t.loops for t in view.trials) == (EPOCHS + 3) * LOOPS_PER_EPOCH
    assert sum(t.saved_loops for t in view.trials) == (EPOCHS - 3) * LOOPS_PER_EPOCH
    assert view.saved_slot_seconds == pytest.approx((EPOCHS - 3) * 10.0)


def test_pauses_between_sessions_are_not_search_time() -> None:
    events = [session(1000.0, 1), {"time": 1060.0, "event": "interrupted", "signal": "SIGTERM"}]
    events += [session(9000.0, 2), {"time": 9030.0, "event": "completed"}]

    view = view_of(events)

    assert view.history.seconds == 90.0
    assert view.clock.at(9010.0) == 70.0
    assert view.clock.at(5000.0) == 60.0
    assert view.clock.resumed_at == [60.0]


@pytest.mark.parametrize(
    ("kind", "state"), [("none", "running"), ("typical", "completed"), ("interrupted", "interrupted")]
)
def test_the_state_is_what_the_last_session_ended_with(kind: str, state: str) -> None:
    assert view_of(events_of(kind)).state == state


def test_no_events_at_all_is_a_search_that_has_not_started() -> None:
    assert view_of([]).state == "empty"


def test_a_session_of_this_machine_whose_process_is_gone_is_not_called_running() -> None:
    here = session(0.0, 1) | {"host": socket.gethostname()}

    assert view_of([here | {"pid": 2**22 + 12345}]).state == "lost"
    assert view_of([here | {"pid": os.getpid()}]).state == "running"


def test_a_trial_at_work_when_the_search_was_interrupted_says_so() -> None:
    view = view_of(events_of("interrupted"))

    assert [t.word for t in view.trials if t.group == "running"] == ["interrupted", "interrupted"]


def test_how_well_a_rung_foretells_the_next_is_counted_in_pairs_of_trials() -> None:
    orders = {1: [0, 1, 2, 3, 4, 5], 3: [1, 0, 2, 3, 4, 5], 9: [5, 4, 3, 2, 1, 0]}
    events = [session(0.0, 1)]
    for number in range(6):
        at = {epoch: 2.0 + order.index(number) / 10 for epoch, order in orders.items()}
        losses = [at[max(rung for rung in at if rung <= epoch)] for epoch in range(1, 10)]
        events += trial_events(number, 2, losses, "finished", 10.0 * number)

    view = view_of(events)

    assert view.agreements == {(1, 3): pytest.approx(14 / 15), (3, 9): pytest.approx(1 / 15)}
    words = curves(view)
    assert "the same one was better in 93 % of pairs at epochs 1 and 3, 6.7 % of pairs at epochs 3 and 9;" in words
    assert "Below 75 % a rung stops nobody: now at epoch 3." in words


def test_few_trials_tell_nothing_of_a_rung() -> None:
    view = view_of([session(0.0, 1), *trial_events(0, 2, [2.0] * 9, "finished", 0.0)])

    assert view.agreements == {}
    assert "better" not in curves(view)


def test_the_best_for_each_price_and_which_of_them_are_on_the_front() -> None:
    events = [session(0.0, 1)]
    for number, (n_cmps, loss) in enumerate([(1, 2.2), (1, 2.1), (4, 1.9), (8, 2.0), (16, 1.8)]):
        events += trial_events(number, n_cmps, [loss], "stopped", 10.0 * number)

    view = view_of(events)

    assert [(point.positions, point.trial) for point in view.prices] == [(1, 1), (4, 2), (8, 3), (16, 4)]
    assert [point.trial for point in view.front] == [1, 2, 4]
    words = tradeoff(view)
    assert words.count('<tr class="on">') == 3
    assert "looked for the lowest val_loss alone" in words


def test_the_best_is_the_lowest_within_the_budget_that_was_named() -> None:
    events = [session(0.0, 1)]
    for number, (n_cmps, loss) in enumerate([(1, 2.2), (4, 1.9), (16, 1.8)]):
        events += trial_events(number, n_cmps, [loss], "stopped", 10.0 * number)
    anywhere, within = view_of(events), view_of(events, best_positions=8)

    assert anywhere.best is not None and anywhere.best.number == 2
    assert within.best is not None and within.best.number == 1
    assert within.best_report["val_loss"] == 1.9


def test_a_trial_that_fails_later_counts_with_the_epochs_before() -> None:
    events = [session(0.0, 1), *trial_events(0, 2, [2.0], "stopped", 0.0), *trial_events(1, 2, [1.0], "", 10.0)]
    events.append(
        {"time": 30.0, "event": "failed", "trial": 1, "kind": "diverged", "reason": "nan", "log": "l", "epoch": 1}
    )

    best = view_of(events).best

    assert best is not None and best.number == 1


def test_a_report_without_a_finite_loss_is_passed_over() -> None:
    events = [session(0.0, 1), *trial_events(0, 2, [2.0, 1.9], "", 0.0)]
    events[-1]["metrics"]["val_loss"] = None

    (trial,) = view_of(events).trials

    assert trial.loss == 2.0
    assert len(trial.points) == 1
