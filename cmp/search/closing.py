"""What a search does when its last trial has ended: examples of the best compressor, worked out on a trial's device."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cmp.results.folder import ResultsFolder
from cmp.search.engine.footprint import Footprint
from cmp.search.engine.task import TaskError, run_task

logger = logging.getLogger(__name__)

EXAMPLES_TIMEOUT_SECONDS = 300.0


def write_examples_of_best(folder: ResultsFolder, footprint: Footprint, must_leave: Callable[[], bool]) -> None:
    """Let a worker with a trial's resources write `best/examples.json`; without examples the page is only shorter.

    Args:
        folder: of a search with a best trial.
        footprint: of a trial; one of its workers is used.
        must_leave: True once the user wants to go.
    """
    work = partial(_write_examples, folder.best.absolute())
    try:
        run_task(work, footprint, must_leave=must_leave, timeout_seconds=EXAMPLES_TIMEOUT_SECONDS)
    except TaskError as error:
        logger.warning("no examples of the best compressor: %s", error)


def _write_examples(best: Path, device: str) -> None:
    from cmp.train.examples import write_examples

    write_examples(best, device=device)
