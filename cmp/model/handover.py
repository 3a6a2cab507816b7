"""A memory for code that is not ours: embeddings for a server, a cache for transformers. Called by `api`.

Either holds all that a decoder reads before the prompt: the memory's vectors, the task token and the kept tokens.

Shape suffixes: `B` batch, `E` vectors of a memory, `L` kept tokens and prompt, `H` hidden.
"""

import base64
import io

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from cmp.model.caches import Pair, cache_of, cache_pairs, new_pairs, reading
from cmp.model.compression import CompressionModel
from cmp.model.memory import Memories


@torch.no_grad()
def lead_embeds(
    model: CompressionModel, memories: Memories, token: torch.Tensor, ids: torch.Tensor
) -> torch.Tensor | None:
    """(B, E + 1 + L, H) embeddings of memory, task token and ids; None for a memory that is no embeddings.

    Args:
        model: what made the memory.
        memories: (B, E, D) vectors, all real.
        token: (1, H) the task token.
        ids: (B, L) int64.
    """
    reader = model.memory.reader(memories.vectors, memories.n_pieces)
    if reader.embeds is None:
        return None
    return torch.cat([reader.embeds, _after_memory(model, token, ids)], dim=1)


@torch.no_grad()
def lead_cache(model: CompressionModel, memories: Memories, token: torch.Tensor, ids: torch.Tensor) -> DynamicCache:
    """The cache of a decoder that has read memory, task token and ids; see `lead_embeds`.

    What follows it is at position `get_seq_length()`.
    """
    backbone, reader = model.backbone, model.memory.reader(memories.vectors, memories.n_pieces)
    new = _after_memory(model, token, ids)
    if reader.embeds is not None:
        cache = DynamicCache()
        backbone.run_into(torch.cat([reader.embeds, new], dim=1), cache)
        return cache
    assert reader.cache is not None and isinstance(reader.first_position, int)
    positions = reader.first_position + torch.arange(new.shape[1], device=backbone.device)[None]
    read = reading(reader.cache)
    backbone.run_into(new, read, positions)
    pairs = [_joined(*both) for both in zip(cache_pairs(read), new_pairs(read), strict=True)]
    skipped = reader.first_position - memories.vectors.shape[1] if backbone.takes_positions else 0
    cache = cache_of(pairs, PlacedLayer)
    for layer in cache.layers:
        assert isinstance(layer, PlacedLayer)
        layer.skipped = skipped
    return cache


class PlacedLayer(DynamicLayer):
    """One block's keys and values, of which the first is at position `skipped` instead of 0.

    A key-value memory sits where the longest text would have ended, whatever there is before it. To transformers it is
    a sliding window that has left the first positions behind.
    """

    skipped: int = 0

    def get_seq_length(self) -> int:
        """Where the next token is."""
        return self.skipped + super().get_seq_length()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many keys there will be, and the position of the first."""
        return super().get_seq_length() + query_length, self.skipped


def encode_prompt_embeds(embeds: torch.Tensor) -> str:
    """(n, H) embeddings as a server that speaks vLLM's protocol takes them in `prompt_embeds`: a saved tensor, base64.

    `vllm serve MODEL --enable-prompt-embeds` reads it at `/v1/completions`:

        client.completions.create(model=MODEL, prompt="", max_tokens=40, extra_body={"prompt_embeds": encoded})
    """
    buffer = io.BytesIO()
    torch.save(embeds.detach().cpu().clone(memory_format=torch.contiguous_format), buffer)  # a view would save it all
    return base64.b64encode(buffer.getvalue()).decode()


def _after_memory(model: CompressionModel, token: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    token = token.to(model.backbone.device, model.backbone.dtype).expand(len(ids), 1, -1)
    return torch.cat([token, model.backbone.embed(ids)], dim=1)


def _joined(before: Pair, after: Pair) -> Pair:
    return torch.cat([before[0], after[0]], dim=-2), torch.cat([before[1], after[1]], dim=-2)
