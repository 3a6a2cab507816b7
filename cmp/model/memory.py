"""What makes a memory out of a context, and what reads it: one small interface, three kinds.

`make` turns a read context into a (B, K, D) tensor, `reader` turns that tensor into what the decoder starts from.
Nothing outside this file knows which kind a memory is.

Shape suffixes: `B` batch, `K` compression tokens, `H` hidden, `D` width of a memory vector.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.cache_utils import DynamicCache

from cmp.model.backbone import Backbone, Prefix, cache_of, cache_pairs
from cmp.model.lora import CompressionLora
from cmp.model.projection import Projection
from cmp.space.layers import resolve_layer
from cmp.space.settings import TrialSettings


@dataclass(frozen=True)
class Reader:
    """What the decoder starts from: embeddings before the task token, or a cache before it.

    Args:
        embeds: (B, K, H) in the backbone's precision; None when the memory is a cache.
        cache: (B, heads, K, width) keys and values of every block; None when the memory is embeddings.
        first_position: the position id of the task token when there is a cache.
    """

    embeds: torch.Tensor | None = None
    cache: DynamicCache | None = None
    first_position: int = 0

    def repeated(self, times: int) -> "Reader":
        """The same memories `times` over, along the batch."""
        embeds = None if self.embeds is None else torch.cat([self.embeds] * times)
        cache = self.cache
        if cache is not None:
            cache = cache_of([(torch.cat([k] * times), torch.cat([v] * times)) for k, v in cache_pairs(cache)])
        return Reader(embeds, cache, self.first_position)


class Memory(nn.Module):
    """A kind of memory. Parameters are the trainables of this kind alone.

    `n_blocks` is how many blocks have to read the context, `reads_states` whether `make` needs the states after them.
    """

    n_blocks: int
    reads_states = False

    def make(self, prefix: Prefix) -> torch.Tensor:
        """A context that `n_blocks` or more blocks have read to a (B, K, D) memory in the backbone's precision."""
        raise NotImplementedError

    def reader(self, memory: torch.Tensor) -> Reader:
        """What the decoder starts from."""
        raise NotImplementedError


class CompressionTokens(nn.Module):
    """Learned input embeddings after the context, an optional separator before them, and LoRA at their positions."""

    def __init__(self, backbone: Backbone, settings: TrialSettings, n_blocks: int, seed: torch.Generator) -> None:
        super().__init__()
        self._backbone = (backbone,)  # in a tuple: its weights are no part of this module's state
        self.n_blocks = n_blocks
        self.tokens = LearnedEmbeddings(backbone, settings.n_cmps, seed)
        self.separator = LearnedEmbeddings(backbone, 1, seed) if settings.sep_cmpr else None
        self.lora = (
            CompressionLora(backbone.block_modules(n_blocks), settings.lora_rank, seed) if settings.lora_rank else None
        )

    @property
    def n_new(self) -> int:
        """Positions after the context: separator and compression tokens."""
        return len(self.tokens) + (self.separator is not None)

    def forward(self, prefix: Prefix, positions: torch.Tensor | None = None) -> tuple[torch.Tensor, DynamicCache]:
        """States and cache of the compression pass, separator included."""
        (backbone,) = self._backbone
        tokens = self.tokens() if self.separator is None else torch.cat([self.separator(), self.tokens()])
        embeds = tokens.expand(prefix.batch_size, -1, -1)
        if self.lora is None:
            return backbone.extend(prefix, embeds, n_blocks=self.n_blocks, positions=positions)
        with self.lora.active():
            return backbone.extend(prefix, embeds, n_blocks=self.n_blocks, positions=positions)


class HiddenMemory(Memory):
    """Hidden states of the compression tokens after `cmp_layer`, scaled to embeddings: (B, K, H)."""

    def __init__(self, backbone: Backbone, settings: TrialSettings, seed: torch.Generator) -> None:
        super().__init__()
        self.n_blocks = resolve_layer(settings.cmp_layer, backbone.n_layers)
        self.compression = CompressionTokens(backbone, settings, self.n_blocks, seed)
        self.projection = Projection(backbone, settings, seed)

    def make(self, prefix: Prefix) -> torch.Tensor:
        """Run the compression tokens and project their states."""
        states, _ = self.compression(prefix)
        return self.projection(states[:, -len(self.compression.tokens) :])

    def reader(self, memory: torch.Tensor) -> Reader:
        """Memory vectors are read as embeddings."""
        return Reader(embeds=memory)


class PooledMemory(Memory):
    """Context states after `cmp_layer`, averaged over K stretches of equal length: (B, K, H). No compression pass."""

    reads_states = True

    def __init__(self, backbone: Backbone, settings: TrialSettings, seed: torch.Generator) -> None:
        super().__init__()
        self.n_blocks = resolve_layer(settings.cmp_layer, backbone.n_layers)
        self.n_cmps = settings.n_cmps
        self.projection = Projection(backbone, settings, seed)

    def make(self, prefix: Prefix) -> torch.Tensor:
        """Average the context's states and project them."""
        states = prefix.known_states()
        weights = stretch_weights(prefix.length, self.n_cmps, prefix.mask, states.device)
        return self.projection(weights @ states.float())

    def reader(self, memory: torch.Tensor) -> Reader:
        """Memory vectors are read as embeddings."""
        return Reader(embeds=memory)


