"""Search for the best context compressor of a pretrained language model.

Read the packages in the order in which data travels: `space` (settings), `model` (the compressor), `train` (one
trial), `search` (many trials), `results` (what a search leaves on disk) and `report` (what a person looks at).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmp.model.api import Compressor

__all__ = ["Compressor"]


def __getattr__(name: str) -> Any:
    """Import `Compressor` on first use, so that reading a space file never pays for torch."""
    if name == "Compressor":
        from cmp.model.api import Compressor

        return Compressor
    raise AttributeError(f"module 'cmp' has no attribute {name!r}")
