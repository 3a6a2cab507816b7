"""A trial whose results go to an object store: what lies there, another machine that goes on, a store that is away."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cmp.model.saving import read_config, read_tensors
from cmp.objects import ObjectStore, StoreError
from cmp.space.settings import TrialSettings, Window
from cmp.store import Twin, local_folder
from cmp.train import log as log_module
from cmp.train.bounds import Bounds, shared_bounds
from cmp.train.log import TrialLog
from cmp.train.session import LocalSession, TrialOutcome, TrialPlan
from cmp.train.sync import Workers
from cmp.train.trial import run_trial
from tests.stores import Gate
from tests.train.test_bounds import BOUNDS
from tests.train.test_bounds import SETTINGS as SOME_SETTINGS


@pytest.fixture
def settings(tiny_model_folder: Path, tiny_text_file: Path, tmp_path: Path) -> TrialSettings:
    return TrialSettings(
        model_string=str(tiny_model_folder), dataset=str(tiny_text_file), data_root=str(tmp_path / "data"),
        cmp_len=24, seq_len=8, n_cmps=2, n_data_procs=1, torch_dtype="float32",
        batch_size=4, n_train_loops=4, n_epochs=3, val_batch_size=8, max_val_loops=2,
    )  # fmt: skip


def plan_on(machine: Path, url: str | None, settings: TrialSettings) -> TrialPlan:
    window = Window(settings.cmp_len, settings.seq_len)
    return TrialPlan(3, settings, window, machine / "trials" / "0003", url and f"{url}/trials/0003")


def last_trainables(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(max(folder.glob("loop-*.pt")), weights_only=True)["trainables"]


def test_another_machine_goes_on_where_the_store_says_and_ends_as_an_unbroken_trial(
    settings: TrialSettings, tmp_path: Path, s3: str
) -> None:
    unbroken, session = plan_on(tmp_path / "unbroken", None, settings), LocalSession()
    assert run_trial(unbroken, session).status == "finished"

    first, second = (plan_on(tmp_path / name, s3, settings) for name in ("first", "second"))
    assert run_trial(first, LocalSession(stop_after_reports=1)) == TrialOutcome("interrupted", 1)
    resumed = LocalSession()
    assert run_trial(second, resumed) == TrialOutcome("finished", 3)

    assert [report.val_loss for report in resumed.reports] == [report.val_loss for report in session.reports]
    one, other = (last_trainables(plan.folder / "checkpoints") for plan in (unbroken, second))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    log = ObjectStore(f"{s3}/trials/0003").get("log.txt").decode()
    assert "interrupted after epoch 1" in log and "resumed after loop 4" in log and "finished after epoch 3" in log


def test_what_a_trial_leaves_on_the_store(settings: TrialSettings, tmp_path: Path, s3: str) -> None:
    plan, session = plan_on(tmp_path, s3, settings), LocalSession()
    run_trial(plan, session)

    store = ObjectStore(s3)
    names = store.list()
    checkpoints = [name for name in names if name.endswith(".pt")]
    best = min(session.reports, key=lambda report: report.val_loss)
    assert checkpoints == ["trials/0003/checkpoints/loop-000000008.pt", "trials/0003/checkpoints/loop-000000012.pt"]
    assert store.get("trials/0003/best/current").split()[0] == str(best.epoch).encode()
    assert f"trials/0003/best/{best.epoch}/compressor.safetensors" in names
    assert json.loads(store.get("trials/0003/settings.json"))["trial"] == 3
    assert sum(name.startswith("bounds/") for name in names) == 1
    with local_folder(f"{s3}/trials/0003/best") as folder:
        config = read_config(folder)
        read_tensors(folder, config)
        assert config.origin.metrics["val_loss"] == best.val_loss


def test_a_store_that_is_away_for_a_while_stops_no_trial(
    settings: TrialSettings, tmp_path: Path, s3: str, s3_gate: Gate
) -> None:
    plan, session = plan_on(tmp_path, s3, settings), LocalSession()
    run_trial(plan_on(tmp_path / "warm", None, settings), LocalSession())  # what follows is not the loading of a model
    outcomes: list[TrialOutcome] = []
    trial = threading.Thread(target=lambda: outcomes.append(run_trial(plan, session)))
    trial.start()
    while not session.reports:
        time.sleep(0.01)
    with s3_gate.away():
        time.sleep(3)
    trial.join(60)
    assert outcomes == [TrialOutcome("finished", 3)]
    assert len([name for name in ObjectStore(s3).list() if name.endswith(".pt")]) == 2


def test_a_store_that_stays_away_costs_a_trial_its_copies_and_not_its_training(
    settings: TrialSettings, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(store: ObjectStore, name: str, content: bytes) -> None:
        raise StoreError(f"{store.url}: the store does not answer", passing=True)

    monkeypatch.setattr(ObjectStore, "put", away)
    plan, session = plan_on(tmp_path, s3, settings), LocalSession()

    assert run_trial(plan, session) == TrialOutcome("finished", 3)

    assert "does not answer: the checkpoint at loop 4 was not written" in (plan.folder / "log.txt").read_text()
    assert len(list((plan.folder / "checkpoints").glob("*.pt"))) == 2


def test_a_trial_that_cannot_ask_the_store_for_its_checkpoint_is_to_be_continued_not_started_anew(
    settings: TrialSettings, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_on(tmp_path, s3, settings)
    run_trial(plan, LocalSession(stop_after_reports=1))

    def away(store: ObjectStore, below: str = "") -> list[str]:
        raise StoreError(f"{store.url}: the store does not answer", passing=True)

    monkeypatch.setattr(ObjectStore, "list", away)
    other = plan_on(tmp_path / "other", s3, settings)
    assert run_trial(other, LocalSession()).status == "interrupted"
    assert "interrupted before training began: s3://" in (other.folder / "log.txt").read_text()


def test_machines_that_compute_the_bounds_at_once_agree_on_the_first(tmp_path: Path, s3: str) -> None:
    first = BOUNDS
    second = replace(BOUNDS, no_context_loss=BOUNDS.no_context_loss + 1e-7)
    workers = Workers(LocalSession(), SOME_SETTINGS)
    machines = [Twin(tmp_path / name, s3) for name in ("a", "b", "c")]

    def compute_late() -> Bounds:
        """While this machine computes, the other one has put its own."""
        assert shared_bounds(machines[0], {"a": 1}, lambda: first, workers, lambda _: None) == first
        return second

    assert shared_bounds(machines[1], {"a": 1}, compute_late, workers, lambda _: None) == first
    assert shared_bounds(machines[2], {"a": 1}, lambda: pytest.fail("it is there"), workers, lambda _: None) == first


def test_workers_on_other_machines_have_logs_of_their_own(tmp_path: Path, s3: str) -> None:
    logs = [TrialLog(Twin(tmp_path / str(rank), s3), rank) for rank in range(2)]
    for log in logs:
        log("failed: no memory")
        log.send()
    store = ObjectStore(s3)
    assert store.list() == ["log-worker-1.txt", "log.txt"]
    assert "worker 1: failed" in store.get("log-worker-1.txt").decode()
    assert log_module.TrialLog(Twin(tmp_path / "disk"), 1)._path.name == "log.txt", "on a disk all write to one"
