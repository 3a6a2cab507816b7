"""In which order windows are trained on: a pure function of the seed and the position, so a loop count resumes it.

Called by `loop`. Position `p` counts the windows seen since the trial began: `loop * batch_size + i`.
"""

from functools import lru_cache

import numpy as np

SORTED_STEPS = 32  # the batches of so many optimizer steps are put together from windows of similar length


def batch_order(
    loop: int, batch_size: int, n_windows: int, seed: int, costs: np.ndarray | None, n_grad_loops: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """What the batch of a loop holds.

    Windows of different lengths are sorted by length within blocks of consecutive steps, so that a batch needs little
    padding; the steps of a block then come in a random order. A step holds the same windows in however many loops.

    Args:
        loop: since the trial began.
        batch_size: windows of a batch.
        n_windows: of the whole set.
        seed: the trial's.
        costs: (windows,) tokens of each; None where all are equally long.
        n_grad_loops: loops of a step.

    Returns:
        (batch_size,) int64 each: the windows, and how often each was trained on before.
    """
    if costs is None:
        positions = loop * batch_size + np.arange(batch_size)
        return window_indices(loop * batch_size, batch_size, n_windows, seed), positions // n_windows
    step, part = divmod(loop, n_grad_loops)
    step_size = batch_size * n_grad_loops
    n_steps = max(1, min(SORTED_STEPS, n_windows // step_size))  # no more than one pass
    block, place = divmod(step, n_steps)
    first = block * n_steps * step_size
    indices = window_indices(first, n_steps * step_size, n_windows, seed)
    order = np.argsort(costs[indices], kind="stable").reshape(n_steps, n_grad_loops, batch_size)
    chosen = order[np.random.default_rng([seed, block]).permutation(n_steps)[place], part]
    return indices[chosen], (first + chosen) // n_windows


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
