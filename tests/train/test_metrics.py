import math

import pytest

from cmp.train.metrics import mean_or_nan, perplexity


def test_a_mean_over_nothing_is_not_a_number_and_a_huge_loss_has_an_infinite_perplexity() -> None:
    assert math.isnan(mean_or_nan(0.0, 0))
    assert mean_or_nan(3.0, 2) == 1.5
    assert perplexity(800.0) == math.inf
    assert perplexity(math.log(7)) == pytest.approx(7)
