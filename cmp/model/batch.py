"""The tensors that travel between data, model and evaluation.

Shape suffixes: `B` batch, `C` context, `K` compression tokens, `S` target, `H` hidden, `V` vocabulary.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Batch:
    """Token ids without any special token: the model adds BOS, compression and task tokens itself.

    Args:
        context_ids: (B, C) int64, padded on the left.
        target_ids: (B, S) int64, padded on the right. With `rmb_only` it is the context itself.
        context_mask: (B, C) bool, True on real tokens; None when every position is real (the fast path).
        target_mask: (B, S) bool, True on tokens that count; None when all do.
    """

    context_ids: torch.Tensor
    target_ids: torch.Tensor
    context_mask: torch.Tensor | None = None
    target_mask: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; asynchronous when the source is pinned."""

        def move(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return Batch(
            self.context_ids.to(device, non_blocking=True),
            self.target_ids.to(device, non_blocking=True),
            move(self.context_mask),
            move(self.target_mask),
        )


@dataclass(frozen=True)
class TokenScores:
    """Teacher-forced scores of every target token; masked positions hold 0 / False.

    Args:
        nll: (B, S) float32, nats.
        correct: (B, S) bool, the most likely token was the right one.
        top5: (B, S) bool, the right token was among the five most likely.
    """

    nll: torch.Tensor
    correct: torch.Tensor
    top5: torch.Tensor
