"""What makes a memory out of a context, and what reads it: one small interface, three kinds.

`make` turns a read piece of a context into a (B, K, D) tensor, `reader` turns the memories of all pieces, side by side,
into what the decoder starts from. Nothing outside this file knows which kind a memory is.

Shape suffixes: `B` batch, `K` compression tokens, `H` hidden, `D` width of a memory vector.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache

from cmp.model.backbone import Backbone, Prefix, joint_mask
from cmp.model.caches import Pair, cache_of, cache_pairs
from cmp.model.lora import CompressionLora
from cmp.model.projection import Projection
from cmp.space.layers import resolve_layer
from cmp.space.settings import TrialSettings


@dataclass(frozen=True)
class Memories:
    """The memories of a batch of contexts.

    Args:
        vectors: (B, E, D) in the backbone's precision: the pieces' vectors one after the other, first piece first.
        n_pieces: how many pieces; E is a multiple of it.
        mask: (B, E) bool, False on the vectors of pieces in which a short context has no token; None when none is so.
    """

    vectors: torch.Tensor
    n_pieces: int = 1
    mask: torch.Tensor | None = None

    @property
    def n_real_pieces(self) -> int | torch.Tensor:
        """The pieces that are read: one number, or (B, 1) int64 where rows differ."""
        if self.mask is None:
            return self.n_pieces
        return self.mask.sum(1, keepdim=True) // (self.mask.shape[1] // self.n_pieces)

    def rows(self, order: torch.Tensor) -> "Memories":
        """The memories of these rows, in this order."""
        return Memories(self.vectors[order], self.n_pieces, None if self.mask is None else self.mask[order])

    def mean(self) -> "Memories":
        """One memory without content for all rows: the mean over the batch."""
        return Memories(self.vectors.mean(0, keepdim=True).expand_as(self.vectors), self.n_pieces, self.mask)

    def repeated(self, times: int) -> "Memories":
        """The same memories `times` over, along the batch."""
        mask = None if self.mask is None else torch.cat([self.mask] * times)
        return Memories(torch.cat([self.vectors] * times), self.n_pieces, mask)


@dataclass(frozen=True)
class Reader:
    """What the decoder starts from: embeddings before the task token, or a cache before it.

    Args:
        embeds: (B, K, H) in the backbone's precision; None when the memory is a cache.
        cache: (B, heads, K, width) keys and values of every block; None when the memory is embeddings.
        first_position: the position id of the task token when there is a cache; (B, 1) int64 where rows differ.
    """

    embeds: torch.Tensor | None = None
    cache: DynamicCache | None = None
    first_position: int | torch.Tensor = 0


class MemoryKind(nn.Module):
    """A kind of memory. Parameters are the trainables of this kind alone.

    `n_blocks` is how many blocks have to read the context, `reads_states` whether `make` needs the states after them,
    `has_places` whether a piece must be read at its own place in the context.
    """

    n_blocks: int
    reads_states = False
    has_places = False

    def make(self, prefix: Prefix, n_vectors: int | None = None, earlier: Memories | None = None) -> torch.Tensor:
        """The memory of one piece.

        Args:
            prefix: the piece, read by `n_blocks` or more blocks.
            n_vectors: make only so many; None is `n_cmps`.
            earlier: the memories of the pieces before it, for the compression tokens to read; None hides them.

        Returns:
            (B, K, D) in the backbone's precision.
        """
        raise NotImplementedError

    def places(self, n_pieces: Any) -> Any:
        """Positions of the backbone that so many pieces (int, or a tensor of them) take up together; 0 where each is
        read from the first on.
        """
        return 0

    def reader(self, memory: torch.Tensor, n_pieces: int | torch.Tensor) -> Reader:
        """What the decoder starts from: the (B, E, D) memories of pieces side by side.

        `n_pieces` is how many are read, (B, 1) int64 where rows differ.
        """
        raise NotImplementedError


class CompressionTokens(nn.Module):
    """Learned input embeddings after the context, an optional separator before them, and LoRA at their positions."""

    def __init__(self, backbone: Backbone, settings: TrialSettings, n_blocks: int, seed: torch.Generator) -> None:
        super().__init__()
        self._backbone = (backbone,)  # in a tuple: its weights are no part of this module's state
        self._recompute = settings.gradient_checkpointing
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

    def forward(
        self,
        prefix: Prefix,
        n_tokens: int | None = None,
        positions: torch.Tensor | None = None,
        earlier: Memories | None = None,
    ) -> tuple[torch.Tensor, list[Pair]]:
        """States, keys and values of the compression pass, separator included, after `earlier` memories as embeddings.

        Compression tokens are causal: the first `n_tokens` of them do not depend on those that are left out.
        """
        (backbone,) = self._backbone
        tokens = self.tokens()[:n_tokens]
        tokens = tokens if self.separator is None else torch.cat([self.separator(), tokens])
        embeds = tokens.expand(prefix.batch_size, -1, -1)
        mask = None
        if earlier is not None:
            mask = joint_mask(earlier.mask, earlier.vectors.shape[1], None, embeds.shape[1], prefix.batch_size)
            embeds = torch.cat([earlier.vectors, embeds], dim=1)
        with nullcontext() if self.lora is None else self.lora.active():
            return backbone.extend(
                prefix, embeds, n_blocks=self.n_blocks, mask=mask, positions=positions, recompute=self._recompute
            )


class HiddenMemory(MemoryKind):
    """Hidden states of the compression tokens after `cmp_layer`, scaled to embeddings: (B, K, H)."""

    def __init__(self, backbone: Backbone, settings: TrialSettings, seed: torch.Generator) -> None:
        super().__init__()
        self.n_blocks = resolve_layer(settings.cmp_layer, backbone.n_layers)
        self.compression = CompressionTokens(backbone, settings, self.n_blocks, seed)
        self.projection = Projection(backbone, settings, seed)

    def make(self, prefix: Prefix, n_vectors: int | None = None, earlier: Memories | None = None) -> torch.Tensor:
        """Run the compression tokens, after the earlier memories, and project their states."""
        states, _ = self.compression(prefix, n_vectors, earlier=earlier)
        return self.projection(states[:, -(n_vectors or len(self.compression.tokens)) :])

    def reader(self, memory: torch.Tensor, n_pieces: int | torch.Tensor) -> Reader:
        """Memory vectors are read as embeddings."""
        return Reader(embeds=memory)


class PooledMemory(MemoryKind):
    """Context states after `cmp_layer`, averaged over K stretches of equal length: (B, K, H). No compression pass."""

    reads_states = True

    def __init__(self, backbone: Backbone, settings: TrialSettings, seed: torch.Generator) -> None:
        super().__init__()
        self.n_blocks = resolve_layer(settings.cmp_layer, backbone.n_layers)
        self.n_cmps = settings.n_cmps
        self.projection = Projection(backbone, settings, seed)

    def make(self, prefix: Prefix, n_vectors: int | None = None, earlier: Memories | None = None) -> torch.Tensor:
        """Average the context's states and project them; earlier memories cannot be read."""
        states = prefix.known_states()
        weights = stretch_weights(prefix.length, n_vectors or self.n_cmps, prefix.mask, states.device)
        return self.projection(weights @ states.float())

    def reader(self, memory: torch.Tensor, n_pieces: int | torch.Tensor) -> Reader:
        """Memory vectors are read as embeddings."""
        return Reader(embeds=memory)


