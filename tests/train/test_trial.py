"""Whole trials on a tiny model, in one process: reports, files, resumption, outcomes."""

import errno
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch

import cmp.train.trial as trial_module
from cmp.model.compression import CompressionModel
from cmp.space.settings import TrialSettings, Window
from cmp.train import loss_scale, trial
from cmp.train.data import open_data
from cmp.train.session import EpochReport, LocalSession, TrialOutcome, TrialPlan
from cmp.train.trial import BACKBONES, DATA, run_trial

CLOCKS = ("tokens_per_second", "seconds", "peak_memory_bytes")


@dataclass
class Scripted(LocalSession):
    """A session that is asked to stop, or whose process dies, at a given poll.

    Polls come before every epoch, optimizer step and validation batch. With the settings below an epoch has
    1 + 4 + 2 * 3 = 11, and the bounds, when they are not there yet, 2 * 3 before the first.
    """

    stop_at_poll: int | None = None
    die_at_poll: int | None = None
    polls: int = 0

    def stop_requested(self) -> bool:
        self.polls += 1
        if self.polls == self.die_at_poll:
            raise KeyboardInterrupt
        return self.polls == self.stop_at_poll


@pytest.fixture
def settings(tiny_model_folder: Path, tiny_text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> TrialSettings:
    return TrialSettings(
        model_string=str(tiny_model_folder), dataset=str(tiny_text_file), data_root=str(data_root(tmp_path_factory)),
        cmp_len=24, seq_len=8, n_cmps=2, rmb_task=True, n_data_procs=1, torch_dtype="float32",
        batch_size=4, n_train_loops=7, n_epochs=3, n_grad_loops=2, checkpt_mod=3, val_batch_size=8, max_val_loops=3,
    )  # fmt: skip


def data_root(factory: pytest.TempPathFactory) -> Path:
    folder = factory.getbasetemp() / "tokens-of-trials"
    folder.mkdir(exist_ok=True)
    return folder


def plan_of(settings: TrialSettings, results: Path) -> TrialPlan:
    window = Window(0, settings.seq_len) if settings.rmb_only else Window(settings.cmp_len, settings.seq_len)
    return TrialPlan(3, settings, window, results / "trials" / "0003")


def newest(plan: TrialPlan) -> dict:
    path = max((plan.folder / "checkpoints").glob("*.pt"))
    return torch.load(path, weights_only=True)


def without_clocks(reports: list[EpochReport]) -> list[dict]:
    return [{name: value for name, value in asdict(report).items() if name not in CLOCKS} for report in reports]


def assert_same_end(one: TrialPlan, other: TrialPlan) -> None:
    """Bit-identical trainables and optimizer."""
    first, second = newest(one), newest(other)
    for name, tensor in first["trainables"].items():
        assert torch.equal(tensor, second["trainables"][name]), name
    for index, moments in first["optimizer"]["state"].items():
        for name, tensor in moments.items():
            assert torch.equal(tensor, second["optimizer"]["state"][index][name]), (index, name)


@pytest.fixture
def unbroken(settings: TrialSettings, tmp_path: Path) -> tuple[TrialPlan, list[EpochReport]]:
    plan, session = plan_of(settings, tmp_path / "unbroken"), LocalSession()
    assert run_trial(plan, session) == TrialOutcome("finished", 3)
    return plan, session.reports


def test_a_trial_reports_every_epoch_and_leaves_its_files(unbroken: tuple[TrialPlan, list[EpochReport]]) -> None:
    plan, reports = unbroken
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert [report.loops for report in reports] == [7, 14, 21]
    assert [report.tokens for report in reports] == [7 * 4 * 32, 14 * 4 * 32, 21 * 4 * 32]
    for report in reports:
        assert report.val_ppl == pytest.approx(math.exp(report.val_loss))
        assert 0 <= report.val_acc <= report.val_top5 <= 1
        assert report.val_rmb_loss is not None and report.val_rmb_acc is not None
        assert report.compression_ratio == 12
        assert report.tokens_per_second > 0 and report.peak_memory_bytes > 0
    assert reports[-1].train_loss < reports[0].train_loss
    assert [report.seconds for report in reports] == sorted(report.seconds for report in reports)

    assert json.loads((plan.folder / "settings.json").read_text())["settings"]["n_cmps"] == 2
    assert "epoch 3: loops 21" in (plan.folder / "log.txt").read_text()
    assert len(list((plan.folder / "checkpoints").glob("*.pt"))) == 2
    best = min(reports, key=lambda report: report.val_loss)
    config = json.loads((plan.folder / "best" / "config.json").read_text())
    assert config["origin"]["metrics"]["val_loss"] == best.val_loss
    assert config["origin"]["trial"] == 3
    assert config["origin"]["data"]["train_windows"] > config["origin"]["data"]["validation_windows"] > 0
    assert (plan.folder / "best" / "compressor.safetensors").stat().st_size > 0


def test_a_trial_never_looks_at_the_test_windows(
    settings: TrialSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What decides must not have seen what the answer is measured on."""
    data = open_data(settings, Window(settings.cmp_len, settings.seq_len))
    assert len(data.test) > 0
    monkeypatch.setattr(trial_module, "_warm_data", lambda *_: replace(data, test=None))  # type: ignore[arg-type]

    assert run_trial(plan_of(replace(settings, n_epochs=1), tmp_path), LocalSession()).status == "finished"


def test_validation_agrees_with_a_plain_loop_over_its_windows(
    unbroken: tuple[TrialPlan, list[EpochReport]], settings: TrialSettings
) -> None:
    plan, reports = unbroken
    backbone = trial_module._warm_backbone(plan, torch.device("cpu"))
    data = trial_module._warm_data(plan, backbone)
    model = CompressionModel(backbone, settings, settings.seed)
    model.load_state_dict(newest(plan)["trainables"])
    order = torch.cat([torch.as_tensor(b) for b in trial_module.validation_batches(data.validation, 8, 3)])
    assert len(order) == min(24, len(data.validation)) == len(set(order.tolist()))
    batches = [data.validation.batch(order[i : i + 1].numpy()) for i in range(len(order))]

    def mean(score: Callable) -> float:
        return sum(score(batch).nll.sum().item() for batch in batches) / (8 * len(batches))

    assert reports[-1].val_loss == pytest.approx(mean(model.score), rel=1e-5)
    assert reports[-1].no_context_loss == pytest.approx(mean(backbone.score_no_context), rel=1e-5)
    assert reports[-1].full_context_loss == pytest.approx(mean(backbone.score_full_context), rel=1e-5)


@pytest.mark.parametrize("poll", [1, 5, 7, 8, 10, 11, 12, 16, 17, 18, 20, 33])
def test_a_trial_that_was_asked_to_stop_ends_as_if_it_had_not(
    unbroken: tuple[TrialPlan, list[EpochReport]], settings: TrialSettings, tmp_path: Path, poll: int
) -> None:
    plan = plan_of(settings, tmp_path / "stopped")
    first, second = Scripted(stop_at_poll=poll), LocalSession()
    outcome = run_trial(plan, first)
    assert outcome == TrialOutcome("interrupted", len(first.reports))
    assert run_trial(plan, second) == TrialOutcome("finished", 3)
    assert without_clocks(second.reports) == without_clocks(unbroken[1])
    assert_same_end(plan, unbroken[0])
    assert second.reports[-1].seconds >= (first.reports[-1].seconds if first.reports else 0)


@pytest.mark.parametrize("poll", [9, 11, 21, 32])
def test_a_trial_whose_process_died_goes_on_from_its_last_checkpoint(
    unbroken: tuple[TrialPlan, list[EpochReport]], settings: TrialSettings, tmp_path: Path, poll: int
) -> None:
    """It dies after both loops of a step were accumulated, before the step was taken."""
    plan, second = plan_of(settings, tmp_path / "died"), LocalSession()
    with pytest.raises(KeyboardInterrupt):
        run_trial(plan, Scripted(die_at_poll=poll))
    assert run_trial(plan, second) == TrialOutcome("finished", 3)
    assert without_clocks(second.reports) == without_clocks(unbroken[1])
    assert_same_end(plan, unbroken[0])


def test_a_torn_checkpoint_costs_the_work_since_the_one_before(
    unbroken: tuple[TrialPlan, list[EpochReport]], settings: TrialSettings, tmp_path: Path
) -> None:
    plan, session = plan_of(settings, tmp_path / "torn"), LocalSession()
    run_trial(plan, Scripted(stop_at_poll=21))
    path = max((plan.folder / "checkpoints").glob("*.pt"))
    path.write_bytes(path.read_bytes()[:-1000])
    assert run_trial(plan, session) == TrialOutcome("finished", 3)
    assert without_clocks(session.reports) == without_clocks(unbroken[1])
    assert_same_end(plan, unbroken[0])
    assert (plan.folder / "log.txt").read_text().count("cannot be read") == 1


def test_a_finished_trial_that_is_run_again_only_repeats_its_reports(
    unbroken: tuple[TrialPlan, list[EpochReport]],
) -> None:
    session = LocalSession()
    assert run_trial(unbroken[0], session) == TrialOutcome("finished", 3)
    assert session.reports == unbroken[1]


def test_a_warm_process_gives_the_bits_of_a_fresh_one(
    unbroken: tuple[TrialPlan, list[EpochReport]], settings: TrialSettings, tmp_path: Path
) -> None:
    other = replace(settings, memory="kv", lora_rank=2, kl_scale=0.5, rmb_task=False, n_epochs=1)
    assert run_trial(plan_of(other, tmp_path / "other"), LocalSession()).status == "finished"
    warm, fresh = plan_of(settings, tmp_path / "warm"), plan_of(settings, tmp_path / "fresh")
    run_trial(warm, LocalSession())
    BACKBONES.clear()
    DATA.clear()
    run_trial(fresh, LocalSession())
    assert_same_end(warm, fresh)
    assert_same_end(warm, unbroken[0])


def test_training_leaves_the_backbone_as_it_was(settings: TrialSettings, tmp_path: Path) -> None:
    plan = plan_of(replace(settings, memory="kv", lora_rank=2, kl_scale=0.5, n_epochs=1), tmp_path)
    model = trial_module._warm_backbone(plan, torch.device("cpu")).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run_trial(plan, LocalSession())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_with_rmb_only_the_validation_loss_is_that_of_the_reconstruction(
    settings: TrialSettings, tmp_path: Path
) -> None:
    session = LocalSession()
    plan = plan_of(replace(settings, rmb_task=False, rmb_only=True, n_epochs=1, lr_schedule="plateau"), tmp_path)
    assert run_trial(plan, session).status == "finished"
    (report,) = session.reports
    assert report.val_rmb_loss == report.val_loss
    assert report.tokens == 7 * 4 * 8
    assert report.full_context_loss != report.no_context_loss


def test_a_loss_that_is_not_finite_ends_the_trial_before_the_step(
    settings: TrialSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, session = plan_of(settings, tmp_path), LocalSession()
    spoil_losses(monkeypatch, at_call=11, error=None)
    outcome = run_trial(plan, session)
    assert outcome == TrialOutcome("diverged", 1, "the loss is not finite at loop 11 (epoch 2)")
    assert all(torch.isfinite(tensor).all() for tensor in newest(plan)["trainables"].values())
    assert "diverged" in (plan.folder / "log.txt").read_text()
    assert len(session.reports) == 1


def test_running_out_of_memory_is_an_outcome_with_a_hint(
    settings: TrialSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_losses(monkeypatch, at_call=3, error=torch.OutOfMemoryError("CUDA out of memory"))
    outcome = run_trial(plan_of(settings, tmp_path), LocalSession())
    assert (outcome.status, outcome.epoch) == ("out_of_memory", 0)
    assert outcome.reason is not None and "batch_size 4" in outcome.reason


def test_an_exception_is_an_outcome_with_its_traceback_in_the_log(
    settings: TrialSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(settings, tmp_path)
    spoil_losses(monkeypatch, at_call=9, error=ValueError("told to"))
    assert run_trial(plan, LocalSession()) == TrialOutcome("failed", 1, "ValueError: told to")
    log = (plan.folder / "log.txt").read_text()
    assert "Traceback" in log and "spoiled" in log


def test_a_user_error_is_one_clear_line(settings: TrialSettings, tmp_path: Path) -> None:
    outcome = run_trial(plan_of(replace(settings, dataset=str(tmp_path / "none.txt")), tmp_path), LocalSession())
    assert outcome.status == "failed"
    assert outcome.reason is not None and outcome.reason.startswith("dataset: ") and "none.txt" in outcome.reason


def test_a_full_disk_costs_files_not_the_trial(
    unbroken: tuple[TrialPlan, list[EpochReport]],
    settings: TrialSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, session = plan_of(settings, tmp_path / "full"), LocalSession()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(trial_module, "save_checkpoint", full)
        patch.setattr(trial_module, "save_compressor", full)
        assert run_trial(plan, session) == TrialOutcome("finished", 3)
    assert without_clocks(session.reports) == without_clocks(unbroken[1])
    log = (plan.folder / "log.txt").read_text()
    assert "disk full: best/ was not written" in log and "disk full: the checkpoint at loop 7" in log


def spoil_losses(monkeypatch: pytest.MonkeyPatch, at_call: int, error: Exception | None) -> None:
    """The `at_call`-th loss of the trial is NaN, or raises `error`."""
    honest, calls = CompressionModel.losses, [0]

    def spoiled(self: CompressionModel, *args: object) -> object:
        calls[0] += 1
        losses = honest(self, *args)  # type: ignore[arg-type]
        if calls[0] != at_call:
            return losses
        if error is not None:
            raise error
        return replace(losses, total=losses.total * math.nan)

    monkeypatch.setattr(CompressionModel, "losses", spoiled)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_backbone_in_half_precision_trains_to_about_the_same_losses(
    unbroken: tuple[TrialPlan, list[EpochReport]], settings: TrialSettings, tmp_path: Path, dtype: str
) -> None:
    plan, session = plan_of(replace(settings, torch_dtype=dtype), tmp_path / dtype), LocalSession()  # type: ignore[arg-type]
    assert run_trial(plan, session).status == "finished"
    for ours, theirs in zip(session.reports, unbroken[1], strict=True):
        assert ours.val_loss == pytest.approx(theirs.val_loss, rel=2e-2)
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=2e-2)
    assert {tensor.dtype for tensor in newest(plan)["trainables"].values()} == {torch.float32}


@pytest.mark.parametrize("poll", [None, 8, 10, 18])
def test_a_float16_trial_survives_overflows_and_goes_on_bit_by_bit_after_an_interruption(
    settings: TrialSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poll: int | None
) -> None:
    """Its loss scale was a constant: one gradient above 65,504 ended the trial as diverged."""
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**19)  # two steps too high for this model
    half = replace(settings, torch_dtype="float16")
    unbroken, broken = (plan_of(half, tmp_path / name) for name in ("unbroken", "broken"))
    session = LocalSession()

    assert run_trial(unbroken, session).status == "finished"
    if poll is not None:
        assert run_trial(broken, Scripted(stop_at_poll=poll)).status == "interrupted"
        resumed = LocalSession()
        assert run_trial(broken, resumed).status == "finished"
        assert without_clocks(resumed.reports) == without_clocks(session.reports)
        assert_same_end(broken, unbroken)
        assert newest(broken)["loss_scale"] == newest(unbroken)["loss_scale"]

    skipped = newest(unbroken)["state"]["skipped_steps"]
    assert skipped > 0 and newest(unbroken)["loss_scale"][0] == 2.0 ** (19 - skipped)
    assert f"{skipped} step(s) left out so far" in (unbroken.folder / "log.txt").read_text()


def test_a_trial_that_goes_on_where_auto_is_another_precision_does_not_mix_the_two(
    settings: TrialSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What "auto" came to was written nowhere, so a checkpoint in float32 went on in bfloat16."""
    plan = plan_of(replace(settings, torch_dtype="auto", n_epochs=2), tmp_path)
    assert run_trial(plan, Scripted(stop_at_poll=20)).status == "interrupted"
    assert newest(plan)["owner"]["settings"]["torch_dtype"] == "float32"
    assert json.loads((plan.folder / "best" / "config.json").read_text())["settings"]["torch_dtype"] == "float32"
    monkeypatch.setattr("cmp.model.loading.resolve_dtype", lambda *_: torch.bfloat16)
    BACKBONES.clear()

    session = LocalSession()
    outcome = run_trial(plan, session)
    BACKBONES.clear()

    assert outcome.status == "finished" and [report.epoch for report in session.reports] == [1, 2]
    assert "belongs to other torch_dtype; it is not used" in (plan.folder / "log.txt").read_text()


def test_a_backbone_spread_over_devices_gives_the_same_numbers(
    unbroken: tuple[TrialPlan, list[EpochReport]], settings: TrialSettings, tmp_path: Path
) -> None:
    plan, session = plan_of(replace(settings, model_parallel=True), tmp_path / "spread"), LocalSession()
    assert run_trial(plan, session).status == "finished"
    assert [report.val_loss for report in session.reports] == pytest.approx(
        [report.val_loss for report in unbroken[1]], rel=1e-5
    )


def test_the_peak_of_a_spread_model_counts_all_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was that of the first GPU alone."""
    peaks, cuda = {0: 5, 1: 70, 2: 600}, torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(peaks))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda index: peaks[index])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda index: peaks.__setitem__(index, 0))

    assert trial._peak_memory_bytes(cuda) == 675
    trial._reset_peak_memory(cuda)
    assert trial._peak_memory_bytes(cuda) == 0
    assert trial._peak_memory_bytes(torch.device("cpu")) > 2**20


def test_a_trial_goes_on_training_a_saved_compressor(
    unbroken: tuple[TrialPlan, list[EpochReport]], settings: TrialSettings, tmp_path: Path
) -> None:
    plan, reports = unbroken
    best = min(report.val_loss for report in reports)
    further = replace(settings, warm_start=str(plan.folder / "best"), n_cmps=3, n_epochs=1, lr=1e-6)
    cold, warm = LocalSession(), LocalSession()

    assert run_trial(plan_of(replace(further, warm_start=None), tmp_path / "cold"), cold).status == "finished"
    assert run_trial(plan_of(further, tmp_path / "warm"), warm).status == "finished"

    assert warm.reports[0].val_loss < best + 0.5 * (cold.reports[0].val_loss - best)


def test_a_trial_that_cannot_start_from_the_compressor_says_why(
    unbroken: tuple[TrialPlan, list[EpochReport]], settings: TrialSettings, tmp_path: Path
) -> None:
    other = replace(settings, warm_start=str(unbroken[0].folder / "best"), memory="kv")

    outcome = run_trial(plan_of(other, tmp_path / "other"), LocalSession())

    assert outcome.status == "failed" and outcome.reason is not None
    assert 'has memory: "hidden", the trial "kv"; give the trial the same' in outcome.reason
