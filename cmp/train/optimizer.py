"""AdamW over the trainables, and the one flat buffer through which workers share a step.

Called by `loop`. The buffer holds all gradients (each parameter's `.grad` is a view of it) and behind them the loss
sums and flags of the step, so that one all-reduce carries everything and every worker knows everything.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cmp.space.settings import TrialSettings
from cmp.train.loss_scale import LossScale
from cmp.train.sync import Workers

# A GPU runs ahead of Python; flags are read this many steps late so that it never waits. A bad step is not applied
# whatever the delay: the optimizer sees the flag on the device.
GPU_READING_DELAY = 4
_SUMS = 5
_NORM, _STOP, _FAILED, _SKIPPED = _SUMS, _SUMS + 1, _SUMS + 2, _SUMS + 3
_LOOP_LOSSES = _SUMS + 4


@dataclass(frozen=True)
class StepReading:
    """What a finished optimizer step said, summed over all workers.

    Args:
        loops: the loops of the step.
        sums: lm, lm tokens, rmb, rmb tokens, kl.
        loop_losses: each loop's part of the step's objective.
        grad_norm: before clipping.
        stop: rank 0 was asked to leave.
        failed: a worker failed in this step.
        skipped: gradients were too large for float16: nothing was changed but the loss scale.
    """

    loops: range
    sums: tuple[float, ...]
    loop_losses: tuple[float, ...]
    grad_norm: float
    stop: bool
    failed: bool
    skipped: bool = False

    @property
    def diverged_loop(self) -> int | None:
        """The first loop whose loss is not finite; the last of the step where only the gradient is not."""
        for loop, loss in zip(self.loops, self.loop_losses, strict=True):
            if not _finite(loss):
                return loop
        return None if self.skipped or _finite(self.grad_norm, *self.sums) else self.loops[-1]


def make_optimizer(parameters: Iterable[tuple[str, torch.nn.Parameter]], settings: TrialSettings) -> torch.optim.AdamW:
    """AdamW with decay on matrices only, and one learning rate for all.

    `l2` pulls projection and LoRA matrices towards zero, that is towards changing nothing. Tokens, norms and biases are
    left alone: a token works at the scale of the model's embeddings, which decay would only undo.

    One rate is enough because the model keeps its trainables in units of what they act on. What did not help on
    stories, 300 loops at 1e-2 to 2e-2: betas (0.9, 0.95), a threefold rate for tokens, no clipping (all within 0.002
    recovered); a third of the rate for the projection (-0.012).

    Args:
        parameters: the compression model's, by name.
        settings: for `lr` and `l2`.
    """
    decayed: list[torch.nn.Parameter] = []
    free: list[torch.nn.Parameter] = []
    for name, parameter in parameters:
        (decayed if is_decayed(name, parameter) else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.l2}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.lr, fused=True)


def is_decayed(name: str, parameter: torch.Tensor) -> bool:
    """Is this a matrix that maps states, not a learned input?"""
    return parameter.ndim >= 2 and not {"lora", "projection"}.isdisjoint(name.split("."))


class StepBuffer:
    """Gradients, loss sums and flags of one optimizer step in a flat float32 tensor."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], n_grad_loops: int, device: torch.device) -> None:
        size = sum(parameter.numel() for parameter in parameters)
        self.flat = torch.zeros(size + _LOOP_LOSSES + n_grad_loops, device=device)
        self.gradients = self.flat[:size]
        self.words = self.flat[size:]
        self.bad = torch.zeros((), device=device)  # stays 1 once a step was not finite
        self.skip = torch.zeros((), device=device)  # 1 where this step must not be taken: bad, or an overflow
        self._elsewhere: list[tuple[torch.Tensor, torch.Tensor]] = []  # gradients on other devices (model_parallel)
        start = 0
        for parameter in parameters:
            view = self.flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
            parameter.grad = view if parameter.device == view.device else torch.zeros_like(parameter)
            if parameter.grad is not view:
                self._elsewhere.append((parameter.grad, view))

    def add_loop(self, slot: int, objective: torch.Tensor, sums: torch.Tensor) -> None:
        """Note what the loop at `slot` of the step said on this worker."""
        self.words[:_SUMS] += sums
        self.words[_LOOP_LOSSES + slot] = objective

    def seal(self, *, stop: bool, failed: bool) -> None:
        """Last thing before the exchange: all gradients are in, and whether this worker wants to stop or has failed."""
        for gradient, view in self._elsewhere:
            view.copy_(gradient)
        if stop:
            self.words[_STOP] = 1.0
        if failed:
            self.words[_FAILED] = 1.0
            self.words[0] = torch.nan  # so that no worker applies the step

    def finish(self, loss_scale: LossScale, grad_clip: float | None) -> None:
        """After the exchange: undo the loss scale, clip, and note for the optimizer whether all is finite.

        Gradients that are not finite though the losses are have overflowed: the scale falls and this step is left out.
        """
        if loss_scale.dynamic:
            self.gradients /= loss_scale.value
        norm = torch.linalg.vector_norm(self.gradients)
        sound = torch.isfinite(self.words).all()
        overflowed = sound & ~torch.isfinite(norm) & loss_scale.can_fall()
        torch.maximum(self.bad, (~(sound & torch.isfinite(norm)) & ~overflowed).float(), out=self.bad)
        torch.maximum(self.bad, overflowed.float(), out=self.skip)
        self.words[_NORM], self.words[_SKIPPED] = norm, overflowed.float()
        loss_scale.update(overflowed)
        if grad_clip is not None:
            self.gradients *= (grad_clip / (norm + 1e-6)).clamp(max=1.0)
        for gradient, view in self._elsewhere:
            gradient.copy_(view)

    def clear(self) -> None:
        """Empty it for the next step."""
        self.flat.zero_()
        for gradient, _ in self._elsewhere:
            gradient.zero_()


