import math

import pytest

from cmp.train.metrics import mean_or_nan, perplexity, recovered_fraction


def test_recovered_is_the_share_of_the_gap_that_was_closed() -> None:
    assert recovered_fraction(4.0, 3.0, 3.25) == 0.75
    assert recovered_fraction(4.0, 3.0, 4.5) == -0.5
    assert recovered_fraction(4.0, 3.0, 2.5) == 1.5


@pytest.mark.parametrize("full_context", [4.0, 4.5, math.nan])
def test_recovered_is_refused_where_the_context_does_not_help(full_context: float) -> None:
    with pytest.raises(ValueError, match="the context does not help"):
        recovered_fraction(4.0, full_context, 3.0)


def test_a_mean_over_nothing_is_not_a_number_and_a_huge_loss_has_an_infinite_perplexity() -> None:
    assert math.isnan(mean_or_nan(0.0, 0))
    assert mean_or_nan(3.0, 2) == 1.5
    assert perplexity(800.0) == math.inf
    assert perplexity(math.log(7)) == pytest.approx(7)
