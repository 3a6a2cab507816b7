"""What a trial asks of its model, as fast as the device allows: losses with their gradients, and scores.

A batch without padding or prompts has fixed shapes and no data-dependent branch, so all of it, forward and backward,
can be recorded and replayed (`recording`). Everything else is done as it comes: padded batches, prompts, CPUs, spread
models, large steps, models that a graph cannot hold.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from typing import TypeVar

import torch

from cmp.model.backbone import Backbone
from cmp.model.batch import Batch, TokenScores, View
from cmp.model.compression import CompressionModel, Losses
from cmp.model.recording import CudaRecorder, Recordings

T = TypeVar("T")

# A graph keeps its own memory; large steps are bound by arithmetic and gain nothing from one.
MAX_RECORDED_TOKENS = 32_768


def recordings_for(backbone: Backbone, notice: Callable[[str], None] = lambda _: None) -> Recordings:
    """Recordings where the backbone is on one GPU; elsewhere every call is done as it comes."""
    on_one_gpu = backbone.device.type == "cuda" and not backbone.is_spread
    return Recordings(CudaRecorder(backbone.device) if on_one_gpu else None, notice)


class LossStep:
    """Adds a batch's gradients to `.grad` of the trainables and returns its losses, detached.

    Args:
        model: what is trained.
        loss_scale: () on the model's device; the gradients added are those of `loss_scale * total`, with the value that
            it has at the time. None is 1.
        recordings: where steps are recorded; None records nothing.

    With recordings, gradients are added in place: clear them with `zero_grad(set_to_none=False)`, and read the returned
    losses before the next call, which overwrites them.
    """

    def __init__(
        self,
        model: CompressionModel,
        loss_scale: torch.Tensor | None = None,
        recordings: Recordings | None = None,
    ) -> None:
        self.model = model
        self._loss_scale = loss_scale
        self._recordings = recordings or Recordings(None)

    def __call__(self, batch: Batch, token_count: float, rmb_token_count: float, view: View | None = None) -> Losses:
        """Losses of `batch`, read as `view` says; the counts are those of its whole optimizer step."""
        counts = (token_count, rmb_token_count)
        if not _is_recordable(batch):
            return self._eager(batch, *counts, view)

        def work(context_ids: torch.Tensor, target_ids: torch.Tensor) -> Losses:
            return self._eager(Batch(context_ids, target_ids), *counts, view)

        tensors = _on_device(batch, self.model.backbone.device)
        key = ("losses", *(tensor.shape for tensor in tensors), counts, view)
        return self._recordings.call(key, work, tensors, self._gradients_kept)

    def _eager(self, batch: Batch, token_count: float, rmb_token_count: float, view: View | None) -> Losses:
        losses = self.model.losses(batch.to(self.model.backbone.device), token_count, rmb_token_count, view)
        total = losses.total
        (total if self._loss_scale is None else total * self._loss_scale.to(total.device)).backward()
        return Losses(**{field.name: getattr(losses, field.name).detach() for field in fields(losses)})

    @contextmanager
    def _gradients_kept(self) -> Iterator[None]:
        """Warm-up and recording leave no trace in the gradients."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        kept = [None if parameter.grad is None else parameter.grad.clone() for parameter in parameters]
        try:
            yield
        finally:
            for parameter, gradient in zip(parameters, kept, strict=True):
                if parameter.grad is not None:
                    parameter.grad.zero_() if gradient is None else parameter.grad.copy_(gradient)


class ScoreStep:
    """The model's scores, for validation, which is a fifth to two fifths of an epoch.

    Read what is returned before the next call, which may overwrite it.
    """

    def __init__(self, model: CompressionModel, recordings: Recordings | None = None) -> None:
        self.model = model
        self._recordings = recordings or Recordings(None)

    def variants(self, batch: Batch, swap: torch.Tensor | None, sizes: Sequence[int] = ()) -> dict[str, TokenScores]:
        """As `CompressionModel.score_variants`."""
        key = ("variants", swap is None, tuple(sizes))
        return self._call(key, partial(self.model.score_variants, sizes=sizes), batch, swap)

    def reconstruction(self, batch: Batch) -> TokenScores:
        """As `CompressionModel.score_reconstruction`."""
        return self._call(("reconstruction",), lambda batch, _: self.model.score_reconstruction(batch), batch, None)

    def views(self, batch: Batch, views: Sequence[View]) -> list[TokenScores]:
        """`CompressionModel.score` of each view."""

        def scores(batch: Batch, _: torch.Tensor | None) -> list[TokenScores]:
            return [self.model.score(batch, view) for view in views]

        return self._call(("views", tuple(views)), scores, batch, None)

    def _call(
        self,
        key: tuple[object, ...],
        function: Callable[[Batch, torch.Tensor | None], T],
        batch: Batch,
        swap: torch.Tensor | None,
    ) -> T:
        device = self.model.backbone.device
        swap = None if swap is None else swap.to(device, non_blocking=True)
        if not _is_recordable(batch):
            return function(batch.to(device), swap)

        def work(context_ids: torch.Tensor, target_ids: torch.Tensor, *order: torch.Tensor) -> T:
            return function(Batch(context_ids, target_ids), order[0] if order else None)

        tensors = [*_on_device(batch, device), *([] if swap is None else [swap])]
        with torch.no_grad():
            return self._recordings.call((*key, *(tensor.shape for tensor in tensors)), work, tensors)


def _is_recordable(batch: Batch) -> bool:
    fixed_shape = not batch.has_padding and batch.prompt_ids is None
    return fixed_shape and batch.context_ids.numel() + batch.target_ids.numel() <= MAX_RECORDED_TOKENS


def _on_device(batch: Batch, device: torch.device) -> list[torch.Tensor]:
    return [ids.to(device, non_blocking=True) for ids in (batch.context_ids, batch.target_ids)]