class KeyValueMemory(Memory):
    """Keys and values of the compression tokens in every block: (B, K, D), D = sum over blocks of 2 x heads x width.

    The compression tokens sit at fixed positions after the longest context, and the decoder right after them, so that
    a memory can be read without knowing how long its context was.
    """

    def __init__(self, backbone: Backbone, settings: TrialSettings, seed: torch.Generator) -> None:
        super().__init__()
        self.n_blocks = backbone.n_layers
        self.compression = CompressionTokens(backbone, settings, self.n_blocks, seed)
        self.first_position = 1 + (settings.seq_len if settings.rmb_only else settings.cmp_len)
        self._shapes = key_value_shapes(backbone)
        if self.compression.lora is not None:
            self._drop_unused_updates(backbone, self.compression.lora)

    @torch.enable_grad()
    def _drop_unused_updates(self, backbone: Backbone, lora: CompressionLora) -> None:
        """Only the keys and values of the last block are read, not what it makes of them."""
        parameters = list(lora.parameters())
        memory = self.make(backbone.prefill(torch.full((1, 1), backbone.bos_id), None, self.n_blocks))
        gradients = torch.autograd.grad(memory.sum(), parameters, allow_unused=True)
        lora.drop({parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is None})

    def make(self, prefix: Prefix) -> torch.Tensor:
        """Run the compression tokens and lay their keys and values side by side.

        Raises:
            ValueError: the context is longer than the positions kept for it.
        """
        if prefix.length > self.first_position:
            raise ValueError(f"a context of {prefix.length - 1} tokens, but cmp_len is {self.first_position - 1}")
        n_new, device = self.compression.n_new, self.compression.tokens().device
        positions = torch.arange(self.first_position, self.first_position + n_new, device=device)[None]
        natural = prefix.mask is None and prefix.length == self.first_position
        _, cache = self.compression(prefix, None if natural else positions)
        n_cmps = len(self.compression.tokens)
        flat = [
            part[:, :, -n_cmps:].transpose(1, 2).flatten(2).to(device) for pair in cache_pairs(cache) for part in pair
        ]
        return torch.cat(flat, dim=-1)

    def reader(self, memory: torch.Tensor) -> Reader:
        """Memory vectors are read as a cache of K positions."""
        batch, n_cmps, _ = memory.shape
        parts = memory.split([heads * width for heads, width in self._shapes], dim=-1)
        tensors = [
            part.view(batch, n_cmps, heads, width).transpose(1, 2)
            for part, (heads, width) in zip(parts, self._shapes, strict=True)
        ]
        cache = cache_of(list(zip(tensors[0::2], tensors[1::2], strict=True)))
        return Reader(cache=cache, first_position=self.first_position + self.compression.n_new)


def make_memory(backbone: Backbone, settings: TrialSettings, seed: torch.Generator) -> Memory:
    """The kind of memory that the settings ask for."""
    kinds = {"hidden": HiddenMemory, "kv": KeyValueMemory, "pooled": PooledMemory}
    return kinds[settings.memory](backbone, settings, seed)


# How far one Adam step moves a learned embedding, in units of the embeddings' scale times the learning rate.
EMBEDDING_GAIN = 8.0


class LearnedEmbeddings(nn.Module):
    """(count, H) input embeddings, started at the mean embedding plus noise at the scale of real embeddings.

    N(0, 1), as in the prototype, is many times that scale in most models and slows the start. The parameter is kept in
    units of EMBEDDING_GAIN x that scale (0.02 in a large Llama, 0.14 in gpt2, 1 in Gemma), so that one learning rate
    fits all models.
    """

    def __init__(self, backbone: Backbone, count: int, seed: torch.Generator) -> None:
        super().__init__()
        self._scale, self._dtype = EMBEDDING_GAIN * backbone.embedding_rms, backbone.dtype
        noise = torch.randn(count, backbone.hidden_size, generator=seed) * backbone.embedding_rms
        start = (backbone.embedding_mean + noise) / self._scale
        self.weight = nn.Parameter(start.to(backbone.device))

    def __len__(self) -> int:
        return len(self.weight)

    def forward(self) -> torch.Tensor:
        """(count, H) embeddings in the backbone's precision."""
        return (self.weight * self._scale).to(self._dtype)


def stretch_weights(length: int, n_stretches: int, mask: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """(1 or B, K, P) weights that average K stretches of the real positions, BOS left out where there is a token.

    Stretch j of L positions is [floor(j L / K), ceil((j + 1) L / K)), so that none is empty, however short the text.
    """
    if mask is None:
        mask = torch.ones(1, length, dtype=torch.bool, device=device)
    rank = mask.long().cumsum(1) - 2  # BOS is -1, the first token 0, padding below BOS
    count = (mask.long().sum(1) - 1).clamp(min=1)[:, None]
    stretch = torch.arange(n_stretches, device=device)
    start = (stretch * count) // n_stretches
    end = -((-(stretch + 1) * count) // n_stretches)
    inside = (rank[:, None] >= start[..., None]) & (rank[:, None] < end[..., None]) & mask[:, None]
    return inside.float() / inside.sum(-1, keepdim=True).clamp(min=1)


@torch.no_grad()
def key_value_shapes(backbone: Backbone) -> list[tuple[int, int]]:
    """(heads, width) of keys and values of every block, in the order keys 0, values 0, keys 1, ..."""
    probe = backbone.prefill(torch.full((1, 1), backbone.bos_id), None, backbone.n_layers)
    return [(part.shape[1], part.shape[3]) for pair in cache_pairs(probe.cache) for part in pair]
