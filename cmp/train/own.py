"""A search's own compressors, loaded as its trials loaded their backbone. Called by `testing` and a search's end."""

from pathlib import Path

import torch

from cmp.model.api import Compressor
from cmp.model.saving import opened, read_config


def load_own(place: str | Path, device: torch.device | str | None = None) -> Compressor:
    """A compressor that the search at hand has trained, and nobody else: code that its model brings is run again.

    Args:
        place: its folder or URL.
        device: where to run; a backbone that trials had spread over their GPUs is spread here too.
    """
    with opened(place) as folder:
        settings = read_config(folder).settings
    return Compressor.from_pretrained(
        place,
        device=None if settings.model_parallel else device,
        trust_remote_code=settings.trust_remote_code,
        attn_implementation=settings.attn_implementation,
    )
