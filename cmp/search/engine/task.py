"""Work for one worker of a trial's size, outside any trial: what a search does when its last trial has ended."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import ray

from cmp.search.engine.environment import last_line
from cmp.search.engine.footprint import Footprint
from cmp.search.engine.job import elsewhere
from cmp.search.engine.process import enter

LOOK_EVERY_SECONDS = 0.2

# Machines go also when the last trial has ended. What the work itself raises is not tried again.
RETRIES_AFTER_A_LOSS = 2

T = TypeVar("T")


class TaskError(Exception):
    """The task failed, or its process did; the text is the last line of the reason."""


def run_task(
    work: Callable[[str], T],
    footprint: Footprint,
    *,
    must_leave: Callable[[], bool],
    timeout_seconds: float,
    avoided: frozenset[str] = frozenset(),
) -> T | None:
    """Run `work(device)` where a trial could run, again elsewhere if its machine goes, and wait for it.

    Args:
        work: gets "cuda" or "cpu"; pickled, so a partial of a module's function.
        footprint: of a trial; one of its workers is used.
        must_leave: True once the user wants to go; the task is then ended.
        timeout_seconds: the task is ended after this time.
        avoided: nodes on which no trial may run.

    Returns:
        What `work` returned; None when it was ended before it was done.

    Raises:
        TaskError: it failed, or its process died again and again.
    """
    task = (
        ray.remote(_run)
        .options(
            num_cpus=footprint.cpus_per_worker,
            num_gpus=footprint.gpus_per_worker,
            max_retries=RETRIES_AFTER_A_LOSS,
            label_selector=elsewhere(avoided),
        )
        .remote(work, Path.cwd(), footprint)
    )
    end = time.monotonic() + timeout_seconds
    while not ray.wait([task], timeout=LOOK_EVERY_SECONDS)[0]:
        if must_leave() or time.monotonic() > end:
            ray.cancel(task, force=True)
            return None
    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:
        raise TaskError(last_line(error)) from error


def _run(work: Any, directory: Path, footprint: Footprint) -> Any:
    import torch

    enter(directory)
    torch.set_num_threads(max(1, int(footprint.cpus_per_worker)))
    return work("cuda" if footprint.gpus_per_worker else "cpu")
