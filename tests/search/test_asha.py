"""ASHA's answers, worked out by hand, and the faults of Ray Tune's version that it does not have."""

import math
import random

import pytest

from cmp.search.asha import Asha, Decision, rung_epochs


def asha(*, grace: int = 1, factor: int = 3, epochs: int = 10, peers: int = 3) -> Asha:
    return Asha(grace_period=grace, reduction_factor=factor, max_epochs=epochs, min_peers=peers)


@pytest.mark.parametrize(
    ("grace", "factor", "epochs", "rungs"),
    [(1, 3, 10, (1, 3, 9)), (1, 3, 9, (1, 3)), (2, 2, 10, (2, 4, 8)), (4, 4, 4, ()), (1, 2, 1, ())],
)
def test_rungs_are_powers_of_the_factor_below_the_last_epoch(
    grace: int, factor: int, epochs: int, rungs: tuple[int, ...]
) -> None:
    assert rung_epochs(grace, factor, epochs) == rungs == asha(grace=grace, factor=factor, epochs=epochs).rungs


def test_a_rung_stops_nobody_before_enough_others_have_been_there() -> None:
    rungs = asha(peers=3)
    assert [rungs.record(trial, 1, 1.0 + trial).stop for trial in range(5)] == [False, False, False, True, True]


def test_one_in_three_goes_on_rounded_up() -> None:
    rungs = asha(peers=3)
    for trial, loss in enumerate([5.0, 4.0, 3.0]):
        rungs.record(trial, 1, loss)
    # Of four trials two places: second best goes on. Of five two: third best does not. Of seven three: third best does.
    assert not rungs.record(3, 1, 3.5).stop
    assert rungs.record(4, 1, 3.8).stop
    assert rungs.record(5, 1, 3.9).stop
    assert not rungs.record(6, 1, 3.6).stop


def test_equal_losses_do_not_count_as_better() -> None:
    rungs = asha(peers=1)
    assert not any(rungs.record(trial, 1, 2.0).stop for trial in range(10))


def test_epochs_between_rungs_and_beyond_them_decide_nothing() -> None:
    rungs = asha(peers=1)
    rungs.record(0, 1, 1.0)
    assert rungs.record(1, 2, 99.0) == Decision(stop=False, rung=None)
    assert rungs.record(1, 10, 99.0) == Decision(stop=False, rung=None)
    assert rungs.record(1, 27, 99.0) == Decision(stop=False, rung=None)


def test_a_first_report_that_skips_rungs_does_not_fill_the_rungs_below() -> None:
    rungs = asha()
    rungs.record(0, 9, 0.1)
    assert rungs.losses(1) == rungs.losses(3) == {}
    assert rungs.losses(9) == {0: 0.1}


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_enters_nothing(loss: float) -> None:
    rungs = asha(peers=1)
    assert rungs.record(0, 1, loss) == Decision(stop=False, rung=None)
    assert rungs.losses(1) == {}


def test_a_repeat_keeps_the_first_loss() -> None:
    rungs = asha(peers=1)
    rungs.record(0, 1, 1.0)
    assert rungs.record(0, 1, 50.0) == Decision(stop=False, rung=1)
    assert rungs.losses(1) == {0: 1.0}


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_decisions_agree_with_sorting_everything_again(factor: int) -> None:
    rng = random.Random(factor)
    rungs = asha(factor=factor, peers=2)
    seen: list[float] = []
    for trial in range(200):
        loss = rng.choice([rng.random(), 0.5])
        seen.append(loss)
        keep = sorted(seen)[: -(-len(seen) // factor)]
        expected = len(seen) > 2 and loss > keep[-1]
        assert rungs.record(trial, 1, loss).stop == expected