class KeyValueMemory(MemoryKind):
    """Keys and values of the compression tokens in every block: (B, K, D), D = sum over blocks of 2 x heads x width.

    The compression tokens sit at fixed positions after the longest piece, and the decoder right after the last ones, so
    that a memory can be read without knowing how long its text was.
    """

    has_places = True

    def __init__(self, backbone: Backbone, settings: TrialSettings, seed: torch.Generator) -> None:
        super().__init__()
        self.n_blocks = backbone.n_layers
        self.compression = CompressionTokens(backbone, settings, self.n_blocks, seed)
        self.piece_len = max(1, settings.piece_len or settings.compressed_len)
        self._shapes, self._devices = key_value_shapes(backbone), backbone.block_devices
        if self.compression.lora is not None:
            self._drop_unused_updates(backbone, self.compression.lora)

    @torch.enable_grad()
    def _drop_unused_updates(self, backbone: Backbone, lora: CompressionLora) -> None:
        """Only the keys and values of the last block are read, not what it makes of them."""
        parameters = list(lora.parameters())
        memory = self.make(backbone.prefill(torch.full((1, 1), backbone.bos_id), None, self.n_blocks))
        gradients = torch.autograd.grad(memory.sum(), parameters, allow_unused=True)
        lora.drop({parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is None})

    def make(self, prefix: Prefix, n_vectors: int | None = None, earlier: Memories | None = None) -> torch.Tensor:
        """Run the compression tokens, on the earlier memories, and lay their keys and values side by side.

        Raises:
            ValueError: the piece is longer than the positions kept for it.
        """
        longest = 1 + self.piece_len
        if prefix.length > longest:
            raise ValueError(
                f"a text of {prefix.length - 1} tokens, but at most {self.piece_len} are compressed at once"
            )
        n_new, device = self.compression.n_new, self.compression.tokens().device
        positions = torch.arange(longest, longest + n_new, device=device)[None]
        natural = prefix.mask is None and prefix.length == longest and prefix.starts is None and earlier is None
        positions = positions if prefix.starts is None else positions + prefix.starts
        prefix = prefix if earlier is None else prefix.then(self._pairs(earlier.vectors), earlier.mask)
        n_tokens = n_vectors or len(self.compression.tokens)
        positions = positions[:, : n_new - len(self.compression.tokens) + n_tokens]
        _, pairs = self.compression(prefix, n_vectors, None if natural else positions)
        flat = [part[:, :, -n_tokens:].transpose(1, 2).flatten(2).to(device) for pair in pairs for part in pair]
        return torch.cat(flat, dim=-1)

    def places(self, n_pieces: Any) -> Any:
        """BOS, the pieces, and the last one's compression tokens."""
        return 1 + n_pieces * self.piece_len + self.compression.n_new

    def reader(self, memory: torch.Tensor, n_pieces: int | torch.Tensor) -> Reader:
        """Memory vectors are read as a cache, from right after the last piece's compression tokens."""
        return Reader(cache=cache_of(self._pairs(memory)), first_position=self.places(n_pieces))

    def _pairs(self, memory: torch.Tensor) -> list[Pair]:
        """Keys and values of every block, (B, heads, K, width), where that block computes, from a (B, K, D) memory."""
        parts = memory.split([heads * width for heads, width in self._shapes], dim=-1)
        tensors = [
            part.unflatten(-1, (heads, width)).transpose(1, 2)
            for part, (heads, width) in zip(parts, self._shapes, strict=True)
        ]
        places = zip(tensors[0::2], tensors[1::2], self._devices, strict=True)
        return [(keys.to(device), values.to(device)) for keys, values, device in places]


def make_memory(backbone: Backbone, settings: TrialSettings, seed: torch.Generator) -> MemoryKind:
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
