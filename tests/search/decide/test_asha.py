"""ASHA's answers, worked out by hand, and the faults of Ray Tune's version that it does not have."""

import math
import random

import pytest

from cmp.search.decide.asha import Asha, Decision


def asha(rungs: tuple[int, ...] = (1, 3, 9), *, epochs: int = 10, factor: int = 3, peers: int = 3) -> Asha:
    return Asha(rungs, epochs, reduction_factor=factor, min_peers=peers)


def test_a_rung_stops_nobody_before_enough_others_have_been_there() -> None:
    rungs = asha(peers=3)
    assert [rungs.record(trial, 1, {0: 1.0 + trial}).stop for trial in range(5)] == [False, False, False, True, True]


def test_one_in_three_goes_on_rounded_up() -> None:
    rungs = asha(peers=3)
    for trial, loss in enumerate([5.0, 4.0, 3.0]):
        rungs.record(trial, 1, {0: loss})
    # Of four trials two places: second best goes on. Of five two: third best does not. Of seven three: third best does.
    assert not rungs.record(3, 1, {0: 3.5}).stop
    assert rungs.record(4, 1, {0: 3.8}).stop
    assert rungs.record(5, 1, {0: 3.9}).stop
    assert not rungs.record(6, 1, {0: 3.6}).stop


def test_equal_losses_do_not_count_as_better() -> None:
    rungs = asha(peers=1)
    assert not any(rungs.record(trial, 1, {0: 2.0}).stop for trial in range(10))


def test_epochs_between_rungs_and_beyond_them_decide_nothing() -> None:
    rungs = asha(peers=1)
    rungs.record(0, 1, {0: 1.0})
    assert rungs.record(1, 2, {0: 99.0}) == Decision(stop=False, rung=None)
    assert rungs.record(1, 10, {0: 99.0}) == Decision(stop=False, rung=None)
    assert rungs.record(1, 27, {0: 99.0}) == Decision(stop=False, rung=None)


def test_a_first_report_that_skips_rungs_does_not_fill_the_rungs_below() -> None:
    rungs = asha()
    rungs.record(0, 9, {0: 0.1})
    assert rungs.losses(1) == rungs.losses(3) == {}
    assert rungs.losses(9) == {0: 0.1}


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_enters_nothing(loss: float) -> None:
    rungs = asha(peers=1)
    assert rungs.record(0, 1, {0: loss}) == Decision(stop=False, rung=None)
    assert rungs.losses(1) == {}


def test_a_repeat_keeps_the_first_loss() -> None:
    rungs = asha(peers=1)
    rungs.record(0, 1, {0: 1.0})
    assert rungs.record(0, 1, {0: 50.0}) == Decision(stop=False, rung=1)
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
        assert rungs.record(trial, 1, {0: loss}).stop == expected


def _crossing(crossed: int) -> Asha:
    """Eight trials that all came from rung 1 to rung 3; at 3 the first `crossed` of them lie in the opposite order."""
    rungs = asha(peers=20)
    order = [*reversed(range(crossed)), *range(crossed, 8)]
    for trial in range(8):
        rungs.record(trial, 1, {0: 3.0 + trial})
    for place, trial in enumerate(order):
        rungs.record(trial, 3, {0: 2.0 + place})
    return rungs


@pytest.mark.parametrize(("crossed", "agreement"), [(0, 1.0), (4, 22 / 28), (5, 18 / 28), (8, 0.0)])
def test_agreement_is_the_share_of_pairs_in_the_same_order(crossed: int, agreement: float) -> None:
    assert _crossing(crossed).agreement(1) == pytest.approx(agreement)


@pytest.mark.parametrize(("crossed", "stops"), [(0, True), (4, True), (5, False), (8, False)])
def test_a_rung_stops_nobody_while_it_does_not_foretell_the_next(crossed: int, stops: bool) -> None:
    rungs = _crossing(crossed)
    for trial in range(8, 20):
        assert not rungs.record(trial, 1, {0: 1.0}).stop  # better than all: goes on anyway, and makes peers
    assert rungs.record(20, 1, {0: 50.0}).stop == stops


