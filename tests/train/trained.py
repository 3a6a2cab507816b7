"""A tiny compressor that a trial has trained, as the tests of examples and evaluation need it."""

from pathlib import Path
from typing import Any

from cmp.space.settings import TrialSettings, Window
from cmp.train.session import LocalSession, TrialPlan
from cmp.train.trial import run_trial


def train_tiny(model: Path, text: Path, folder: Path, **changes: Any) -> TrialPlan:
    """Train one epoch of a few loops; the plan of trial 3 of the search in `folder`, whose best/ is filled."""
    options: dict[str, Any] = {
        "cmp_len": 24, "seq_len": 8, "n_cmps": 2, "n_train_loops": 2, "n_epochs": 1, "batch_size": 4,
        "val_batch_size": 4, "max_val_loops": 3, "n_data_procs": 1, "torch_dtype": "float32",
    }  # fmt: skip
    settings = TrialSettings(str(model), str(text), data_root=str(folder / "data"), **{**options, **changes})
    window = Window(0, settings.seq_len) if settings.rmb_only else Window(32, settings.seq_len)
    plan = TrialPlan(3, settings, window, folder / "results" / "trials" / "0003")
    outcome = run_trial(plan, LocalSession())
    assert outcome.status == "finished", outcome.reason
    return plan
