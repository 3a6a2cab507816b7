"""Several workers in one trial: the same numbers as one, and nobody left waiting when one of them fails."""

import json
import math
import os
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cmp.model.compression import CompressionModel
from cmp.space.settings import TrialSettings, Window
from cmp.train.outcome import PeerLostError
from cmp.train.session import LocalSession, TrialPlan
from cmp.train.trial import run_trial
from tests.train.groups import run_group


@dataclass
class Asked(LocalSession):
    """A session that is asked to stop in the middle of its first epoch, and in the bounds where there are none."""

    polls: int = 0

    def stop_requested(self) -> bool:
        self.polls += 1
        return self.polls in (2, 12)


@pytest.fixture(scope="module")
def settings(tiny_model_folder: Path, tiny_text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> TrialSettings:
    return TrialSettings(
        model_string=str(tiny_model_folder), dataset=str(tiny_text_file), torch_dtype="float32", n_data_procs=1,
        data_root=str(tmp_path_factory.mktemp("tokens")), cmp_len=24, seq_len=8, n_cmps=2, rmb_task=True, kl_scale=0.1,
        sep_cmpr=True, batch_size=8, n_train_loops=5, n_epochs=3, n_grad_loops=2, val_batch_size=4, max_val_loops=5,
    )  # fmt: skip


@pytest.fixture(scope="module")
def questions(settings: TrialSettings, tiny_rows_file: Path) -> TrialSettings:
    """The same on questions, whose contexts, prompts and answers differ in length, so that each worker pads its own."""
    columns = {"context_column": "context", "prompt_column": "question", "answer_column": "answers.text"}
    return replace(settings, dataset=str(tiny_rows_file), **columns, keep_len=3)


def plan_of(settings: TrialSettings, results: Path) -> TrialPlan:
    return TrialPlan(1, settings, Window(settings.cmp_len, settings.seq_len), results / "trials" / "0001")


def spoil(at_call: int, error: Exception | None) -> None:
    """Make the `at_call`-th loss of this process NaN, or an error."""
    honest, calls = CompressionModel.losses, [0]

    def spoiled(self: CompressionModel, *args: Any) -> Any:
        calls[0] += 1
        if calls[0] == at_call and error is not None:
            raise error
        losses = honest(self, *args)
        return replace(losses, total=losses.total * math.nan) if calls[0] == at_call else losses

    CompressionModel.losses = spoiled  # type: ignore[method-assign]


def several_trials(settings: TrialSettings, folder: Path, rank: int, n_workers: int) -> dict[str, Any]:
    """What one worker of a group lives through; each trial's outcome, and its reports on rank 0."""
    session = partial(LocalSession, rank=rank, world_size=n_workers)
    said: dict[str, Any] = {}

    def run(name: str, session: LocalSession, settings: TrialSettings = settings) -> None:
        outcome = run_trial(plan_of(settings, folder / name), session)
        before = said[name]["statuses"] if name in said else []
        reports = [asdict(report) for report in session.reports]
        said[name] = {**asdict(outcome), "reports": reports, "statuses": [*before, outcome.status]}

    run("whole", session())
    asked = Asked(rank=rank, world_size=n_workers) if rank == 0 else session()
    run("stopped", asked)
    run("stopped", asked)
    run("stopped", session())
    run("no data", session(), replace(settings, dataset=str(folder / "missing.txt")) if rank == 1 else settings)
    honest = CompressionModel.losses
    for name, error in (("diverged", None), ("out of memory", MemoryError()), ("error", ValueError("told to"))):
        if rank == 1:
            spoil(7, error)
        run(name, session())
        CompressionModel.losses = honest  # type: ignore[method-assign]
    return said


def one_trial(settings: TrialSettings, folder: Path, rank: int, n_workers: int) -> list[dict[str, Any]]:
    session = LocalSession(rank=rank, world_size=n_workers)
    assert run_trial(plan_of(settings, folder), session).status == "finished"
    return [asdict(report) for report in session.reports]


def last_worker_dies(settings: TrialSettings, folder: Path, rank: int, n_workers: int) -> dict[str, Any]:
    if rank == n_workers - 1:
        session = Dying(rank=rank, world_size=n_workers)
        honest = CompressionModel.losses

        def dying(self: CompressionModel, *args: Any) -> Any:
            session.losses_left -= 1
            if not session.losses_left:
                os._exit(1)
            return honest(self, *args)

        CompressionModel.losses = dying  # type: ignore[method-assign]
    began = time.monotonic()
    try:
        run_trial(plan_of(settings, folder), LocalSession(rank=rank, world_size=n_workers))
    except PeerLostError as error:
        return {"lost": str(error), "seconds": time.monotonic() - began}
    return {"lost": None}


@dataclass
class Dying(LocalSession):
    losses_left: int = 4


@pytest.fixture(scope="module")
def alone(settings: TrialSettings, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return json.loads(json.dumps(one_trial(settings, tmp_path_factory.mktemp("alone"), 0, 1)))


@pytest.fixture(scope="module")
def pair(settings: TrialSettings, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("pair")
    return run_group(partial(several_trials, settings, folder), 2, folder)


def test_two_workers_give_the_numbers_of_one_on_questions(questions: TrialSettings, tmp_path: Path) -> None:
    alone = json.loads(json.dumps(one_trial(questions, tmp_path / "alone", 0, 1)))

    two = run_group(partial(one_trial, questions, tmp_path / "two"), 2, tmp_path)

    assert_same_numbers(two[0], alone)


def assert_same_numbers(reports: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(reports) == len(expected)
    for ours, theirs in zip(reports, expected, strict=True):
        for name in ("train_loss", "val_loss", "val_rmb_loss", "no_context_loss", "full_context_loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
        assert (ours["loops"], ours["tokens"], ours["lr"]) == (theirs["loops"], theirs["tokens"], theirs["lr"])


def test_two_workers_give_the_numbers_of_one(pair: list[dict[str, Any]], alone: list[dict[str, Any]]) -> None:
    assert_same_numbers(pair[0]["whole"]["reports"], alone)
    assert pair[1]["whole"]["reports"] == [], "only rank 0 reports"
    assert pair[0]["whole"]["status"] == pair[1]["whole"]["status"] == "finished"


def test_four_workers_give_the_numbers_of_one(
    settings: TrialSettings, alone: list[dict[str, Any]], tmp_path: Path
) -> None:
    results = run_group(partial(one_trial, settings, tmp_path), 4, tmp_path)
    assert_same_numbers(results[0], alone)


def test_a_stop_that_only_rank_0_hears_stops_all_and_the_trial_goes_on(
    pair: list[dict[str, Any]], alone: list[dict[str, Any]]
) -> None:
    assert_same_numbers(pair[0]["stopped"]["reports"], alone)
    for worker in pair:
        assert worker["stopped"]["statuses"] == ["interrupted", "interrupted", "finished"]


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("no data", "failed", "missing.txt"),
        ("diverged", "diverged", "not finite at loop 7"),
        ("out of memory", "out_of_memory", "batch_size 8"),
        ("error", "failed", "ValueError: told to"),
    ],
)
def test_what_goes_wrong_on_one_worker_is_the_outcome_of_all(
    pair: list[dict[str, Any]], name: str, status: str, reason: str
) -> None:
    for worker in pair:
        assert worker[name]["status"] == status
        assert reason in worker[name]["reason"]


def test_a_worker_that_dies_is_noticed_by_the_others(settings: TrialSettings, tmp_path: Path) -> None:
    results = run_group(partial(last_worker_dies, settings, tmp_path), 2, tmp_path)
    assert results[1] is None
    assert "a worker of the trial is gone" in results[0]["lost"] and results[0]["seconds"] < 30
