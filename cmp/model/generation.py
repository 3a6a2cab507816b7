"""Writing on from a memory, or from plain tokens, with transformers' own `generate`.

Called by `api` and by `train.examples`. A hidden memory enters as input embeddings, a kv memory as a cache.

Shape suffixes: `B` batch, `E` vectors of a memory, `D` width of one, `P` prompt, `T` new tokens, `H` hidden.
"""

from typing import Any

import torch

from cmp.model.backbone import Backbone
from cmp.model.compression import CompressionModel
from cmp.model.memory import Memories
from cmp.model.surgery import takes_position_ids

GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}


@torch.no_grad()
def generate_after_memory(
    model: CompressionModel, memories: Memories, token: torch.Tensor, prompt_ids: torch.Tensor, **settings: Any
) -> torch.Tensor:
    """New token ids after [memory, task token, prompt].

    Args:
        model: what made the memory.
        memories: (B, E, D) vectors, all real.
        token: (1, H) the task token.
        prompt_ids: (B, P) int64, kept tokens and prompt; P may be 0.
        settings: of transformers' `generate`.

    Returns:
        (B x num_return_sequences, T) int64; after an end-of-text token only padding follows.
    """
    assert memories.mask is None, "generation takes real vectors only"
    backbone, reader = model.backbone, model.memory.reader(memories.vectors, memories.n_pieces)
    batch, n_vectors, _ = memories.vectors.shape
    embeds = [token.to(backbone.device, backbone.dtype).expand(batch, 1, -1), backbone.embed(prompt_ids)]
    if reader.cache is None:
        assert reader.embeds is not None
        return _generate(backbone, settings, inputs_embeds=torch.cat([reader.embeds, *embeds], dim=1))
    # `generate` wants embeddings for the whole sequence and skips as many as the cache holds: zeros will do there.
    skipped = embeds[0].new_zeros(batch, n_vectors, embeds[0].shape[-1])
    inputs = torch.cat([skipped, *embeds], dim=1)
    assert isinstance(reader.first_position, int), "all rows have as many pieces"
    start = reader.first_position - n_vectors
    positions = torch.arange(start, start + inputs.shape[1], device=backbone.device).expand(batch, -1)
    # `generate` repeats its inputs for beams and samples, but not a cache that it is given.
    reader.cache.batch_repeat_interleave(max(settings.get("num_beams", 1), settings.get("num_return_sequences", 1)))
    extra = {"position_ids": positions} if takes_position_ids(backbone.model) else {}
    return _generate(backbone, settings, inputs_embeds=inputs, past_key_values=reader.cache, **extra)


@torch.no_grad()
def generate_after_tokens(backbone: Backbone, ids: torch.Tensor, **settings: Any) -> torch.Tensor:
    """New token ids after [BOS, ids], from the backbone alone: (B, P) int64 to (B x num_return_sequences, T)."""
    bos = torch.full((len(ids), 1), backbone.bos_id, dtype=torch.long)
    embeds = backbone.embed(torch.cat([bos, ids.cpu()], dim=1))
    return _generate(backbone, settings, inputs_embeds=embeds)


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
