"""Which layer a `cmp_layer` means, and what a backbone's config says. Used by the checks here and by the model."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelFacts:
    """What checks need to know of a backbone, from its config alone.

    Args:
        n_layers: blocks.
        max_positions: the longest sequence it can read, in tokens; None when there is no limit.
        vocab_size: entries of its vocabulary.
        width: of its hidden states.
    """

    n_layers: int
    max_positions: int | None
    vocab_size: int
    width: int


def resolve_layer(cmp_layer: int | Literal["half"], n_layers: int) -> int:
    """Number of blocks that the context runs through before the memory is read.

    Args:
        cmp_layer: 1 is the first block's output, -1 the last's (after the final norm), -2 the one before;
            "half" is the middle, rounded down, at least 1.
        n_layers: blocks in the model.

    Returns:
        1..n_layers.

    Raises:
        ValueError: 0 (nothing would be compressed) or outside the model's layers.
    """
    if cmp_layer == "half":
        return max(1, n_layers // 2)
    blocks = cmp_layer if cmp_layer > 0 else n_layers + 1 + cmp_layer
    if cmp_layer == 0 or not 1 <= blocks <= n_layers:
        raise ValueError(f"layer {cmp_layer} is outside the model's {n_layers} layers")
    return blocks
