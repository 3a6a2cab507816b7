"""One trial, from its settings to its outcome. `run_trial` is all that `search` needs of this package.

A trial's folder: `settings.json`, `log.txt`, `checkpoints/` (the newest two) and `best/` (the compressor of the best
epoch). What is written comes before what is said: best weights, then checkpoint, then report. Where results go to an
object store, each is written to this disk first, and then put there.
"""

import gc
import math
import resource
import sys
import time
import traceback
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from cmp.model.backbone import Backbone
from cmp.model.compression import CompressionModel
from cmp.model.loading import LoadOptions, dtype_name
from cmp.model.saving import save_compressor
from cmp.model.steps import LossStep, ScoreStep, recordings_for
from cmp.model.warm_start import start_from
from cmp.space.settings import TrialSettings
from cmp.store import failed_write_tolerated, replace_folder, restore_folder, write_json
from cmp.train.bounds import Bounds, bounds_key, compute_bounds, shared_bounds
from cmp.train.checkpoint import Checkpoint, load_newest, owner_of, save_checkpoint
from cmp.train.data import TrialData, open_data
from cmp.train.data.documents import ROW_SETTINGS
from cmp.train.evaluation import validation_batches
from cmp.train.log import TrialLog
from cmp.train.loop import Learner, train_epoch
from cmp.train.metrics import mean_or_nan, perplexity
from cmp.train.optimizer import Stepper
from cmp.train.outcome import PeerLostError, TrialFailedError, as_failure
from cmp.train.session import EpochReport, Session, TrialOutcome, TrialPlan
from cmp.train.state import LossSums, TrialState
from cmp.train.sync import Workers
from cmp.train.validation import validate_compressor, validate_control
from cmp.train.warm import WarmCache

BACKBONES: WarmCache[Backbone] = WarmCache(capacity=2)
# The settings that a trial's windows depend on.
DATA_SETTINGS = (
    "model_string", "dataset", "dataset_config", "text_column", *ROW_SETTINGS, "prompt_len", "cut", "data_root",
    "abbrev_len", "cmp_len", "seq_len", "rmb_only",
)  # fmt: skip
DATA: WarmCache[TrialData] = WarmCache(capacity=4)


@dataclass(frozen=True)
class Trial:
    """A trial that is ready to train."""

    plan: TrialPlan
    session: Session
    log: TrialLog
    data: TrialData
    validation: list[np.ndarray]
    bounds: Bounds
    learner: Learner
    scores: ScoreStep
    owner: dict[str, object]

    @property
    def state(self) -> TrialState:
        """Progress; the one thing here that changes, beside the weights."""
        return self.learner.state


def run_trial(plan: TrialPlan, session: Session) -> TrialOutcome:
    """Train `plan` from where it stands to its end, or until it is asked to leave.

    Every worker of a trial calls this with its own session and returns the same outcome. Whatever goes wrong with the
    trial itself is an outcome, with the traceback in the trial's `log.txt`.

    Raises:
        PeerLostError: another worker died; the group should be started again and will go on from the last checkpoint.
    """
    log = TrialLog(plan.home, session.rank)
    try:
        return _run_to_outcome(plan, session, log)
    finally:
        log.send()
        _release_memory(session.device)


def _run_to_outcome(plan: TrialPlan, session: Session, log: TrialLog) -> TrialOutcome:
    """The phases, with every exception of the trial's own turned into its outcome."""
    workers = Workers(session, plan.settings)
    state = TrialState()
    try:
        trial = prepare(plan, session, workers, state, log)
        resume(trial)
        finished = train(trial)
    except PeerLostError as error:
        log(str(error))
        raise
    except Exception as error:
        return _failed(error, plan, state, log)
    log(f"{'finished' if finished else 'interrupted'} after epoch {state.epoch}, loop {state.loops}")
    return TrialOutcome("finished" if finished else "interrupted", state.epoch)


def prepare(plan: TrialPlan, session: Session, workers: Workers, state: TrialState, log: TrialLog) -> Trial:
    """Load what is not warm, measure the bounds, build what is trained."""
    settings = plan.settings
    if workers.leads:
        log(f"trial {plan.number} on {workers.count} worker(s), {session.device}")
    workers.agreed(lambda: _write_settings(plan, log) if workers.leads else None)
    _reset_peak_memory(session.device)
    backbone = workers.agreed(lambda: _warm_backbone(plan, session.device))
    precision: Any = dtype_name(backbone.dtype)  # what "auto" has come to
    settings = replace(settings, torch_dtype=precision)
    plan = replace(plan, settings=settings)
    data = workers.agreed(lambda: _warm_data(plan, backbone))
    slices = validation_batches(data.validation, settings.val_batch_size, settings.max_val_loops)
    bounds = shared_bounds(
        plan.bounds,
        bounds_key(settings, plan.window, data.fingerprint, backbone, len(slices)),
        lambda: compute_bounds(backbone, settings.context_len, data.validation, slices, workers),
        workers,
        log,
    )
    model = workers.agreed(lambda: _new_model(backbone, settings))
    stepper = Stepper(list(model.named_parameters()), settings, workers, float16=backbone.dtype == torch.float16)
    scale = stepper.loss_scale.value if stepper.loss_scale.dynamic else None
    recordings = recordings_for(backbone, log)
    loss_step = LossStep(model, scale, recordings)
    learner = Learner(settings, model, loss_step, data.train, stepper, state, workers, plan.role)
    owner = owner_of(settings, data.fingerprint, backbone.identity.fingerprint)
    return Trial(plan, session, log, data, slices, bounds, learner, ScoreStep(model, recordings), owner)


