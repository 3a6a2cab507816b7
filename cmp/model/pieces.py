"""From what a user holds (texts, token ids) to rows of token ids, and the memory that a user gets for them.

Called by `api`.

Shape suffixes: `B` batch, `C` context, `E` vectors of a memory, `D` width of a memory vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cmp.model.saving import CompressorError

Texts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | torch.Tensor


@dataclass(frozen=True)
class Memory:
    """What stands in for some texts: vectors for what was compressed, tokens for what stays text.

    Args:
        vectors: (B, E, D) in the backbone's precision: `n_cmps` for each piece of the longest text. Rows of shorter
            texts begin with zero vectors, which no compressor makes and all methods leave out.
        kept: the last tokens of each text, which are read after its vectors.
        n_cmps: vectors of one piece.
    """

    vectors: torch.Tensor
    kept: tuple[tuple[int, ...], ...]
    n_cmps: int

    def __len__(self) -> int:
        """How many texts."""
        return len(self.vectors)

    def __getitem__(self, rows: slice) -> "Memory":
        """The memories of some of the texts."""
        return Memory(self.vectors[rows], self.kept[rows], self.n_cmps)

    @property
    def lengths(self) -> list[int]:
        """How many vectors each text has."""
        real = self.vectors.ne(0).any(-1)
        return [real.shape[1] - int(row.long().argmax()) if bool(row.any()) else 0 for row in real]

    @property
    def positions(self) -> list[int]:
        """What a decoder reads in each text's place: vectors and kept tokens."""
        return [length + len(kept) for length, kept in zip(self.lengths, self.kept, strict=True)]

    def to(self, *target: Any) -> "Memory":
        """The same memory on another device or in another precision."""
        return Memory(self.vectors.to(*target), self.kept, self.n_cmps)


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


def joined(memories: Sequence[torch.Tensor]) -> torch.Tensor:
    """(E, D) memories of different lengths as one (B, longest E, D); shorter ones begin with zero vectors."""
    longest = max(len(memory) for memory in memories)
    whole = memories[0].new_zeros(len(memories), longest, memories[0].shape[-1])
    for row, memory in zip(whole, memories, strict=True):
        row[longest - len(memory) :] = memory
    return whole


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
