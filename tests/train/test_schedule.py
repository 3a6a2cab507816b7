from dataclasses import replace

import pytest

from cmp.space.settings import TrialSettings
from cmp.train.schedule import (
    COSINE_FLOOR,
    PLATEAU_FACTOR,
    checkpoint_due,
    cosine_factor,
    learning_rate,
    plateau_factor,
    steps_of_epoch,
)

SETTINGS = TrialSettings(model_string="m", dataset="d", lr=0.1, n_train_loops=50, n_epochs=4, patience=1)


def test_cosine_rises_linearly_to_its_peak_and_falls_to_its_floor() -> None:
    factors = [cosine_factor(loop, 200) for loop in range(200)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[4] - factors[3] == pytest.approx(1 / 11)
    assert factors[10] == 1.0
    assert factors[105] == pytest.approx((1 + COSINE_FLOOR) / 2)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert cosine_factor(200, 200) == pytest.approx(COSINE_FLOOR)


@pytest.mark.parametrize("total", [1, 2, 3])
def test_cosine_works_for_a_trial_of_a_few_loops(total: int) -> None:
    assert all(0 < cosine_factor(loop, total) <= 1 for loop in range(total))


def test_plateau_reduces_after_more_than_patience_idle_epochs_and_counts_afresh() -> None:
    assert plateau_factor([3.0, 2.9, 2.8], patience=1) == 1.0
    assert plateau_factor([3.0, 3.1], patience=1) == 1.0
    assert plateau_factor([3.0, 3.1, 3.2], patience=1) == PLATEAU_FACTOR
    assert plateau_factor([3.0, 3.1, 3.2, 3.1], patience=1) == PLATEAU_FACTOR
    assert plateau_factor([3.0, 3.1, 3.2, 3.1, 3.1], patience=1) == pytest.approx(PLATEAU_FACTOR**2)
    assert plateau_factor([3.0, 2.9999], patience=0) == PLATEAU_FACTOR, "less than the threshold is no improvement"


def test_each_schedule_gives_the_rate_from_loops_and_losses_alone() -> None:
    assert learning_rate(replace(SETTINGS, lr_schedule="constant"), 70, [3.0, 3.0, 3.0]) == 0.1
    assert learning_rate(replace(SETTINGS, lr_schedule="plateau"), 150, [3.0, 3.0, 3.0]) == 0.1 * PLATEAU_FACTOR
    assert learning_rate(replace(SETTINGS, lr_schedule="cosine"), 10, []) == 0.1


def test_steps_group_loops_and_start_afresh_with_each_epoch() -> None:
    assert steps_of_epoch(0, 0, 7, 3) == [range(0, 3), range(3, 6), range(6, 7)]
    assert steps_of_epoch(1, 7, 7, 3) == [range(7, 10), range(10, 13), range(13, 14)]
    assert steps_of_epoch(1, 10, 7, 3) == [range(10, 13), range(13, 14)]
    assert steps_of_epoch(0, 0, 2, 5) == [range(0, 2)]
    assert steps_of_epoch(0, 7, 7, 3) == [], "stopped after its last step, before its validation"


def test_checkpoints_inside_an_epoch_fall_on_the_first_step_past_each_multiple() -> None:
    steps = [step for epoch in range(2) for step in steps_of_epoch(epoch, epoch * 10, 10, 3)]
    due = [step.stop for step in steps if checkpoint_due(step.start, step.stop, 10, 4)]
    assert due == [6, 9, 16, 19]
    assert not any(checkpoint_due(step.start, step.stop, 10, None) for step in steps)
    assert not checkpoint_due(5, 10, 10, 5), "the epoch's own checkpoint follows"
