"""Pure arithmetic on losses: what the numbers of a report mean. No tensor, no file.

Called by `bounds`, `evaluation` and `trial`. Every loss is in nats per kept target token.
"""

import math


def mean_or_nan(total: float, count: float) -> float:
    """`total / count`, NaN where nothing was counted."""
    return total / count if count else math.nan


def perplexity(loss: float) -> float:
    """exp of a loss; infinite where that overflows a float."""
    return math.exp(loss) if loss < 700 else math.inf


def recovered_fraction(no_context: float, full_context: float, compressed: float) -> float:
    """Share of the context's value that survives compression.

    Args:
        no_context: loss on the target without any context, nats per token.
        full_context: loss on the same target with the uncompressed context.
        compressed: loss on the same target with the memory in the context's place.

    Returns:
        0.0 when the memory is useless, 1.0 when it is as good as the text; not clipped, so a harmful
        memory is negative.

    Raises:
        ValueError: the context itself does not help (no_context <= full_context), so the share is undefined.

    Source: Grant & Kulkarni 2023, section 4.3 (there on scaled, sampled losses; here on matched tokens).
    """
    if not no_context > full_context:
        raise ValueError(f"the context does not help: no-context loss {no_context}, full-context loss {full_context}")
    return (no_context - compressed) / (no_context - full_context)