def test_a_rung_is_trusted_again_when_later_trials_keep_their_order() -> None:
    rungs = _crossing(5)
    for trial in range(8, 24):
        rungs.record(trial, 1, {0: 20.0 + trial})
        rungs.record(trial, 3, {0: 20.0 + trial})
    assert rungs.agreement(1) == pytest.approx(1 - 10 / math.comb(24, 2))
    assert rungs.record(99, 1, {0: 99.0}).stop


def test_the_last_rung_is_compared_with_the_end() -> None:
    rungs = asha((1,), epochs=3, peers=2)
    for trial in range(6):
        rungs.record(trial, 1, {0: 5.0 - trial})  # each better than the last, so all go on
        rungs.record(trial, 3, {0: float(trial)})
    assert rungs.agreement(1) == 0.0
    assert not rungs.record(6, 1, {0: 9.0}).stop


def test_too_few_trials_at_the_next_rung_say_nothing() -> None:
    rungs = asha(peers=1)
    for trial in range(5):
        rungs.record(trial, 1, {0: 5.0 - trial})
        rungs.record(trial, 3, {0: float(trial)})
    assert rungs.agreement(1) is None
    assert rungs.record(5, 1, {0: 9.0}).stop


def prices(rng: random.Random, *, nested: bool) -> dict[int, float]:
    """What a trial might report: losses that tend to be lower at a higher price."""
    dearest = rng.choice([1, 2, 4, 8, 16])
    sizes = [price for price in (1, 2, 4, 8, 16) if price <= dearest] if nested and rng.random() < 0.5 else [dearest]
    return {price: 2.0 - 0.1 * price**0.5 + rng.choice([0.0, rng.random()]) for price in sizes}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_no_trial_is_stopped_by_a_dearer_one(seed: int, nested: bool) -> None:
    """Take away what costs more than a trial: it is stopped by what is left, or by nothing."""
    rng = random.Random(seed)
    arrivals = [prices(rng, nested=nested) for _ in range(60)]
    rungs = asha(peers=2)
    for trial, losses in enumerate(arrivals):
        stop = rungs.record(trial, 1, losses).stop
        alone = asha(peers=2)
        limit = max(losses)
        for other, known in enumerate(arrivals[:trial]):
            alone.record(other, 1, {price: loss for price, loss in known.items() if price <= limit} or {10**6: 0.0})
        assert alone.record(trial, 1, losses).stop == stop


@pytest.mark.parametrize("seed", range(20))
def test_a_trial_that_nothing_as_cheap_beats_is_never_stopped(seed: int) -> None:
    rng = random.Random(seed)
    rungs, seen = asha(peers=1), []
    for trial in range(100):
        losses = prices(rng, nested=True)
        stop = rungs.record(trial, 1, losses).stop
        unbeaten = any(
            all(loss <= other for known in seen for at, other in known.items() if at <= price)
            for price, loss in losses.items()
        )
        assert not (stop and unbeaten)
        seen.append(losses)


@pytest.mark.parametrize("seed", range(5))
def test_decisions_with_prices_agree_with_looking_at_all_trials_again(seed: int) -> None:
    rng = random.Random(seed)
    rungs, seen = asha(peers=3), []
    for trial in range(150):
        losses = prices(rng, nested=True)
        beaten = []
        for price, loss in losses.items():
            peers = [min(at) for known in seen if (at := [other for p, other in known.items() if p <= price])]
            better = sum(peer < loss for peer in peers)
            beaten.append(len(peers) >= 3 and better >= math.ceil((len(peers) + 1) / 3))
        assert rungs.record(trial, 1, losses).stop == all(beaten)
        seen.append(losses)


def test_the_cheapest_trial_of_a_rung_goes_on_however_much_better_the_dear_ones_are() -> None:
    rungs = asha(peers=2)
    for trial in range(6):
        rungs.record(trial, 1, {16: 1.0 + trial / 10})
    assert not rungs.record(6, 1, {1: 2.5}).stop
    assert rungs.record(7, 1, {16: 2.5}).stop


def test_a_nested_trial_goes_on_as_long_as_one_of_its_prefixes_deserves_it() -> None:
    rungs = asha(peers=2)
    for trial in range(6):
        rungs.record(trial, 1, {4: 1.5 + trial / 10, 16: 1.0 + trial / 10})
    assert not rungs.record(6, 1, {4: 1.45, 16: 2.5}).stop
    assert rungs.record(7, 1, {4: 2.45, 16: 2.5}).stop