class Stepper:
    """From gradients to the update: the exchange between workers, clipping, AdamW."""

    def __init__(
        self,
        parameters: Sequence[tuple[str, torch.nn.Parameter]],
        settings: TrialSettings,
        workers: Workers,
        *,
        float16: bool = False,
        reading_delay: int | None = None,
    ) -> None:
        self.optimizer = make_optimizer(parameters, settings)
        self._buffer = StepBuffer([parameter for _, parameter in parameters], settings.n_grad_loops, workers.device)
        # The protocol of torch's GradScaler: a fused optimizer leaves everything as it is where `found_inf` is 1.
        vars(self.optimizer).update(grad_scale=None, found_inf=self._buffer.skip)
        self._workers = workers
        self._grad_clip = settings.grad_clip
        self.loss_scale = LossScale(workers.device, dynamic=float16)
        on_gpu = workers.device.type == "cuda"
        self._delay = reading_delay if reading_delay is not None else GPU_READING_DELAY if on_gpu else 0
        self._unread: deque[tuple[range, torch.Tensor, Any]] = deque()

    def add_loop(self, slot: int, objective: torch.Tensor, sums: torch.Tensor) -> None:
        """Note a loop whose backward pass is done.

        Args:
            slot: place of the loop in its step.
            objective: this worker's part of the step's loss; the parts of all loops and workers sum to the mean.
            sums: (5,) lm, lm tokens, rmb, rmb tokens, kl of this worker.
        """
        self._buffer.add_loop(slot, objective, sums)

    def step(self, loops: range, lr: float, *, stop: bool, failed: bool) -> list[StepReading]:
        """Exchange, update, and return the readings that are old enough."""
        self._buffer.seal(stop=stop, failed=failed)
        self._workers.add_up(self._buffer.flat)
        self._buffer.finish(self.loss_scale, self._grad_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self._unread.append((loops, *_copy_to_host(self._buffer.words)))
        self._buffer.clear()
        return self._read(keep=self._delay)

    def drain(self) -> list[StepReading]:
        """Wait for the steps under way and return their readings."""
        return self._read(keep=0)

    def _read(self, keep: int) -> list[StepReading]:
        readings = []
        while len(self._unread) > keep:
            loops, host, copied = self._unread.popleft()
            if copied is not None:
                copied.synchronize()
            readings.append(_reading(loops, host.tolist()))
        return readings


def _copy_to_host(words: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """A copy on the CPU, and the event after which it is complete (None where it already is)."""
    if words.device.type != "cuda":
        return words.clone(), None
    host = torch.empty(words.shape, dtype=words.dtype, pin_memory=True).copy_(words, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(words.device))
    return host, copied


def _reading(loops: range, words: list[float]) -> StepReading:
    return StepReading(
        loops=loops,
        sums=tuple(words[:_SUMS]),
        loop_losses=tuple(words[_LOOP_LOSSES : _LOOP_LOSSES + len(loops)]),
        grad_norm=words[_NORM],
        stop=words[_STOP] > 0,
        failed=words[_FAILED] > 0,
        skipped=words[_SKIPPED] > 0,
    )


def _finite(*values: float) -> bool:
    return all(abs(value) < float("inf") for value in values)
