import numpy as np
import pytest

from cmp.train.data.order import window_indices


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
