"""The training loop of one epoch: batches, backward passes, optimizer steps. Called by `trial`."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from cmp.model.batch import Batch, View
from cmp.model.compression import CompressionModel
from cmp.model.steps import LossStep
from cmp.space.settings import TrialSettings
from cmp.train.data.order import batch_order
from cmp.train.data.windows import WindowSet
from cmp.train.evaluation import pinned
from cmp.train.optimizer import Stepper, StepReading
from cmp.train.outcome import TrialFailedError, as_failure
from cmp.train.prefetch import prefetched
from cmp.train.schedule import checkpoint_due, learning_rate, steps_of_epoch
from cmp.train.session import Role
from cmp.train.state import TrialState
from cmp.train.sync import Workers
from cmp.train.views import training_view


@dataclass(frozen=True)
class Learner:
    """What the loop works with; only `model`, `stepper` and `state` change.

    `loss_step` writes into the gradients that `stepper` laid out, lifted by its loss scale, so it is made after it.
    """

    settings: TrialSettings
    model: CompressionModel
    loss_step: LossStep
    windows: WindowSet
    stepper: Stepper
    state: TrialState
    workers: Workers
    role: Role = "search"


@dataclass(frozen=True)
class TokenCounts:
    """Kept tokens of some windows: of their targets, of their contexts, and what is compressed of these."""

    target: int
    context: int
    compressed: int


@dataclass(frozen=True)
class LoopInput:
    """One loop's work.

    Args:
        batch: this worker's share; None where the batch has fewer sequences than there are workers.
        view: how its contexts are read.
        tokens: kept tokens of the whole batch, over all workers.
        step_tokens: those of all loops of its optimizer step: what the loss is divided by. Without padding the same in
            every step of as many loops.
    """

    batch: Batch | None
    view: View
    tokens: TokenCounts
    step_tokens: TokenCounts


def train_epoch(learner: Learner, checkpoint: Callable[[], None]) -> bool:
    """Run the optimizer steps that are left in the epoch.

    Args:
        learner: its state says where the epoch stands.
        checkpoint: called at the end of a step where `checkpt_mod` asks for it.

    Returns:
        True when the epoch is done, False when the trial was asked to leave.

    Raises:
        TrialFailedError: diverged, or a worker failed; then no bad step was applied.
    """
    settings, state = learner.settings, learner.state
    steps = steps_of_epoch(state.epoch, state.loops, settings.n_train_loops, settings.n_grad_loops)
    clock = Stopwatch(state)
    stopped = False
    with prefetched(loop_inputs(learner, steps)) as inputs:
        failure: TrialFailedError | None = None
        for loops in steps:
            failure = failure or _accumulate(learner, loops, inputs)
            lr = learning_rate(settings, loops.start, [report.val_loss for report in state.reports])
            stop = learner.workers.stop_requested()
            readings = learner.stepper.step(loops, lr, stop=stop, failed=failure is not None)
            stopped = _account(learner, readings, failure)
            state.loops = loops.stop
            if stopped:
                break
            if checkpoint_due(loops.start, loops.stop, settings.n_train_loops, settings.checkpt_mod):
                stopped = _account(learner, learner.stepper.drain(), failure)
                clock.lap()
                checkpoint()
                if stopped:
                    break
        _account(learner, learner.stepper.drain(), failure)
    clock.lap()
    return not stopped


def loop_inputs(learner: Learner, steps: Iterable[range]) -> Iterator[Callable[[], LoopInput]]:
    """What cuts each loop's batch; the tokens of its whole step are counted before the first one is cut.

    Counting needs the windows' lengths only, so it costs microseconds; it runs in the prefetching thread.
    """
    for loops in steps:
        tokens = [count_tokens(learner, loop) for loop in loops]
        step_tokens = TokenCounts(
            sum(one.target for one in tokens), sum(one.context for one in tokens), sum(one.compressed for one in tokens)
        )
        for loop, its_tokens in zip(loops, tokens, strict=True):
            yield partial(loop_input, learner, loop, its_tokens, step_tokens)


def count_tokens(learner: Learner, loop: int) -> TokenCounts:
    """Kept tokens of a loop's whole batch, over all workers."""
    windows, view = learner.windows, training_view(learner.settings, learner.role, loop)
    indices, _ = _batch_order(learner, loop)
    compressed = windows.context_token_count(indices, but_last=view.kept) if view.compresses else 0
    return TokenCounts(windows.token_count(indices), windows.context_token_count(indices), compressed)


