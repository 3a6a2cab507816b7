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
class View:
    """How the contexts of a batch are read.

    Args:
        kept: the last tokens of each context, which the decoder reads as text.
        compresses: whether the tokens before these are compressed; without, they are left out, and the memory is that
            of an empty context (the text control).
        n_vectors: how many of the first vectors of each piece's memory are read; None is all.
    """

    kept: int = 0
    compresses: bool = True
    n_vectors: int | None = None


@dataclass(frozen=True)
class Parts:
    """A batch's contexts, cut in two as a `View` says.

    Args:
        compressed_ids: (B, C) int64, padded on the left; C may be 0.
        compressed_mask: (B, C) bool, True on real tokens; None when all are.
        kept_ids: (B, L) int64, padded on the left; L may be 0.
        kept_mask: (B, L) bool likewise.
    """

    compressed_ids: torch.Tensor
    compressed_mask: torch.Tensor | None
    kept_ids: torch.Tensor
    kept_mask: torch.Tensor | None


def split(batch: Batch, view: View) -> Parts:
    """Cut the contexts of a batch: on the left what is compressed, on the right what stays text."""
    boundary = max(0, batch.context_ids.shape[1] - view.kept)
    left, right = slice(0, boundary if view.compresses else 0), slice(boundary, None)
    ids, mask = batch.context_ids, batch.context_mask
    masks = (None, None) if mask is None else (mask[:, left], mask[:, right])
    return Parts(ids[:, left], masks[0], ids[:, right], masks[1])


@dataclass(frozen=True)
class TokenScores:
    """Teacher-forced scores of every target token; positions that do not count hold 0 / False.

    Args:
        nll: (B, S) float32, nats.
        correct: (B, S) bool, the most likely token was the right one.
        top5: (B, S) bool, the right token was among the five most likely.
        kept: (B, S) bool, the tokens that count.
    """

    nll: torch.Tensor
    correct: torch.Tensor
    top5: torch.Tensor
    kept: torch.Tensor
