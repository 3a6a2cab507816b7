"""One warm process, trial after trial: nothing leaks from one to the next, and nobody waits for a driver."""

import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cmp.search.engine.actor import TrialActor
from cmp.search.engine.footprint import Footprint
from cmp.search.engine.job import TrialJob
from cmp.space.settings import TrialSettings, Window
from cmp.train.session import TrialPlan

N_EPOCHS = 3


@pytest.fixture(autouse=True)
def keep_interrupt_handler() -> Iterator[None]:
    """A trial's process ignores Ctrl-C; these tests must not."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def job(tiny_model_folder: Path, tiny_text_file: Path, tmp_path: Path) -> TrialJob:
    settings = TrialSettings(
        model_string=str(tiny_model_folder),
        dataset=str(tiny_text_file),
        data_root=str(tmp_path / "data"),
        cmp_len=16,
        seq_len=12,
        n_cmps=2,
        batch_size=4,
        val_batch_size=4,
        max_val_loops=2,
        n_train_loops=4,
        n_epochs=N_EPOCHS,
        n_data_procs=1,
    )
    return TrialJob(
        plan=TrialPlan(0, settings, Window(16, 12), tmp_path / "results" / "trials" / "0000"),
        footprint=Footprint(1, 1.0, 0.0),
        experiment="test",
        stop_file=tmp_path / "stop",
        ray_folder=tmp_path / "ray",
    )


def another(job: TrialJob, number: int, **changes: Any) -> TrialJob:
    """Another trial of the same search."""
    folder = job.plan.folder.with_name(f"{number:04d}")
    settings = replace(job.plan.settings, **changes)
    return replace(job, plan=replace(job.plan, number=number, folder=folder, settings=settings))


def messages_of(actor: TrialActor) -> list[dict[str, Any]]:
    """All messages of the trial at hand."""
    found = [actor.step()]
    while found[-1]["event"] != "outcome":
        found.append(actor.step())
    return found


def losses(messages: list[dict[str, Any]]) -> list[float]:
    return [message["val_loss"] for message in messages if message["event"] == "reported"]


def test_a_trial_says_that_it_started_every_epoch_and_how_it_ended(job: TrialJob) -> None:
    actor = TrialActor(config={"job": job})
    messages = messages_of(actor)
    actor.cleanup()

    assert [message["event"] for message in messages] == ["started", *["reported"] * N_EPOCHS, "outcome"]
    assert [message["done"] for message in messages] == [False] * (N_EPOCHS + 1) + [True]
    assert messages[-1]["status"] == "finished"
    assert messages[-1]["epoch"] == N_EPOCHS


def test_a_trial_gives_the_same_bits_in_a_warm_process_and_in_a_fresh_one(job: TrialJob) -> None:
    fresh = TrialActor(config={"job": job})
    expected = losses(messages_of(fresh))
    fresh.cleanup()

    warm = TrialActor(config={"job": another(job, 1, lr=1e-2, n_cmps=4, seed=7)})
    messages_of(warm)
    assert warm.reset_config({"job": another(job, 2)})
    found = losses(messages_of(warm))
    warm.cleanup()

    assert found == expected


def test_a_trial_that_is_replaced_leaves_with_a_checkpoint(job: TrialJob) -> None:
    """What the search does after ASHA has stopped a trial: its answer is the next trial."""
    actor = TrialActor(config={"job": another(job, 0, n_epochs=1000)})
    while actor.step()["event"] != "reported":
        pass
    assert actor.reset_config({"job": another(job, 1)})
    messages = messages_of(actor)
    actor.cleanup()

    assert messages[-1]["status"] == "finished"
    assert len(losses(messages)) == N_EPOCHS
    assert list((job.plan.folder / "checkpoints").glob("loop-*.pt"))


def test_a_trial_runs_to_its_end_when_nobody_asks_for_its_messages(job: TrialJob) -> None:
    """A driver that is stopped (SIGSTOP, a laptop's lid) through the end of a trial must not hang it."""
    actor = TrialActor(config={"job": replace(job, rungs=frozenset())})
    actor._run.result(timeout=60)

    assert len(losses(messages_of(actor))) == N_EPOCHS
    actor.cleanup()


def test_the_stop_file_makes_every_trial_leave(job: TrialJob) -> None:
    actor = TrialActor(config={"job": another(job, 0, n_epochs=1000)})
    while actor.step()["event"] != "reported":
        pass
    job.stop_file.touch()
    began = time.monotonic()
    messages = messages_of(actor)
    actor.cleanup()

    assert time.monotonic() - began < 10
    assert messages[-1]["status"] == "interrupted"


def test_what_goes_wrong_around_a_trial_is_its_outcome(job: TrialJob) -> None:
    actor = TrialActor(config={"job": replace(job, entry="cmp.train.trial:no_such_function")})
    messages = messages_of(actor)
    actor.cleanup()

    assert messages[-1]["status"] == "failed"
    assert "no_such_function" in messages[-1]["reason"]
    assert "Traceback" in (job.plan.folder / "log.txt").read_text()


def test_a_group_starts_no_manager_for_ray_data() -> None:
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    from cmp.search.engine.group import GroupTrainer

    def callbacks(trainer_class: Any) -> set[str]:
        trainer = trainer_class(print, scaling_config=ScalingConfig(num_workers=2))
        return {type(callback).__name__ for callback in trainer._create_default_callbacks()}

    # Fails when another version of Ray builds its callbacks elsewhere: the override would change nothing.
    assert callbacks(TorchTrainer) - callbacks(GroupTrainer) == {"DatasetsCallback"}


def test_a_report_survives_what_tune_does_to_its_nested_fields() -> None:
    from ray.tune.utils.util import flatten_dict

    from cmp.search.engine.tuner import report_metrics

    metrics = {"epoch": 4, "val_loss": 2.0, "nested": None, "text_curve": {"0": 3.0, "16": 2.5}}

    assert report_metrics(flatten_dict({**metrics, "training_iteration": 4, "config": {"lr": 1.0}})) == metrics
