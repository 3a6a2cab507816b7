"""In which order windows are trained on: a pure function of the seed and the position, so a loop count resumes it.

Called by `loop`. Position `p` counts the windows seen since the trial began: `loop * batch_size + i`.
"""

from functools import lru_cache

import numpy as np


def window_indices(first: int, count: int, n_windows: int, seed: int) -> np.ndarray:
    """The windows at positions `first .. first + count - 1`: (count,) int64.

    Every pass over the `n_windows` windows is a new permutation, so no window is seen again before all have been seen.

    Raises:
        ValueError: there is no window.
    """
    if n_windows < 1:
        raise ValueError(f"no order of {n_windows} windows")
    pieces = []
    position = first
    while position < first + count:
        pass_number, offset = divmod(position, n_windows)
        piece = _permutation(n_windows, seed, pass_number)[offset : offset + first + count - position]
        pieces.append(piece)
        position += len(piece)
    return np.concatenate(pieces).astype(np.int64) if pieces else np.empty(0, np.int64)


@lru_cache(maxsize=4)
def _permutation(n_windows: int, seed: int, pass_number: int) -> np.ndarray:
    """int32 where that is enough: 64 M windows (9 G tokens) then take 256 MB and a second."""
    order = np.arange(n_windows, dtype=np.int32 if n_windows < 2**31 else np.int64)
    np.random.default_rng([seed, pass_number]).shuffle(order)
    order.setflags(write=False)
    return order
