"""How many floating-point operations a training loop needs: what the method asks for, not what a kernel spends.

Counts matrix products only (a multiply and an add are two). Norms, activations and softmax are left out, as is usual,
so that a share of the device's matrix-product rate is a lower bound of how busy it was.

Shape suffixes: `C` context, `K` compression tokens, `S` target, `H` hidden, `V` vocabulary.
"""

import dataclasses
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from cmp.model.backbone import Backbone
from cmp.space.layers import resolve_layer
from cmp.space.settings import TrialSettings


@dataclass(frozen=True)
class ModelShape:
    """What the count depends on: blocks, linear weights per block, attention width (heads x head width), head.

    `key_value_weights` are those of the `block_weights` that make keys and values.
    """

    n_layers: int
    block_weights: int
    key_value_weights: int
    attention_width: int
    hidden_size: int
    vocab_size: int

    def forward(self, new: int, before: int, blocks: int) -> float:
        """One sequence: `new` positions through `blocks` blocks, causally, after `before` cached positions."""
        attended = new * before + new * (new + 1) / 2
        return blocks * (2.0 * self.block_weights * new + 4.0 * self.attention_width * attended)

    def keys_and_values(self, new: int) -> float:
        """One sequence: the keys and values of `new` positions in one block, and nothing after them."""
        return 2.0 * self.key_value_weights * new

    def head(self, positions: int) -> float:
        """Logits of `positions` positions."""
        return 2.0 * self.hidden_size * self.vocab_size * positions


@dataclass(frozen=True)
class LoopFlops:
    """Operations of one loop, by phase; compression, decoder and head include their backward passes."""

    prefill: float
    compression: float
    decoder: float
    head: float

    @property
    def total(self) -> float:
        """All phases."""
        return self.prefill + self.compression + self.decoder + self.head


def shape_of(backbone: Backbone) -> ModelShape:
    """Read the shape off the loaded model."""
    block = backbone.block_modules(1)[0]
    weights = sum(_weights(module) for module in block.modules())
    config = backbone.config
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention_width = head_width * config.num_attention_heads
    key_values = 2 * backbone.hidden_size * _key_value_width(backbone)
    return ModelShape(
        backbone.n_layers, weights, key_values, attention_width, backbone.hidden_size, backbone.vocab_size
    )


def _weights(module: nn.Module) -> int:
    """Of a linear layer, quantized or not."""
    if isinstance(module, Conv1D):
        return module.nx * module.nf
    return module.in_features * module.out_features if isinstance(module, nn.Linear) else 0


def loop_flops(shape: ModelShape, settings: TrialSettings, sequences: int | None = None) -> LoopFlops:
    """Operations of one loop of `sequences` (default `batch_size`) full-length sequences.

    A backward pass costs as much as its forward pass: weights are frozen, only inputs get gradients.
    """
    batch = settings.batch_size if sequences is None else sequences
    target, kept, pieces = settings.seq_len, settings.keep_len, settings.n_pieces
    hidden_blocks = shape.n_layers if settings.memory == "kv" else resolve_layer(settings.cmp_layer, shape.n_layers)
    prefix = 1 + (settings.piece_len or settings.compressed_len)
    if settings.kl_scale > 0 and pieces == 1:  # the teacher goes on from the same prefill
        prefill = shape.forward(prefix, 0, shape.n_layers) + shape.forward(kept + target - 1, prefix, shape.n_layers)
    elif settings.memory == "pooled":
        prefill = pieces * shape.forward(prefix, 0, hidden_blocks)
    else:
        prefill = pieces * (shape.forward(prefix, 0, hidden_blocks - 1) + shape.keys_and_values(prefix))
    if settings.kl_scale > 0 and pieces > 1:
        prefill += shape.forward(settings.context_len + target, 0, shape.n_layers)
    new = settings.n_cmps + settings.sep_cmpr
    compression = 0.0 if settings.memory == "pooled" else pieces * 2 * shape.forward(new, prefix, hidden_blocks)
    rebuilt = settings.compressed_len if settings.rmb_task and not settings.rmb_only else 0
    decoder = sum(2 * _decode(shape, settings, length) for length in (kept + target, rebuilt) if length)
    head = 2 * shape.head(target + rebuilt) + (shape.head(target) if settings.kl_scale > 0 else 0.0)
    return LoopFlops(batch * prefill, batch * compression, batch * decoder, batch * head)


@dataclass(frozen=True)
class Costs:
    """What one compressed context costs beside the text itself.

    Args:
        memory_bytes: of the memory as it is kept: vectors in the backbone's precision, kept tokens as numbers.
        context_bytes: of the keys and values of the uncompressed context.
        compress_operations: to read the context and make its memory.
        prefill_operations: to read the context as it is.
        operations_saved_per_token: by every token that is then written.
        pays_after_tokens: from how many written tokens on compressing has needed fewer operations; None is never.
    """

    memory_bytes: int
    context_bytes: int
    compress_operations: float
    prefill_operations: float
    operations_saved_per_token: float
    pays_after_tokens: float | None


def costs_of(backbone: Backbone, settings: TrialSettings) -> Costs:
    """The costs of a whole context with these settings, from the shapes alone."""
    shape, width = shape_of(backbone), backbone.dtype.itemsize
    per_token = 2 * shape.n_layers * _key_value_width(backbone) * width
    vector_bytes = per_token if settings.memory == "kv" else backbone.hidden_size * width
    loop = loop_flops(shape, dataclasses.replace(settings, kl_scale=0.0), sequences=1)
    compress = loop.prefill + loop.compression / 2  # without the backward pass
    prefill = shape.forward(1 + settings.context_len, 0, shape.n_layers)
    saved = 4.0 * shape.attention_width * shape.n_layers * (settings.context_len - settings.positions)
    extra = compress + shape.forward(settings.positions, 0, shape.n_layers) - prefill
    return Costs(
        memory_bytes=settings.n_vectors * vector_bytes + settings.keep_len * 8,
        context_bytes=(1 + settings.context_len) * per_token,
        compress_operations=compress,
        prefill_operations=prefill,
        operations_saved_per_token=saved,
        pays_after_tokens=0.0 if extra <= 0 else extra / saved if saved > 0 else None,
    )


def _key_value_width(backbone: Backbone) -> int:
    """Width of a token's keys in one block: key-value heads x head width."""
    config = backbone.config
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return head_width * (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _decode(shape: ModelShape, settings: TrialSettings, length: int) -> float:
    if settings.memory == "kv":
        return shape.forward(length, settings.n_vectors, shape.n_layers)
    return shape.forward(settings.n_vectors + length, 0, shape.n_layers)
