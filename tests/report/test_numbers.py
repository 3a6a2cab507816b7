import math
import random

import pytest

from cmp.report.numbers import MIN_TRIALS, assign_slots, importances, pareto_front, shown_range, thinned


def test_the_front_keeps_what_nothing_cheaper_beats() -> None:
    costs = [1, 2, 2, 4, 8, 8]
    losses = [2.0, 1.9, 1.8, 1.9, 1.5, 1.6]

    assert pareto_front(costs, losses) == [0, 2, 4]


def test_the_front_of_equal_points_is_one_of_them() -> None:
    assert pareto_front([1, 1, 1], [2.0, 2.0, 2.0]) == [0]


def test_a_front_agrees_with_the_definition_on_random_points() -> None:
    rng = random.Random(0)
    costs = [rng.randrange(1, 20) for _ in range(200)]
    losses = [rng.random() for _ in range(200)]

    unbeaten = {
        i
        for i in range(200)
        if not any(
            costs[j] <= costs[i] and losses[j] <= losses[i] and (costs[j], losses[j]) != (costs[i], losses[i])
            for j in range(200)
        )
    }

    assert set(pareto_front(costs, losses)) == unbeaten


def test_the_setting_that_decides_scores_high_and_noise_stays_below_chance() -> None:
    rng = random.Random(1)
    lr = [10 ** rng.uniform(-4, -1) for _ in range(40)]
    noise = [rng.random() for _ in range(40)]
    losses = [(math.log10(x) + 2.5) ** 2 + rng.gauss(0, 0.05) for x in lr]

    found = {i.setting: i for i in importances({"noise": ("linear", noise), "lr": ("log", lr)}, losses)}

    assert list(found) == ["lr", "noise"]
    assert found["lr"].score > 0.8 > found["lr"].chance
    assert found["noise"].score <= found["noise"].chance


def test_an_optimum_in_the_middle_counts() -> None:
    values = [float(x) for x in range(-10, 11)]

    (found,) = importances({"x": ("linear", values)}, [x * x for x in values])

    assert found.score > 0.9


def test_a_choice_is_predicted_by_the_others_that_made_it() -> None:
    kinds = ["kv", "hidden"] * 10
    losses = [1.0 + 0.01 * i if kind == "kv" else 2.0 + 0.01 * i for i, kind in enumerate(kinds)]

    (found,) = importances({"memory": ("choice", kinds)}, losses)

    assert found.score > 0.7


def test_predicted_share_agrees_with_leaving_each_trial_out_by_hand() -> None:
    import numpy as np

    x = [0.1, 0.5, 1.0, 2.0, 2.5, 4.0, 4.5]
    losses = [3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 7.0]
    ranks = np.argsort(np.argsort(losses)).astype(float)

    press = base = 0.0
    for out in range(len(x)):
        kept = [i for i in range(len(x)) if i != out]
        fit = np.polyfit([x[i] for i in kept], ranks[kept], 2)
        press += (ranks[out] - np.polyval(fit, x[out])) ** 2
        base += (ranks[out] - ranks[kept].mean()) ** 2

    (found,) = importances({"x": ("linear", x)}, losses)
    assert found.score == pytest.approx(1 - press / base, rel=1e-9)


def test_a_diverged_trial_counts_as_the_worst_and_breaks_nothing() -> None:
    losses = [1.0, 1.1, 1.2, 1.3, math.inf, math.inf]

    (found,) = importances({"lr": ("log", [0.001, 0.002, 0.004, 0.008, 0.5, 0.9])}, losses)

    assert found.score > 0.7


def test_few_trials_and_settings_that_never_varied_have_no_importance() -> None:
    few = [1.0] * (MIN_TRIALS - 1)
    assert importances({"x": ("linear", few)}, few) == []
    assert importances({"x": ("linear", [3.0] * 10)}, [float(i) for i in range(10)]) == []


def test_slots_are_reused_as_soon_as_they_are_free() -> None:
    assert assign_slots([(0, 10), (1, 4), (4, 6), (5, 7), (10, 12)]) == [0, 1, 1, 2, 0]


def test_an_outlier_does_not_stretch_the_axis_but_bounds_are_always_inside() -> None:
    values = [1.8, 1.85, 1.9, 1.95, 2.0, 9.0]

    shown = shown_range(values, always=[1.5, 2.6])

    assert shown is not None
    assert shown[0] < 1.5 and 2.6 < shown[1] < 3.0


def test_nothing_to_show_has_no_range() -> None:
    assert shown_range([]) is None
    assert shown_range([math.inf]) is None


def test_a_choice_that_was_made_once_is_predicted_by_all_others() -> None:
    kinds = ["kv"] * 5 + ["hidden"] * 4 + ["pooled"]
    losses = [1.0, 1.1, 1.2, 1.3, 1.4, 2.0, 2.1, 2.2, 2.3, 9.0]
    ranks = list(range(10))
    press = sum((r - (10 - r) / 4) ** 2 for r in range(5)) + sum((r - (26 - r) / 3) ** 2 for r in range(5, 9))
    press += (9 - 36 / 9) ** 2
    base = sum((r - (45 - r) / 9) ** 2 for r in ranks)

    (found,) = importances({"memory": ("choice", kinds)}, losses)

    assert found.score == pytest.approx(1 - press / base)


def test_thinning_keeps_the_first_and_spreads_the_rest_to_the_last() -> None:
    assert thinned(5, 5) == [0, 1, 2, 3, 4]
    assert thinned(100, 6, always=3) == [0, 1, 2, 3, 51, 99]
    assert len(set(thinned(10_001, 2_000, always=1_000))) == 2_000
