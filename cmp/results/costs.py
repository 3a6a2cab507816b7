"""What a memory costs beside the text that it stands for, in sentences. See `model.flops.Costs` for the numbers."""

from collections.abc import Mapping


def cost_lines(costs: Mapping[str, float | None]) -> list[str]:
    """Bytes, operations, and from when on compressing has paid for itself, in two sentences."""
    known = {name: value or 0.0 for name, value in costs.items()}
    memory, context = known["memory_bytes"], known["context_bytes"]
    pays = costs["pays_after_tokens"]
    when = "never" if pays is None else "at once" if pays == 0 else f"after {pays:,.0f} written tokens"
    share = known["compress_operations"] / known["prefill_operations"]
    return [
        f"A memory takes {memory / 1024:,.1f} KiB where the context's keys and values take {context / 1024:,.1f} KiB "
        f"({memory * 1000 / 2**20:,.1f} and {context * 1000 / 2**20:,.1f} MiB for a thousand contexts).",
        f"Making it takes {share:.2f} times the operations of reading the context, and pays for itself {when}.",
    ]
