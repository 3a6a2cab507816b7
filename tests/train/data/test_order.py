import numpy as np
import pytest

from cmp.train.data.order import SORTED_STEPS, batch_order, window_indices


def test_every_pass_sees_every_window_once_in_a_new_order() -> None:
    first, second = window_indices(0, 10, 10, seed=3), window_indices(10, 10, 10, seed=3)

    assert sorted(first) == sorted(second) == list(range(10))
    assert not np.array_equal(first, second)


def test_the_order_from_any_position_is_the_tail_of_the_order_from_the_start() -> None:
    whole = window_indices(0, 35, 10, seed=1)

    for start in (0, 3, 10, 17, 34):
        assert np.array_equal(window_indices(start, 35 - start, 10, seed=1), whole[start:])


def test_another_seed_gives_another_order() -> None:
    assert not np.array_equal(window_indices(0, 50, 50, seed=0), window_indices(0, 50, 50, seed=1))


def test_a_batch_larger_than_the_data_takes_several_passes() -> None:
    assert np.bincount(window_indices(0, 9, 3, seed=0)).tolist() == [3, 3, 3]


def test_no_windows_have_no_order() -> None:
    with pytest.raises(ValueError, match="0 windows"):
        window_indices(0, 1, 0, seed=0)


def test_windows_of_one_length_come_in_the_order_of_their_positions() -> None:
    indices, passes = batch_order(3, 4, 10, seed=1, costs=None)

    assert np.array_equal(indices, window_indices(12, 4, 10, seed=1))
    assert passes.tolist() == [1, 1, 1, 1]


COSTS = np.random.default_rng(0).integers(1, 500, 1000)


def test_batches_are_put_together_by_length_and_every_pass_still_sees_every_window_once() -> None:
    loops = 1000 // 10
    batches = [batch_order(loop, 10, 1000, seed=3, costs=COSTS) for loop in range(2 * loops)]

    for half in (batches[: SORTED_STEPS * 3], batches[loops : loops + SORTED_STEPS]):
        assert len({window for indices, _ in half for window in indices}) >= len(half) * 10 * 0.95
    spread = np.mean([np.ptp(COSTS[indices]) for indices, _ in batches])
    by_chance = np.mean([np.ptp(COSTS[window_indices(loop * 10, 10, 1000, seed=3)]) for loop in range(loops)])
    assert spread < by_chance / 8
    means = [COSTS[indices].mean() for indices, _ in batches[:SORTED_STEPS]]
    assert means != sorted(means), "short and long batches come mixed"


def test_how_often_a_window_was_seen_is_counted_through_the_sorting() -> None:
    seen = np.zeros(30, np.int64)

    for loop in range(40):
        indices, passes = batch_order(loop, 6, 30, seed=0, costs=COSTS[:30])
        assert (np.abs(passes - seen[indices]) <= 1).all()
        np.add.at(seen, indices, 1)

    assert seen.tolist() == [8] * 30


def test_a_step_holds_the_same_windows_in_one_loop_or_in_four() -> None:
    for step in range(SORTED_STEPS + 3):
        whole, _ = batch_order(step, 8, 1000, seed=5, costs=COSTS)
        parts = [batch_order(4 * step + part, 2, 1000, 5, COSTS, n_grad_loops=4)[0] for part in range(4)]

        assert np.array_equal(np.concatenate(parts), whole)
