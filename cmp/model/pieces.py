"""From what a user holds (texts, token ids) to batches of contexts, and back from pieces to whole memories.

Called by `api`. A text longer than a compressor's context is cut into consecutive pieces; each is compressed on its
own and their memories lie one after the other.

Shape suffixes: `B` batch, `C` context, `K` memory vectors, `D` width of a memory vector.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from cmp.model.batch import Batch
from cmp.model.saving import CompressorError

Texts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | torch.Tensor


def is_single(texts: Texts) -> bool:
    """True for one text or the token ids of one, False for a list of them or a (B, T) tensor."""
    if isinstance(texts, torch.Tensor):
        return texts.dim() == 1
    return isinstance(texts, str) or (len(texts) > 0 and isinstance(texts[0], int))


def token_rows(tokenizer: Any, texts: Texts, attention_mask: torch.Tensor | None = None) -> list[list[int]]:
    """The token ids of every text, without special tokens.

    Args:
        tokenizer: turns texts into ids.
        texts: a text, texts, token ids of one or several, or a (T,) or (B, T) tensor of ids.
        attention_mask: (B, T), with a tensor of ids: non-zero on real tokens, wherever the padding is.

    Raises:
        CompressorError: no text, or one without any token.
    """
    if isinstance(texts, torch.Tensor):
        rows = _tensor_rows(texts, attention_mask)
    elif attention_mask is not None:
        raise CompressorError("attention_mask: goes with a tensor of token ids; texts and lists need none")
    else:
        many: Any = [texts] if is_single(texts) else list(texts)
        rows = [_ids(tokenizer, text) for text in many]
    if not rows:
        raise CompressorError("no text was given")
    for index, row in enumerate(rows):
        if not row:
            raise CompressorError(f"text {index} has no tokens; there is nothing to compress or to score")
    return rows


def cut(row: Sequence[int], length: int) -> list[list[int]]:
    """Consecutive pieces of `length` tokens; where that leaves a shorter one, it comes first.

    What follows a text hangs on its end, so the end gets a piece as long as those that were trained. On stories260K
    (*stories*, kv memory with LoRA, 120 tokens as 100 + 20 or as 20 + 100): 1.923 and 1.860 nats on the next 40.
    """
    first = len(row) % length or length
    starts = [0, *range(first, len(row), length)]
    return [list(row[start:end]) for start, end in zip(starts, [*starts[1:], len(row)], strict=True)]


def context_batches(pieces: Sequence[Sequence[int]], batch_size: int) -> Iterator[Batch]:
    """Batches of contexts in the given order, padded on the left where lengths differ; they have no target."""
    for start in range(0, len(pieces), batch_size):
        ids, mask = padded(pieces[start : start + batch_size], left=True)
        yield Batch(ids, ids[:, :0], mask)


def padded(rows: Sequence[Sequence[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(B, T) ids and (B, T) bool mask; no mask when all rows are equally long. Padding is token 0."""
    longest = max(len(row) for row in rows)
    if all(len(row) == longest for row in rows):
        return torch.tensor(rows, dtype=torch.long).view(len(rows), longest), None
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = True
    return ids, mask


def joined(memories: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """(pieces, K, D) memories to (B, most pieces x K, D): row b is the next `counts[b]` of them in a row.

    Rows with fewer pieces begin with zero vectors, which `memory_lengths` tells from real ones.
    """
    _, n_cmps, width = memories.shape
    whole = memories.new_zeros(len(counts), max(counts) * n_cmps, width)
    for row, part in zip(whole, memories.split(list(counts)), strict=True):
        row[len(row) - len(part) * n_cmps :] = part.flatten(0, 1)
    return whole


def memory_lengths(memory: torch.Tensor) -> list[int]:
    """How many vectors at the end of each row of a (B, K, D) memory are real; no compressor makes zero vectors."""
    real = memory.ne(0).any(-1)
    return [memory.shape[1] - int(row.long().argmax()) if bool(row.any()) else 0 for row in real]


def rows_by_key(keys: Sequence[Any]) -> dict[Any, list[int]]:
    """Row numbers that share a key, in order of first appearance: what may run as one batch without padding."""
    groups: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return groups


def _ids(tokenizer: Any, text: str | Sequence[int]) -> list[int]:
    if isinstance(text, str):
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    return [int(token) for token in text]


def _tensor_rows(ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[list[int]]:
    if ids.dim() not in (1, 2) or ids.is_floating_point():
        raise CompressorError(f"token ids: a (T,) or (B, T) tensor of integers is expected, not {tuple(ids.shape)}")
    ids = ids[None] if ids.dim() == 1 else ids
    if attention_mask is None:
        return ids.tolist()
    mask = attention_mask[None] if attention_mask.dim() == 1 else attention_mask
    if mask.shape != ids.shape:
        raise CompressorError(f"attention_mask: its shape {tuple(mask.shape)} is not the ids' {tuple(ids.shape)}")
    return [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]
