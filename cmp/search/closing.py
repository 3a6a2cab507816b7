"""What a search does when its last trial has ended: examples of the best compressor, worked out on a trial's device."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import ray

from cmp.results.folder import ResultsFolder
from cmp.search.footprint import Footprint

logger = logging.getLogger(__name__)

EXAMPLES_TIMEOUT_SECONDS = 300.0


def write_examples_of_best(folder: ResultsFolder, footprint: Footprint, must_leave: Callable[[], bool]) -> None:
    """Let a worker with a trial's resources write `best/examples.json`; without examples the page is only shorter.

    Args:
        folder: of a search with a best trial.
        footprint: of a trial; one of its workers is used.
        must_leave: True once the user wants to go.
    """
    options = {"num_cpus": footprint.cpus_per_worker, "num_gpus": footprint.gpus_per_worker, "max_retries": 0}
    task = ray.remote(_write_examples).options(**options).remote(folder.best.absolute(), Path.cwd(), footprint)
    end = time.monotonic() + EXAMPLES_TIMEOUT_SECONDS
    while not ray.wait([task], timeout=0.2)[0]:
        if must_leave() or time.monotonic() > end:
            ray.cancel(task, force=True)
            return
    try:
        ray.get(task)
    except ray.exceptions.RayError as error:
        logger.warning("no examples of the best compressor: %s", str(error).strip().splitlines()[-1])


def _write_examples(best: Path, directory: Path, footprint: Footprint) -> None:
    import torch

    from cmp.search.actor import enter
    from cmp.train.examples import write_examples

    enter(directory)
    torch.set_num_threads(max(1, int(footprint.cpus_per_worker)))
    write_examples(best, device="cuda" if footprint.gpus_per_worker else "cpu")
