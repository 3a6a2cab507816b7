"""The front: prices of trials and of their prefixes, what beats what, and the area under it."""

import math
import random
from typing import Any

import pytest

from cmp.results.front import Front, Point, best_point, front, hypervolume, losses_by_price, positions_by_trial
from cmp.results.history import History
from cmp.space.space import Space


def space_of(**settings: Any) -> Space:
    searched = {"n_cmps": {"logint": [1, 16]}, "keep_len": {"choice": [0, 4]}}
    search = settings.pop("search", {})
    return Space.from_dict({"model_string": "m", "dataset": "d", **searched, **settings, "search": search})


def suggested(number: int, n_cmps: int, keep_len: int = 0) -> dict[str, Any]:
    settings = {"n_cmps": n_cmps, "keep_len": keep_len}
    return {"event": "suggested", "trial": number, "settings": settings, "time": 0.0}


def reported(number: int, epoch: int, loss: float, **more: Any) -> dict[str, Any]:
    metrics = {"epoch": epoch, "val_loss": loss, **more}
    return {"event": "reported", "trial": number, "epoch": epoch, "metrics": metrics, "time": 1.0}


def history_of(*trials: tuple[int, int, float]) -> History:
    """Of trials (n_cmps, keep_len, loss)."""
    events = [suggested(number, n_cmps, keep) for number, (n_cmps, keep, _) in enumerate(trials)]
    return History.from_events(events + [reported(number, 1, loss) for number, (*_, loss) in enumerate(trials)])


def test_a_price_is_vectors_of_all_pieces_and_kept_tokens() -> None:
    space = space_of(piece_len=40)
    settings = space.settings_of({"n_cmps": 8, "keep_len": 4})

    losses = losses_by_price(settings, {"val_loss": 2.0, "nested": {"1": 2.3, "2": math.nan, "4": 2.1}})

    assert settings.n_pieces == 3
    assert losses == {8 * 3 + 4: 2.0, 1 * 3 + 4: 2.3, 4 * 3 + 4: 2.1}


def test_the_front_is_what_nothing_cheaper_or_as_cheap_beats() -> None:
    points = Front.of(history_of((1, 0, 2.5), (4, 0, 2.2), (2, 4, 2.3), (8, 0, 2.0), (4, 4, 2.0)), space_of()).points()

    assert [(point.positions, point.trial) for point in points] == [(1, 0), (4, 1), (8, 3)]
    assert positions_by_trial(points) == {0: [1], 1: [4], 3: [8]}


def test_a_nested_trial_stands_on_the_front_with_each_of_its_prefixes() -> None:
    history = history_of((2, 0, 2.25), (8, 0, 9.0))
    history.apply(reported(1, 2, 2.0, nested={"1": 2.6, "2": 2.3, "4": 2.1}))

    space = space_of(nested=True)
    points = Front.of(history, space).points()

    assert [(p.positions, p.val_loss, p.trial, p.n_cmps, p.is_prefix) for p in points] == [
        (1, 2.6, 1, 1, True),
        (2, 2.25, 0, 2, False),
        (4, 2.1, 1, 4, True),
        (8, 2.0, 1, 8, False),
    ]
    assert [(one.trial, one.epoch, one.vectors, one.kept) for one in front(space, history)] == [
        (1, 2, 1, 0),
        (0, 1, 2, 0),
        (1, 2, 4, 0),
        (1, 2, 8, 0),
    ]


def test_prefixes_are_those_of_the_best_epoch_whose_weights_are_kept() -> None:
    history = history_of((4, 0, 2.0))
    history.trials[0].best_report["nested"] = {"2": 2.4}  # type: ignore[index]
    history.apply(reported(0, 2, 2.1, nested={"2": 2.05}))

    assert [point.val_loss for point in Front.of(history, space_of()).points()] == [2.4, 2.0]


def test_a_trial_that_fails_later_keeps_its_place_on_the_front() -> None:
    history = history_of((4, 0, 2.2), (4, 0, 2.0))
    known = Front.of(history, space_of())
    history.apply({"event": "failed", "trial": 1, "kind": "diverged", "reason": "r", "time": 2.0})

    assert not known.update(history.trials[1]), "its best epoch is as good as before"
    assert [point.trial for point in known.points()] == [1]


@pytest.mark.parametrize("seed", range(4))
def test_a_front_that_followed_a_search_is_that_of_its_history(seed: int) -> None:
    rng, history, space = random.Random(seed), History(), space_of(nested=True)
    known = Front(space)
    for number in range(30):
        history.apply(suggested(number, rng.choice([1, 2, 4, 8]), rng.choice([0, 4])))
        for epoch in (1, 2, 3):
            nested = {"1": rng.random(), "2": rng.random()} if rng.random() < 0.5 else None
            history.apply(reported(number, epoch, rng.choice([0.5, rng.random()]), nested=nested))
            if rng.random() < 0.1:
                history.apply({"event": "failed", "trial": number, "kind": "diverged", "reason": "r", "time": 2.0})
            known.update(history.trials[number])
            if history.trials[number].has_ended:
                break
        fresh = Front.of(history, space)
        assert known.points() == fresh.points()
        assert known.lowest_by_price() == fresh.lowest_by_price()
        points = known.points()
        for point in fresh.lowest_by_price():
            beaten = any(p.positions <= point.positions and p.val_loss <= point.val_loss for p in points if p != point)
            assert (point in points) != beaten


def test_the_best_is_the_lowest_loss_or_the_lowest_within_a_budget() -> None:
    history = history_of((1, 0, 2.5), (4, 4, 2.0), (16, 0, 1.9))

    def best(budget: int | None) -> Point | None:
        return best_point(space_of(search={"best_positions": budget}), history)

    assert best(None).trial == 2  # type: ignore[union-attr]
    assert best(15).trial == 1  # type: ignore[union-attr]
    assert best(7).trial == 0  # type: ignore[union-attr]
    assert best_point(space_of(), History()) is None
    assert best_point(space_of(search={"best_positions": 3}), history_of((4, 0, 2.0))) is None


def test_the_numbers_of_a_prefix_are_its_own() -> None:
    bounds = {"no_context_loss": 3.0, "full_context_loss": 1.0, "compression_ratio": 10.0, "positions": 8}
    history = history_of((8, 0, 9.0))
    history.apply(reported(0, 2, 2.0, nested={"2": 2.5}, recovered=0.5, swapped_loss=2.9, **bounds))
    prefix, whole = Front.of(history, space_of(nested=True)).points()
    report = history.trials[0].best_report
    assert report is not None

    assert whole.report(report) == report
    assert prefix.report(report) == {
        "epoch": 2,
        "loops": None,
        "no_context_loss": 3.0,
        "full_context_loss": 1.0,
        "val_loss": 2.5,
        "positions": 2,
        "recovered": 0.25,
        "compression_ratio": 40.0,
    }


def test_the_area_under_a_front_by_hand() -> None:
    losses = {1: 2.5, 4: 2.2, 5: 2.3, 8: 2.0, 64: 0.1}

    area = hypervolume(losses, most_positions=16, worst_loss=3.0)

    assert area == pytest.approx(0.5 * math.log(16) + 0.3 * math.log(4) + 0.2 * math.log(2))
    assert hypervolume({}, 16, 3.0) == hypervolume({2: 3.5}, 16, 3.0) == 0.0
