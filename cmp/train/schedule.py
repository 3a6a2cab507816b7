"""The learning rate at every optimizer step, and how loops are grouped into steps. Pure functions of numbers.

Nothing here has state: a resumed trial finds its rate from the number of loops done and the validation losses reported.
"""

import math
from collections.abc import Sequence

from cmp.space.settings import TrialSettings

WARMUP_FRACTION = 0.05  # of the planned loops, for the cosine; short enough for a trial of one epoch
COSINE_FLOOR = 0.05  # the last loops of a cosine still learn a little
PLATEAU_FACTOR = 0.3  # each plateau multiplies the rate by this; torch's and the prototype's 0.1 ends learning at once
PLATEAU_THRESHOLD = 1e-3  # relative improvement that counts, as the prototype's ReduceLROnPlateau(threshold=0.001)


def learning_rate(settings: TrialSettings, loops_done: int, val_losses: Sequence[float]) -> float:
    """The rate for the optimizer step that follows `loops_done` loops and the given validation losses."""
    total = settings.n_train_loops * settings.n_epochs
    if settings.lr_schedule == "cosine":
        return settings.lr * cosine_factor(loops_done, total)
    if settings.lr_schedule == "plateau":
        return settings.lr * plateau_factor(val_losses, settings.patience)
    return settings.lr


def cosine_factor(loops_done: int, total_loops: int) -> float:
    """Linear warm-up over the first `WARMUP_FRACTION`, then half a cosine from 1 down to `COSINE_FLOOR`."""
    warmup = max(1, round(total_loops * WARMUP_FRACTION))
    if loops_done < warmup:
        return (loops_done + 1) / (warmup + 1)
    progress = (loops_done - warmup) / max(1, total_loops - warmup)
    return COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def plateau_factor(val_losses: Sequence[float], patience: int) -> float:
    """`PLATEAU_FACTOR` for every time that more than `patience` epochs in a row brought no improvement."""
    factor, best, idle_epochs = 1.0, math.inf, 0
    for loss in val_losses:
        if loss < best * (1 - PLATEAU_THRESHOLD):
            best, idle_epochs = loss, 0
        else:
            idle_epochs += 1
        if idle_epochs > patience:
            factor, idle_epochs = factor * PLATEAU_FACTOR, 0
    return factor


def steps_of_epoch(epochs_done: int, loops_done: int, n_train_loops: int, n_grad_loops: int) -> list[range]:
    """The loops of each optimizer step that is left in the running epoch; none where only its validation is.

    Steps start afresh with each epoch; its last one is shorter where `n_grad_loops` does not divide the epoch.

    Args:
        epochs_done: epochs that were validated and reported.
        loops_done: loops of the whole trial so far, at the end of a step.
        n_train_loops: loops per epoch.
        n_grad_loops: loops per optimizer step.
    """
    end = (epochs_done + 1) * n_train_loops
    return [range(start, min(start + n_grad_loops, end)) for start in range(loops_done, end, n_grad_loops)]


def checkpoint_due(before: int, after: int, n_train_loops: int, checkpt_mod: int | None) -> bool:
    """Did the step from `before` to `after` loops cross a multiple of `checkpt_mod` inside its epoch?

    The end of an epoch is not counted: it has its own checkpoint.
    """
    if checkpt_mod is None or after % n_train_loops == 0:
        return False
    return (after % n_train_loops) // checkpt_mod > (before % n_train_loops) // checkpt_mod
