import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cmp.train.trial as trial_module
from cmp.space.settings import TrialSettings, Window
from cmp.store import Twin
from cmp.train.bounds import Bounds, shared_bounds
from cmp.train.session import LocalSession, TrialPlan
from cmp.train.sync import Workers
from cmp.train.trial import run_trial

SETTINGS = TrialSettings(model_string="m", dataset="d")
BOUNDS = Bounds(4.0, 3.0, 0.25, 0.5, 100, {"0": 4.0, "1": 3.5, "2": 3.0})


def test_recovered_is_undefined_where_the_context_does_not_help() -> None:
    assert BOUNDS.recovered(3.25) == 0.75
    assert replace(BOUNDS, full_context_loss=4.0).recovered(3.0) is None


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Bounds]:
    """Every computation of bounds by a trial of this test, in order."""
    honest, made = trial_module.compute_bounds, []

    def counted(*args: Any) -> Bounds:
        made.append(honest(*args))
        return made[-1]

    monkeypatch.setattr(trial_module, "compute_bounds", counted)
    return made


def test_trials_share_bounds_unless_they_are_scored_otherwise(
    measured: list[Bounds], tiny_model_folder: Path, tiny_text_file: Path, tmp_path: Path
) -> None:
    settings = TrialSettings(
        model_string=str(tiny_model_folder), dataset=str(tiny_text_file), data_root=str(tmp_path / "data"),
        n_data_procs=1, cmp_len=24, seq_len=8, n_cmps=2, batch_size=4, n_train_loops=1, n_epochs=1,
        val_batch_size=8, max_val_loops=2,
    )  # fmt: skip
    number = iter(range(100))

    def reported(**changes: Any) -> tuple[float, float]:
        session = LocalSession()
        folder = tmp_path / "results" / "trials" / f"{next(number):04d}"
        run_trial(TrialPlan(0, replace(settings, **changes), Window(24, 8), folder), session)
        return session.reports[0].no_context_loss, session.reports[0].full_context_loss

    first = reported()
    assert reported(lr=0.1, n_cmps=4, memory="kv", seed=5, batch_size=2) == first
    assert len(measured) == 1

    shorter = reported(cmp_len=12)
    assert len(measured) == 2
    assert shorter[0] == first[0], "the same target tokens"
    assert shorter[1] != first[1]
    reported(max_val_loops=1)
    reported(torch_dtype="bfloat16")
    assert len(measured) == 4

    files = sorted((tmp_path / "results" / "bounds").glob("*.json"))
    assert len(files) == 4
    assert {json.loads(file.read_text())["key"]["cmp_len"] for file in files} == {12, 24}


def test_a_torn_file_is_computed_again(tmp_path: Path) -> None:
    workers = Workers(LocalSession(), SETTINGS)
    shared_bounds(Twin(tmp_path), {"a": 1}, lambda: BOUNDS, workers, lambda _: None)
    (path,) = tmp_path.glob("*.json")
    path.write_text(path.read_text()[:-20])
    other = replace(BOUNDS, tokens=7)
    assert shared_bounds(Twin(tmp_path), {"a": 1}, lambda: other, workers, lambda _: None) == other
    assert shared_bounds(Twin(tmp_path), {"a": 1}, lambda: BOUNDS, workers, lambda _: None) == other


def test_trials_that_want_them_at_once_compute_them_once(tmp_path: Path) -> None:
    computed, got = [], []
    together = threading.Barrier(4)

    def compute() -> Bounds:
        computed.append(1)
        return BOUNDS

    def trial() -> None:
        together.wait()
        got.append(shared_bounds(Twin(tmp_path), {"a": 1}, compute, Workers(LocalSession(), SETTINGS), lambda _: None))

    threads = [threading.Thread(target=trial) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [BOUNDS] * 4
    assert len(computed) == 1
