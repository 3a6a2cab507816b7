"""Accumulated loops are one optimizer step: every kept token of it weighs the same, wherever it was read."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cmp.space.settings import TrialSettings, Window
from cmp.train.data.windows import Cut, TextWindows
from cmp.train.loop import TokenCounts, loop_inputs
from cmp.train.session import LocalSession, TrialPlan
from cmp.train.sync import Workers
from cmp.train.trial import run_trial

TARGETS = ("abcd", "the old cat sees a red house")  # 4 and 27 tokens of the tiny model, padded to 28


@pytest.fixture
def settings(tiny_model_folder: Path, tmp_path: Path) -> TrialSettings:
    """Pairs with short and long targets; their contexts differ in length too."""
    rows = [
        {"sentence1": "near the tree"[: 5 + number % 9], "sentence2": TARGETS[number % 2] + str(number % 10)}
        for number in range(60)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return TrialSettings(
        model_string=str(tiny_model_folder), dataset=str(path), data_root=str(tmp_path), torch_dtype="float32",
        cmp_len=12, seq_len=28, n_cmps=2, rmb_task=True, kl_scale=0.3, grad_clip=None, n_epochs=1, n_data_procs=1,
        batch_size=8, n_train_loops=1, val_batch_size=4, max_val_loops=1,
    )  # fmt: skip


def gradients(settings: TrialSettings, folder: Path) -> torch.Tensor:
    """The gradient of a trial's only step, from AdamW's first moment, flat."""
    plan = TrialPlan(0, settings, Window(settings.cmp_len, settings.seq_len), folder / "trials" / "0000")
    assert run_trial(plan, LocalSession()).status == "finished"
    (path,) = (plan.folder / "checkpoints").glob("*.pt")
    moments = torch.load(path, weights_only=True)["optimizer"]["state"]
    return torch.cat([moments[index]["exp_avg"].flatten() for index in sorted(moments)])


@pytest.mark.parametrize("n_grad_loops", [2, 8])
def test_a_step_of_several_loops_is_that_of_one_large_batch_where_targets_differ_in_length(
    settings: TrialSettings, tmp_path: Path, n_grad_loops: int
) -> None:
    """It was a mean of the loops' means: with 4 and 28 target tokens its direction had a cosine of 0.63."""
    one = gradients(settings, tmp_path / "one")
    accumulated = replace(settings, batch_size=8 // n_grad_loops, n_grad_loops=n_grad_loops, n_train_loops=n_grad_loops)

    torch.testing.assert_close(gradients(accumulated, tmp_path / "several"), one, rtol=1e-4, atol=1e-7)


def test_without_padding_all_full_steps_have_the_same_counts_so_that_a_recorded_step_fits_them_all() -> None:
    cut = Cut(boundary=6, context_len=5, target_len=4)
    windows = TextWindows(np.zeros(1000, np.uint16), np.array([0]), np.array([100]), 10, cut)
    settings = TrialSettings("m", "d", batch_size=3, keep_len=2)
    learner: Any = SimpleNamespace(
        settings=settings, windows=windows, workers=Workers(LocalSession(), settings), role="search"
    )

    given = [make() for make in loop_inputs(learner, [range(2), range(2, 4), range(4, 5)])]

    assert [one.step_tokens for one in given] == [TokenCounts(24, 30, 18)] * 4 + [TokenCounts(12, 15, 9)]
    assert {one.tokens for one in given} == {TokenCounts(12, 15, 9)}
