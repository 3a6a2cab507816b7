"""One warm process, trial after trial: nothing leaks from one to the next, and nobody waits for a driver."""

import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cmp.search.engine.actor import SpoiltProcessError, TrialActor
from cmp.search.engine.control import Control, LeaveWatch
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
        control_key=f"test-{tmp_path}",
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


def test_the_wish_to_leave_reaches_a_trial_through_rays_key_value_store(
    job: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: dict[str, bytes] = {}
    monkeypatch.setattr(LeaveWatch.__init__, "__defaults__", (stored.get,))
    actor = TrialActor(config={"job": another(job, 0, n_epochs=1000)})
    while actor.step()["event"] != "reported":
        pass
    Control(job.control_key, stored.__setitem__, stored.pop).ask_everybody()
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


def test_after_a_sticky_cuda_error_the_process_runs_no_other_trial(job: TrialJob) -> None:
    """All later calls of the context fail with the same words: it would fail one trial after another."""
    actor = TrialActor(config={"job": replace(job, entry="tests.search.engine.broken:sticky_cuda_error")})
    assert actor.step()["event"] == "started"
    with pytest.raises(SpoiltProcessError) as raised:
        actor.step()

    assert raised.value.outcome["status"] == "failed"
    assert "illegal memory access" in raised.value.outcome["reason"]
    assert pickle.loads(pickle.dumps(raised.value)).outcome == raised.value.outcome


def test_after_an_error_of_the_trials_own_the_process_runs_the_next_one(job: TrialJob) -> None:
    actor = TrialActor(config={"job": replace(job, entry="tests.search.engine.broken:own_error")})
    messages = messages_of(actor)
    assert messages[-1]["status"] == "failed"
    assert actor.reset_config({"job": another(job, 1)})
    assert messages_of(actor)[-1]["status"] == "finished"
    actor.cleanup()


def test_a_trial_that_lost_a_worker_is_not_its_own_failure(job: TrialJob) -> None:
    actor = TrialActor(config={"job": replace(job, entry="tests.search.engine.broken:lost_peer")})
    actor.step()
    with pytest.raises(SpoiltProcessError) as raised:
        actor.step()

    assert raised.value.outcome["status"] == "lost"


def test_a_trial_that_does_not_see_the_results_folder_fails_before_it_writes(
    job: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmp.search.engine.probe.sees.__defaults__", (0.0,))
    actor = TrialActor(config={"job": replace(job, sign=job.plan.folder / "here-elsewhere")})
    messages = messages_of(actor)
    actor.cleanup()

    assert messages[-1]["status"] == "failed"
    assert "is not shared with this machine" in messages[-1]["reason"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("entry", ["device_side_assert", "silent_device_side_assert"])
def test_a_real_sticky_error_ends_the_process_also_where_the_trial_does_not_name_it(tmp_path: Path, entry: str) -> None:
    """In a process of its own: nothing else can use the GPU in it any more."""
    program = f"""
import sys
from pathlib import Path
from cmp.search.engine.actor import SpoiltProcessError, TrialActor
from cmp.search.engine.footprint import Footprint
from cmp.search.engine.job import TrialJob
from cmp.space.settings import TrialSettings, Window
from cmp.train.session import TrialPlan

folder = Path({str(tmp_path)!r})
plan = TrialPlan(0, TrialSettings(model_string="m", dataset="d"), Window(16, 12), folder / "trials" / "0000")
job = TrialJob(plan, Footprint(1, 1.0, 1.0), "test", "key", folder, entry="tests.search.engine.broken:{entry}")
actor = TrialActor(config={{"job": job}})
actor.step()
try:
    actor.step()
except SpoiltProcessError as error:
    print("spoilt:", error.outcome["status"])
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)

    assert run.stdout.strip() == "spoilt: failed", run.stderr[-2000:]


def test_a_report_survives_what_tune_does_to_its_nested_fields() -> None:
    from ray.tune.utils.util import flatten_dict

    from cmp.search.engine.desk import report_metrics

    metrics = {"epoch": 4, "val_loss": 2.0, "nested": None, "text_curve": {"0": 3.0, "16": 2.5}}

    assert report_metrics(flatten_dict({**metrics, "training_iteration": 4, "config": {"lr": 1.0}})) == metrics
