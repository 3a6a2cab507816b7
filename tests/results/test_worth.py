import math

import pytest

from cmp.results.worth import TextCurve, TextCurves, worth_of

LENGTHS = ("0", "1", "2", "4", "8", "16", "32", "64", "100")
LOSSES = (1.941, 1.837, 1.791, 1.748, 1.719, 1.671, 1.642, 1.583, 1.551)


@pytest.fixture
def curve() -> TextCurve:
    curve = TextCurve.from_losses(dict(zip(LENGTHS, LOSSES, strict=True)), trained=True)
    assert curve is not None
    return curve


@pytest.mark.parametrize(("kept", "loss"), [(0, 1.941), (1, 1.837), (16, 1.671), (100, 1.551), (0.5, 1.889)])
def test_worth_is_where_the_curve_has_the_loss(curve: TextCurve, kept: float, loss: float) -> None:
    assert curve.worth(loss) == pytest.approx(kept)
    assert curve.loss(kept) == pytest.approx(loss)


def test_between_measured_points_the_curve_is_linear_in_the_logarithm(curve: TextCurve) -> None:
    middle = math.sqrt(4 * 8)

    assert curve.loss(middle) == pytest.approx((1.748 + 1.719) / 2)
    assert curve.worth((1.748 + 1.719) / 2) == pytest.approx(middle)


def test_worth_has_ends(curve: TextCurve) -> None:
    assert curve.worth(2.5) == 0.0
    assert curve.worth(1.0) == 100.0
    assert curve.loss(1000) == 1.551


def test_a_point_that_noise_has_lifted_makes_nothing_worth_more() -> None:
    lifted = TextCurve(((0, 2.0), (1, 1.8), (2, 1.9), (4, 1.6)), trained=True)

    assert lifted.worth(1.85) == pytest.approx(0.75)
    assert lifted.worth(1.7) == pytest.approx(math.exp(math.log(2) + 0.5 * math.log(2)))


def test_gain_is_worth_per_position_and_carried_the_share_of_the_contexts_value(curve: TextCurve) -> None:
    found = worth_of(curve, 1.671, positions=8)

    assert found is not None
    assert found.tokens == pytest.approx(16)
    assert found.gain == pytest.approx(2.0)
    assert found.carried == pytest.approx((1.941 - 1.671) / (1.941 - 1.551))


def test_where_text_does_not_help_nothing_is_measured_in_it() -> None:
    assert worth_of(TextCurve(((0, 2.0), (4, 2.0)), trained=False), 1.9, 2) is None


def test_a_curve_needs_two_points() -> None:
    assert TextCurve.from_losses({"0": 1.0, "8": math.nan}, trained=True) is None


def test_the_text_controls_curve_takes_the_place_of_the_backbones_own() -> None:
    curves = TextCurves()
    report = {"val_loss": 1.9, "positions": 2}
    assert curves.worth_of(report) is None

    assert curves.take({"plain_curve": {"0": 2.5, "8": 2.0}})
    assert not curves.take({"plain_curve": {"0": 2.4, "4": 2.1}}), "of a shorter context"
    assert curves.best is not None and (curves.best.longest, curves.best.trained) == (8, False)

    assert curves.take({"text_curve": {"0": 2.1, "4": 1.9, "8": None}})
    assert not curves.take({"plain_curve": {"0": 2.5, "16": 2.0}})
    worth = curves.worth_of(report)
    assert worth is not None and worth.columns == {"worth_tokens": 4.0, "gain": 2.0, "carried": pytest.approx(1.0)}
    assert curves.worth_of({"val_loss": math.nan, "positions": 2}) is None
    assert curves.worth_of({"val_loss": 1.9}) is None, "an old report"
