"""The flat step against a plain one: backward on the mean, torch's clipping, torch's AdamW."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cmp.model.backbone import Backbone
from cmp.model.compression import CompressionModel
from cmp.space.settings import TrialSettings
from cmp.train import loss_scale
from cmp.train.loss_scale import FIRST
from cmp.train.optimizer import Stepper, StepReading, make_optimizer
from cmp.train.session import LocalSession
from cmp.train.sync import Workers

SETTINGS = TrialSettings(model_string="m", dataset="d", lr=0.1, l2=0.5, grad_clip=0.3, n_grad_loops=2)
SUMS = torch.tensor([2.0, 4.0, 0.5, 1.0, 0.25])


def small_model() -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.fwd_token = torch.nn.Parameter(torch.randn(1, 4))
    model.projection = torch.nn.Module()
    model.projection.linear = torch.nn.Parameter(torch.eye(4) + 0.1)
    model.bias = torch.nn.Parameter(torch.zeros(4))
    return model


def objective(model: torch.nn.Module, loop: int) -> torch.Tensor:
    return ((model.fwd_token @ model.projection.linear + model.bias) * (loop + 1)).square().mean()


def stepper_for(model: torch.nn.Module, settings: TrialSettings = SETTINGS, **options: float) -> Stepper:
    workers = Workers(LocalSession(), settings)
    return Stepper(list(model.named_parameters()), settings, workers, **options)  # type: ignore[arg-type]


def run(model: torch.nn.Module, stepper: Stepper, steps: int, spoil: int | None = None) -> list[StepReading]:
    readings = []
    for step in range(steps):
        loops = range(2 * step, 2 * step + 2)
        for slot, loop in enumerate(loops):
            loss = objective(model, loop) / 2 * (math.nan if loop == spoil else 1.0)
            (loss * stepper.loss_scale.value).backward()
            stepper.add_loop(slot, loss.detach(), SUMS)
        readings += stepper.step(loops, lr=0.1 / (step + 1), stop=step == 2, failed=False)
    return readings + stepper.drain()


@pytest.mark.parametrize("options", [{}, {"float16": True}, {"reading_delay": 2}])
def test_three_accumulated_clipped_steps_are_those_of_plain_torch(options: dict[str, float]) -> None:
    model = small_model()
    plain = copy.deepcopy(model)
    readings = run(model, stepper_for(model, **options), steps=3)

    reference = make_optimizer(plain.named_parameters(), SETTINGS)
    norms = []
    for step in range(3):
        reference.zero_grad()
        ((objective(plain, 2 * step) + objective(plain, 2 * step + 1)) / 2).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.3)))
        for group in reference.param_groups:
            group["lr"] = 0.1 / (step + 1)
        reference.step()

    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert [reading.grad_norm for reading in readings] == pytest.approx(norms)
    assert readings[1].sums == tuple((2 * SUMS).tolist())
    assert [reading.stop for reading in readings] == [False, False, True]


def test_no_clipping_where_grad_clip_is_none() -> None:
    model, clipped = small_model(), small_model()
    run(model, stepper_for(model, replace(SETTINGS, grad_clip=None)), steps=1)
    run(clipped, stepper_for(clipped, replace(SETTINGS, grad_clip=1e9)), steps=1)
    assert torch.equal(model.projection.linear, clipped.projection.linear)


@pytest.mark.parametrize("delay", [0, 3])
def test_a_step_that_is_not_finite_changes_nothing_nor_does_any_after_it(delay: int) -> None:
    """On a GPU the flag is read steps later; the optimizer must not have moved in between."""
    model, sound = small_model(), small_model()
    stepper = stepper_for(model, reading_delay=delay)
    readings = run(model, stepper, steps=4, spoil=3)
    run(sound, stepper_for(sound), steps=1)

    assert [reading.diverged_loop for reading in readings] == [None, 3, None, None]
    for ours, theirs in zip(model.parameters(), sound.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert stepper.optimizer.state[ours]["step"].item() == 1


def overflow_at(loop: int, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of one loop become infinite, as in float16, though its loss is not."""
    honest = Stepper.add_loop
    loops = iter(range(100))

    def add_loop(self: Stepper, *args: Any) -> None:
        honest(self, *args)
        if next(loops) == loop:
            next(model.parameters()).grad.fill_(math.inf)  # type: ignore[union-attr]

    monkeypatch.setattr(Stepper, "add_loop", add_loop)


@pytest.mark.parametrize("delay", [0, 3])
def test_a_float16_step_that_overflows_is_left_out_and_the_scale_halved(
    delay: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a constant scale it ended the trial as diverged."""
    model, sound = small_model(), small_model()
    run(sound, stepper := stepper_for(sound, float16=True), steps=1)
    assert stepper.loss_scale.state() == [FIRST, 1.0]
    overflow_at(2, model, monkeypatch)
    stepper = stepper_for(model, float16=True, reading_delay=delay)

    readings = run(model, stepper, steps=2)

    assert [reading.skipped for reading in readings] == [False, True]
    assert [reading.diverged_loop for reading in readings] == [None, None]
    assert stepper.loss_scale.state() == [FIRST / 2, 0.0]
    for ours, theirs in zip(model.parameters(), sound.parameters(), strict=True):
        assert torch.equal(ours, theirs) and stepper.optimizer.state[ours]["step"].item() == 1
    assert run(model, stepper, steps=1)[0].grad_norm == pytest.approx(run(sound, stepper_for(sound), 1)[0].grad_norm)


def test_a_scale_that_cannot_fall_any_further_is_not_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    overflow_at(1, model, monkeypatch)
    stepper = stepper_for(model, float16=True)
    stepper.loss_scale.load([1.0, 0.0])

    (reading, after) = run(model, stepper, steps=2)

    assert (reading.skipped, reading.diverged_loop) == (False, 1)
    assert model.projection.linear.equal(small_model().projection.linear), "nor is any later step taken"
    assert not after.skipped


def test_the_scale_doubles_after_enough_steps_without_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant one lost the small gradients of a mean over many tokens."""
    monkeypatch.setattr(loss_scale, "GROWTH_STEPS", 3)
    model = small_model()
    stepper = stepper_for(model, float16=True)

    run(model, stepper, steps=7)

    assert stepper.loss_scale.state() == [4 * FIRST, 1.0]


def test_without_float16_nothing_is_scaled() -> None:
    model = small_model()
    stepper = stepper_for(model)
    run(model, stepper, steps=3)
    assert stepper.loss_scale.state() == [1.0, 0.0]


def test_a_gradient_that_is_not_finite_counts_as_its_last_loop() -> None:
    reading = StepReading(range(6, 9), (1.0,) * 5, (1.0, 2.0, 3.0), math.inf, stop=False, failed=False)
    assert reading.diverged_loop == 8


def test_only_the_matrices_of_projection_and_lora_decay(tiny_model_folder: Path) -> None:
    settings = replace(SETTINGS, n_cmps=3, lora_rank=2, sep_cmpr=True, rmb_task=True)
    model = CompressionModel(Backbone.load(str(tiny_model_folder)), settings, seed=0)
    groups = make_optimizer(model.named_parameters(), settings).param_groups
    found = {id(parameter): group for group in groups for parameter in group["params"]}
    parameters = dict(model.named_parameters())
    assert len(found) == len(parameters)
    decayed = {name for name, parameter in parameters.items() if found[id(parameter)]["weight_decay"] == 0.5}
    lora = {name for name in parameters if ".lora." in name}
    assert lora and decayed == lora | {"memory.projection.linear"}
