"""One loss and its gradients as fast as the device allows: eagerly, or as a replayed CUDA graph.

Small models and short contexts are bound by the time that it takes to launch a thousand small kernels, not by
arithmetic. A batch without padding has fixed shapes and the step has no data-dependent branch, so the whole of it,
forward and backward, can be recorded once and launched as one. The kernels are the same, so the numbers are too.
"""

import logging
from dataclasses import fields

import torch

from cmp.model.batch import Batch, View
from cmp.model.compression import CompressionModel, Losses

logger = logging.getLogger(__name__)

# A graph keeps its own memory; large steps are bound by arithmetic and gain nothing from one.
MAX_GRAPHED_TOKENS = 32_768
WARMUP_STEPS = 3
# A control reads contexts in many ways; each recording keeps its own memory.
MAX_GRAPHS = 8


class LossStep:
    """Adds a batch's gradients to `.grad` of the trainables and returns its losses, detached.

    Args:
        model: what is trained.
        loss_scale: () on the model's device; the gradients added are those of `loss_scale * total`, with the value that
            it has at the time. None is 1.
        graphs: record and replay CUDA graphs where that is possible; None decides by device and size. Everything
            falls back to eager execution: padded batches, prompts, CPUs, spread models, models that no graph can hold.

    With graphs, gradients are added in place: clear them with `zero_grad(set_to_none=False)`, and read the returned
    losses before the next call, which overwrites them.
    """

    def __init__(
        self, model: CompressionModel, loss_scale: torch.Tensor | None = None, *, graphs: bool | None = None
    ) -> None:
        self.model = model
        self._loss_scale = loss_scale
        on_cuda = model.backbone.device.type == "cuda" and not hasattr(model.backbone.model, "hf_device_map")
        self._graphs = on_cuda if graphs is None else graphs and on_cuda
        self._limit = MAX_GRAPHED_TOKENS if graphs is None else None
        self._recorded: dict[tuple[object, ...], _Recording] = {}

    def __call__(self, batch: Batch, token_count: float, rmb_token_count: float, view: View | None = None) -> Losses:
        """Losses of `batch`, read as `view` says; the counts are those of its whole optimizer step."""
        counts = (token_count, rmb_token_count)
        if not self._graphs or batch.has_padding or batch.prompt_ids is not None:
            return self._eager(batch, *counts, view)
        if self._limit is not None and batch.context_ids.numel() + batch.target_ids.numel() > self._limit:
            return self._eager(batch, *counts, view)
        key = (batch.context_ids.shape, batch.target_ids.shape, counts, view)
        if key not in self._recorded and len(self._recorded) >= MAX_GRAPHS:
            return self._eager(batch, *counts, view)
        if key not in self._recorded:
            try:
                self._recorded[key] = _Recording(self, batch.to(self.model.backbone.device), counts, view)
            except RuntimeError as error:
                logger.info("training without CUDA graphs: %s", error)
                self._graphs = False
                return self._eager(batch, *counts, view)
        return self._recorded[key].replay(batch)

    def _eager(self, batch: Batch, token_count: float, rmb_token_count: float, view: View | None) -> Losses:
        losses = self.model.losses(batch.to(self.model.backbone.device), token_count, rmb_token_count, view)
        total = losses.total
        (total if self._loss_scale is None else total * self._loss_scale.to(total.device)).backward()
        return Losses(**{field.name: getattr(losses, field.name).detach() for field in fields(losses)})


class _Recording:
    """A loss step for one shape of batch, recorded."""

    def __init__(self, step: LossStep, batch: Batch, counts: tuple[float, float], view: View | None) -> None:
        self._batch = Batch(batch.context_ids.clone(), batch.target_ids.clone())
        parameters = [parameter for parameter in step.model.parameters() if parameter.requires_grad]
        kept = [None if parameter.grad is None else parameter.grad.clone() for parameter in parameters]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for _ in range(WARMUP_STEPS):
                    step._eager(self._batch, *counts, view)
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            # Only this thread's calls count: another one may be pinning the next batch in the meantime.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._losses = step._eager(self._batch, *counts, view)
        finally:  # warm-up and recording must leave no trace in the gradients
            for parameter, gradient in zip(parameters, kept, strict=True):
                if parameter.grad is not None:
                    parameter.grad.zero_() if gradient is None else parameter.grad.copy_(gradient)

    def replay(self, batch: Batch) -> Losses:
        """Copy the ids in and launch everything at once."""
        self._batch.context_ids.copy_(batch.context_ids, non_blocking=True)
        self._batch.target_ids.copy_(batch.target_ids, non_blocking=True)
        self._graph.replay()
        return self._losses