def resume(trial: Trial) -> None:
    """Take up the newest checkpoint that rank 0 can read, and report its history again: the search drops repeats."""
    workers, learner = trial.learner.workers, trial.learner
    restore_folder(trial.plan.folder / "best") if workers.leads else None
    found = load_newest(trial.plan.home / "checkpoints", trial.owner, trial.log) if workers.leads else None
    checkpoint = workers.from_leader(found)
    if checkpoint is None:
        return
    learner.model.load_state_dict(checkpoint.trainables)
    learner.stepper.optimizer.load_state_dict(checkpoint.optimizer)
    learner.stepper.loss_scale.load(checkpoint.loss_scale)
    trial.state.become(checkpoint.state)
    if workers.leads:
        trial.log(f"resumed after loop {trial.state.loops}, {trial.state.epoch} epoch(s) reported before")
        for report in trial.state.reports:
            trial.session.report(report)


def train(trial: Trial) -> bool:
    """Epoch after epoch; False when the trial was asked to leave before its end, with a checkpoint where it is."""
    state, workers = trial.state, trial.learner.workers
    checkpoint = partial(_checkpoint, trial)
    while state.epoch < trial.plan.settings.n_epochs:
        leave = workers.from_leader(workers.stop_requested())
        if leave or not train_epoch(trial.learner, checkpoint) or not finish_epoch(trial):
            checkpoint()
            return False
    return True


def finish_epoch(trial: Trial) -> bool:
    """Validate, keep the best, checkpoint, report; False, with nothing changed, when asked to leave meanwhile."""
    try:
        report = validate(trial)
    except TrialFailedError as error:
        if error.kind == "interrupted":
            return False
        raise
    state, workers = trial.state, trial.learner.workers
    state.reports.append(report)
    state.sums, state.epoch_tokens, state.epoch_train_seconds = LossSums(), 0, 0.0
    workers.agreed(lambda: _keep_if_best(trial, report) if workers.leads else None)
    _checkpoint(trial)
    if workers.leads:
        trial.log(_epoch_line(report, state.skipped_steps))
    workers.agreed(lambda: trial.session.report(report) if workers.leads else None)
    return True


def validate(trial: Trial) -> EpochReport:
    """Score the validation slice and put the epoch's report together.

    Raises:
        TrialFailedError: diverged, when the validation loss is not finite.
    """
    began = time.perf_counter()
    learner, state, settings = trial.learner, trial.state, trial.plan.settings
    scored = (trial.scores, trial.data.validation, trial.validation, learner.workers)
    is_last = state.epoch + 1 == settings.n_epochs
    if trial.plan.role == "control":
        found = validate_control(*scored, whole_curve=is_last)
    else:
        found = validate_compressor(*scored)
    target, rmb, swapped = found.target, found.reconstruction, found.swapped
    epoch = state.epoch + 1
    if not math.isfinite(target.loss):
        raise TrialFailedError(
            "diverged", f"the validation loss is not finite after loop {state.loops} (epoch {epoch})"
        )
    state.seconds += time.perf_counter() - began
    return EpochReport(
        epoch=epoch,
        loops=state.loops,
        tokens=state.tokens,
        train_loss=mean_or_nan(state.sums.lm, state.sums.lm_tokens),
        val_loss=target.loss,
        val_ppl=perplexity(target.loss),
        val_acc=target.accuracy,
        val_top5=target.top5,
        no_context_loss=trial.bounds.no_context_loss,
        full_context_loss=trial.bounds.full_context_loss,
        recovered=trial.bounds.recovered(target.loss),
        compression_ratio=settings.context_len / settings.positions,
        tokens_per_second=state.epoch_tokens / max(state.epoch_train_seconds, 1e-9),
        peak_memory_bytes=_peak_memory_bytes(learner.workers.device),
        seconds=state.seconds,
        lr=learner.stepper.optimizer.param_groups[0]["lr"],
        val_rmb_loss=None if rmb is None else rmb.loss,
        val_rmb_acc=None if rmb is None else rmb.accuracy,
        positions=settings.positions,
        swapped_loss=None if swapped is None else swapped.loss,
        nested=found.nested or None,
        text_curve=found.text_curve or None,
        plain_curve=trial.bounds.plain_curve if epoch == 1 else None,
    )


