"""The share of a context's value that a memory recovers. For `train`, the commands and the page; no tensor, no file."""


def recovered_fraction(no_context: float | None, full_context: float | None, compressed: float) -> float | None:
    """Share of the context's value that survives compression.

    Args:
        no_context: loss on the target without any context, nats per token.
        full_context: loss on the same target with the uncompressed context.
        compressed: loss on the same target with the memory in the context's place.

    Returns:
        0.0 when the memory is useless, 1.0 when it is as good as the text; not clipped, so a harmful
        memory is negative. None where the context itself does not help (no_context <= full_context), so that the share
        is undefined, or where a bound is not known.

    Source: Grant & Kulkarni 2023, section 4.3 (there on scaled, sampled losses; here on matched tokens).
    """
    if no_context is None or full_context is None or not no_context > full_context:
        return None
    return (no_context - compressed) / (no_context - full_context)
