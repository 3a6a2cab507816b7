"""Search for the best context compressor of a pretrained language model.

Read the packages in the order in which data travels: `space` (settings), `model` (the compressor), `train` (one
trial), `search` (many trials), `results` (what a search leaves on disk) and `report` (what a person looks at).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmp.model.api import Compressor
    from cmp.search.api import SearchResult, open_search, run_search, stop_trial
    from cmp.space.loading import load_space

__all__ = ["Compressor", "SearchResult", "load_space", "open_search", "run_search", "stop_trial"]

_HOMES = {
    "Compressor": "cmp.model.api",
    "SearchResult": "cmp.search.api",
    "load_space": "cmp.space.loading",
    "open_search": "cmp.search.api",
    "run_search": "cmp.search.api",
    "stop_trial": "cmp.search.api",
}


def __getattr__(name: str) -> Any:
    """Import a name on first use, so that reading a space file never pays for torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cmp' has no attribute {name!r}")
