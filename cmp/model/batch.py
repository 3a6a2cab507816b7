"""The tensors that travel between data, model and evaluation.

Shape suffixes: `B` batch, `C` context, `K` compression tokens, `P` prompt, `S` target, `H` hidden, `V` vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch


@dataclass(frozen=True)
class Batch:
    """Token ids without any special token: the model adds BOS, compression and task tokens itself.

    Args:
        context_ids: (B, C) int64, padded on the left.
        target_ids: (B, S) int64, padded on the right. With `rmb_only` it is the context itself.
        context_mask: (B, C) bool, True on real tokens; None when every position is real (the fast path).
        target_mask: (B, S) bool, True on tokens that count; None when all do.
        prompt_ids: (B, P) int64, padded on the left: text between context and target that is neither compressed nor
            predicted; None where there is none.
        prompt_mask: (B, P) bool, True on real tokens; None when all are.
    """

    context_ids: torch.Tensor
    target_ids: torch.Tensor
    context_mask: torch.Tensor | None = None
    target_mask: torch.Tensor | None = None
    prompt_ids: torch.Tensor | None = None
    prompt_mask: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; asynchronous when the source is pinned."""
        return self._with_each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The same batch in page-locked memory, so that a copy to a GPU does not hold up Python."""
        return self._with_each(torch.Tensor.pin_memory)

    @property
    def has_padding(self) -> bool:
        """Whether any row may be shorter than the others."""
        return any(mask is not None for mask in (self.context_mask, self.target_mask, self.prompt_mask))

    def _with_each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        tensors = [getattr(self, item.name) for item in fields(self)]
        changed: list[Any] = [None if tensor is None else change(tensor) for tensor in tensors]
        return Batch(*changed)


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


Stretch = tuple[torch.Tensor, torch.Tensor | None]
"""(B, T) int64 ids and their (B, T) bool mask, True on real tokens; no mask when all are."""


def prompt_of(batch: Batch) -> Stretch:
    """The prompts of a batch; of none tokens where there are none."""
    if batch.prompt_ids is None:
        return batch.context_ids[:, :0], None
    return batch.prompt_ids, batch.prompt_mask


def joined(stretches: Sequence[Stretch]) -> Stretch:
    """Stretches of text side by side, padding where it was."""
    ids = torch.cat([ids for ids, _ in stretches], dim=1)
    if all(mask is None for _, mask in stretches):
        return ids, None
    masks = [torch.ones_like(ids, dtype=torch.bool) if mask is None else mask for ids, mask in stretches]
    return ids, torch.cat(masks, dim=1)


def padded_left(stretch: Stretch) -> Stretch:
    """The same text with all padding of a row before its first real token."""
    return _sorted_by(stretch, lambda mask: mask)


def padded_right(stretch: Stretch) -> Stretch:
    """The same text with all padding of a row after its last real token."""
    return _sorted_by(stretch, torch.logical_not)


def _sorted_by(stretch: Stretch, key: Callable[[torch.Tensor], torch.Tensor]) -> Stretch:
    ids, mask = stretch
    if mask is None:
        return stretch
    order = key(mask).long().argsort(dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)


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
