"""Writing on from a memory, or from plain tokens, with transformers' own `generate`.

Called by `api` and by `train.written`. A hidden memory enters as input embeddings, a kv memory as a cache.

Shape suffixes: `B` batch, `E` vectors of a memory, `D` width of one, `L` lead, `P` text, `T` new tokens, `H` hidden.
"""

from typing import Any

import torch
from torch.nn import functional

from cmp.model.backbone import Backbone, joint_mask, left_padded_positions, with_bos
from cmp.model.batch import Stretch, padded_left
from cmp.model.compression import CompressionModel
from cmp.model.memory import Memories
from cmp.model.surgery import takes_position_ids

GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}


@torch.no_grad()
def generate_after_memory(
    model: CompressionModel, memories: Memories, token: torch.Tensor, lead: Stretch, **settings: Any
) -> torch.Tensor:
    """New token ids after [memory, task token, lead].

    Args:
        model: what made the memory.
        memories: (B, E, D) vectors.
        token: (1, H) the task token.
        lead: (B, L) int64, kept tokens and prompt, padded anywhere; L may be 0.
        settings: of transformers' `generate`.

    Returns:
        (B x num_return_sequences, T) int64; after an end-of-text token only padding follows.
    """
    backbone, reader = model.backbone, model.memory.reader(memories.vectors, memories.n_real_pieces)
    if reader.cache is not None and lead[1] is not None and backbone.slides:
        return _one_length_at_a_time(model, memories, token, lead, settings)
    batch, n_vectors, _ = memories.vectors.shape
    tokens = torch.cat([token.to(backbone.dtype).expand(batch, 1, -1), backbone.embed(lead[0])], dim=1)
    tokens_mask = None
    if lead[1] is not None:
        tokens_mask = torch.cat([lead[1].new_ones(batch, 1), lead[1]], dim=1).to(backbone.device)
        tokens, tokens_mask = _to_the_right(tokens, tokens_mask)
    mask = joint_mask(memories.mask, n_vectors, tokens_mask, tokens.shape[1], batch)
    if reader.cache is None:
        assert reader.embeds is not None
        return _generate_after(backbone, torch.cat([reader.embeds, tokens], dim=1), mask, settings)
    # `generate` wants embeddings for the whole sequence and skips as many as the cache holds: zeros will do there.
    inputs = torch.cat([tokens.new_zeros(batch, n_vectors, tokens.shape[-1]), tokens], dim=1)
    places = torch.arange(tokens.shape[1], device=backbone.device)[None].expand(batch, -1)
    places = places if tokens_mask is None else left_padded_positions(tokens_mask)
    positions = torch.cat([places.new_zeros(batch, n_vectors), reader.first_position + places], dim=1)
    extra = {"position_ids": positions} if takes_position_ids(backbone.model) else {}
    extra |= {} if mask is None else {"attention_mask": mask.long()}
    # `generate` repeats its inputs for beams and samples, but not a cache that it is given.
    reader.cache.batch_repeat_interleave(max(settings.get("num_beams", 1), settings.get("num_return_sequences", 1)))
    return _generate(backbone, settings, inputs_embeds=inputs, past_key_values=reader.cache, **extra)


def _one_length_at_a_time(
    model: CompressionModel, memories: Memories, token: torch.Tensor, lead: Stretch, settings: dict[str, Any]
) -> torch.Tensor:
    """`generate_after_memory` where padding between cache and text would push the cache out of sliding windows."""
    ids, mask = padded_left(lead)
    assert mask is not None
    lengths = mask.sum(1)
    made: dict[int, torch.Tensor] = {}
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero()[:, 0]
        part = ids[rows][:, ids.shape[1] - length :], None
        new = generate_after_memory(model, memories.rows(rows.to(memories.vectors.device)), token, part, **settings)
        made.update(zip(rows.tolist(), new.unflatten(0, (len(rows), -1)), strict=True))
    longest = max(new.shape[1] for new in made.values())
    in_order = (made[row] for row in range(len(ids)))
    return torch.cat(
        [functional.pad(new, (0, longest - new.shape[1]), value=_pad_id(model.backbone)) for new in in_order]
    )


@torch.no_grad()
def generate_after_tokens(backbone: Backbone, text: Stretch, **settings: Any) -> torch.Tensor:
    """New token ids after [BOS, text], from the backbone alone: (B, P) ids to (B x num_return_sequences, T)."""
    ids, mask = padded_left(text)
    ids, mask = with_bos(ids.cpu(), None if mask is None else mask.cpu(), backbone.bos_id)
    return _generate_after(backbone, backbone.embed(ids), None if mask is None else mask.to(backbone.device), settings)


def _generate_after(
    backbone: Backbone, embeds: torch.Tensor, mask: torch.Tensor | None, settings: dict[str, Any]
) -> torch.Tensor:
    """New token ids after (B, T, H) embeddings, those outside the (B, T) mask left out."""
    if mask is None:
        return _generate(backbone, settings, inputs_embeds=embeds)
    embeds, mask = _to_the_right(embeds, mask)
    return _generate(backbone, settings, inputs_embeds=embeds, attention_mask=mask.long())


def _to_the_right(embeds: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T, H) embeddings with those that count at the end of each row: what comes next follows on them."""
    order = mask.long().argsort(dim=1, stable=True)
    return embeds.gather(1, order[..., None].expand_as(embeds)), mask.gather(1, order)


def continuation_text(tokenizer: Any, prompt: list[int], new: list[int]) -> str:
    """What was written after the prompt, without special tokens.

    Decoded together with the prompt, because tokenizers of the SentencePiece kind drop a text's first space.
    """
    before = tokenizer.decode(prompt, skip_special_tokens=True)
    whole = tokenizer.decode(prompt + new, skip_special_tokens=True)
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(new, skip_special_tokens=True)


def _generate(backbone: Backbone, settings: dict[str, Any], **inputs: Any) -> torch.Tensor:
    generate: Any = backbone.model.generate
    options = {"pad_token_id": _pad_id(backbone), **settings}
    ids = generate(**inputs, **options)
    assert isinstance(ids, torch.Tensor)
    return ids


def _pad_id(backbone: Backbone) -> int:
    """The padding token where there is one, else BOS; decoding skips either."""
    pad = getattr(backbone.tokenizer, "pad_token_id", None)
    return backbone.bos_id if pad is None else int(pad)