def _warm_backbone(plan: TrialPlan, device: torch.device) -> Backbone:
    settings = plan.settings
    options = LoadOptions(
        settings.torch_dtype,
        str(device),
        settings.model_parallel,
        trust_remote_code=settings.trust_remote_code,
        quantization=settings.quantization,
        attn_implementation=settings.attn_implementation,
    )
    key = (settings.model_string, options)
    return BACKBONES.get(key, lambda: Backbone.load(*key))


def _new_model(backbone: Backbone, settings: TrialSettings) -> CompressionModel:
    model = CompressionModel(backbone, settings, settings.seed)
    if settings.warm_start is not None:
        start_from(model, settings.warm_start)
    return model


def _warm_data(plan: TrialPlan, backbone: Backbone) -> TrialData:
    """Opened once per process and cut; what a trial trains with does not shape its data."""
    settings = plan.settings
    key = tuple(getattr(settings, name) for name in DATA_SETTINGS)
    return DATA.get((key, plan.window), lambda: open_data(settings, plan.window, tokenizer=backbone.tokenizer))


def _write_settings(plan: TrialPlan, log: TrialLog) -> None:
    content = {"trial": plan.number, "settings": asdict(plan.settings), "window": asdict(plan.window)}
    with failed_write_tolerated(log, "settings.json"):
        write_json(plan.folder / "settings.json", content)
        plan.home.send("settings.json")


def _keep_if_best(trial: Trial, report: EpochReport) -> None:
    """Replace `best/` when this epoch is better than the one whose weights lie there; a text control's last is best."""
    state, is_control = trial.state, trial.plan.role == "control"
    if not is_control and state.best_val_loss is not None and report.val_loss >= state.best_val_loss:
        return
    extra = {
        "trial": trial.plan.number,
        "metrics": asdict(report),
        "window": asdict(trial.plan.window),
        "data": trial.data.summary.counts,
    }
    with failed_write_tolerated(trial.log, "best/"):
        best = trial.plan.home / "best"
        replace_folder(best.path, lambda new: save_compressor(trial.learner.model, new, extra))
        best.send_folder(version=str(report.epoch))
        state.best_val_loss = report.val_loss


def _checkpoint(trial: Trial) -> None:
    """Rank 0 writes; all workers go on together."""

    def write() -> None:
        stepper = trial.learner.stepper
        trainables = {name: tensor.detach().cpu() for name, tensor in trial.learner.model.state_dict().items()}
        with failed_write_tolerated(trial.log, f"the checkpoint at loop {trial.state.loops}"):
            optimizer, loss_scale = stepper.optimizer.state_dict(), stepper.loss_scale.state()
            checkpoint = Checkpoint(trainables, optimizer, loss_scale, trial.state, trial.owner)
            save_checkpoint(trial.plan.home / "checkpoints", checkpoint)

    workers = trial.learner.workers
    workers.agreed(lambda: write() if workers.leads else None)


def _epoch_line(report: EpochReport, skipped_steps: int) -> str:
    skipped = f", {skipped_steps} step(s) left out so far (float16 overflowed)" if skipped_steps else ""
    recovered = "" if report.recovered is None else f", recovered {report.recovered:.3f}"
    return (
        f"epoch {report.epoch}: loops {report.loops}, train_loss {report.train_loss:.4f}, "
        f"val_loss {report.val_loss:.4f}{recovered}, {report.tokens_per_second:,.0f} tokens/s, "
        f"lr {report.lr:.2e}{skipped}"
    )


def _failed(error: Exception, plan: TrialPlan, state: TrialState, log: TrialLog) -> TrialOutcome:
    """An outcome in place of an exception; what is kept warm is dropped where memory ran out."""
    failure = as_failure(error, plan.settings)
    if failure.kind == "interrupted":
        log(f"interrupted before training began: {failure.reason}")
        return TrialOutcome("interrupted", state.epoch)
    details = "" if failure.elsewhere or failure.kind == "diverged" else "\n" + traceback.format_exc()
    log(f"{failure.kind}: {failure.reason}{details}")
    if failure.kind == "out_of_memory":
        BACKBONES.clear()
    return TrialOutcome(failure.kind, state.epoch, failure.reason)


def _release_memory(device: torch.device) -> None:
    """Give the trial's GPU memory back before the next trial, which may share the device.

    Nothing to do on a CPU, where looking through all of Python's objects costs 0.2 s and frees a few megabytes.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def _reset_peak_memory(device: torch.device) -> None:
    for index in _gpus(device):
        torch.cuda.reset_peak_memory_stats(index)


def _gpus(device: torch.device) -> range:
    """All that this process sees: they are its own, and a spread model is on each."""
    return range(torch.cuda.device_count() if device.type == "cuda" else 0)


def _peak_memory_bytes(device: torch.device) -> int:
    """Largest memory so far: of the trial on its GPUs together, of the whole process on a CPU."""
    if gpus := _gpus(device):
        return sum(torch.cuda.max_memory_allocated(index) for index in gpus)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