def loop_input(learner: Learner, loop: int, tokens: TokenCounts, step_tokens: TokenCounts) -> LoopInput:
    """Cut the batch of `loop` and this worker's share of it; runs in the prefetching thread."""
    workers, order = learner.workers, _batch_order(learner, loop)
    mine, mine_before = (np.array_split(values, workers.count)[workers.rank] for values in order)
    batch = pinned(learner.windows.batch(mine, mine_before), workers.device) if len(mine) else None
    return LoopInput(batch, training_view(learner.settings, learner.role, loop), tokens, step_tokens)


def _batch_order(learner: Learner, loop: int) -> tuple[np.ndarray, np.ndarray]:
    """(batch_size,) each: the windows of a loop, and how often each was trained on before."""
    windows, settings = learner.windows, learner.settings
    sizes = settings.batch_size, len(windows), settings.seed
    return batch_order(loop, *sizes, windows.costs, settings.n_grad_loops)


class Stopwatch:
    """Adds the time since the last look to the state's two clocks."""

    def __init__(self, state: TrialState) -> None:
        self._state = state
        self._last = time.perf_counter()

    def lap(self) -> None:
        """Count the time until now as training."""
        now = time.perf_counter()
        self._state.epoch_train_seconds += now - self._last
        self._state.seconds += now - self._last
        self._last = now


def _accumulate(learner: Learner, loops: range, inputs: Iterator[LoopInput]) -> TrialFailedError | None:
    """Gradients of one optimizer step.

    With one worker an error is simply raised. With several it is returned, so that this worker takes part in the
    exchange that tells the others, instead of leaving them waiting.
    """
    try:
        for slot in range(len(loops)):
            _one_loop(learner, next(inputs), slot)
    except Exception as error:
        if learner.workers.count == 1:
            raise
        failure = as_failure(error, learner.settings)
        failure.__cause__ = error
        return failure
    return None


def _one_loop(learner: Learner, given: LoopInput, slot: int) -> None:
    state = learner.state
    tokens = given.tokens.target + (0 if learner.settings.rmb_only else given.tokens.context)
    state.tokens += tokens
    state.epoch_tokens += tokens
    if given.batch is None:
        return
    counts = max(1, given.step_tokens.target), max(1, given.step_tokens.compressed)
    losses = learner.loss_step(given.batch, *counts, given.view)
    sums = (losses.lm_sum, losses.lm_tokens, losses.rmb_sum, losses.rmb_tokens, losses.kl_sum)
    learner.stepper.add_loop(slot, losses.total, torch.stack([value.float() for value in sums]))


def _account(learner: Learner, readings: list[StepReading], failure: TrialFailedError | None) -> bool:
    """Add what finished steps said to the epoch's sums; True if one of them asks to stop.

    Raises:
        TrialFailedError: on every worker, in the same step.
    """
    stop = False
    for reading in readings:
        if reading.failed:
            learner.workers.share_failure(failure, failure.__cause__ if failure else None)
        loop = reading.diverged_loop
        if loop is not None:
            epoch = loop // learner.settings.n_train_loops + 1
            raise TrialFailedError("diverged", f"the loss is not finite at loop {loop + 1} (epoch {epoch})")
        learner.state.sums.add(reading.sums)
        learner.state.skipped_steps += reading.skipped
        stop = stop or reading.stop
    return stop
