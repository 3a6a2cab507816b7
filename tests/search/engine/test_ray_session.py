"""What a trial's process takes of a GPU that it shares."""

import pytest

from cmp.search.engine.ray_session import OUTSIDE_BYTES, memory_fraction


@pytest.mark.parametrize("gigabytes", [8, 16, 24, 80, 141])
@pytest.mark.parametrize("sharers", [2, 3, 4])
def test_trials_that_share_a_gpu_and_their_contexts_fit_on_it(gigabytes: int, sharers: int) -> None:
    """Two halves of the memory were given away as tensors, and two contexts came on top."""
    total = gigabytes * 2**30

    tensors = memory_fraction(1 / sharers, total) * total

    assert sharers * (tensors + OUTSIDE_BYTES) <= total * 1.000001
    assert tensors >= 0.5 * total / sharers


def test_a_share_that_is_smaller_than_a_context_is_not_negative() -> None:
    assert 0 < memory_fraction(0.05, 8 * 2**30) < 0.05
