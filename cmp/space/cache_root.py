"""Where tokenized data (in `data_root` where that is set) and built-in models are kept between searches."""

import os
from pathlib import Path


def cache_root(data_root: str | None = None) -> Path:
    """`data_root` where it is set, else $CMP_CACHE, else `cmp` in $XDG_CACHE_HOME, else ~/.cache/cmp."""
    if data_root:
        return Path(data_root).expanduser().absolute()
    if own := os.environ.get("CMP_CACHE"):
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser().absolute() / "cmp"
