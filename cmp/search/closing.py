"""What a search does when its last trial has ended: examples of the best compressor, worked out on a trial's device."""

import logging
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cmp.results.folder import ResultsFolder
from cmp.results.mirror import send_compressor
from cmp.search.engine.footprint import Footprint
from cmp.search.engine.task import TaskError, run_task
from cmp.store import local_folder, write_text

logger = logging.getLogger(__name__)

EXAMPLES = "examples.json"
EXAMPLES_TIMEOUT_SECONDS = 300.0


def write_examples_of_best(
    folder: ResultsFolder,
    footprint: Footprint,
    must_leave: Callable[[], bool],
    avoided: frozenset[str] = frozenset(),
) -> None:
    """Let a worker with a trial's resources write `best/examples.json`; without examples the page is only shorter.

    Args:
        folder: of a search with a best trial.
        footprint: of a trial; one of its workers is used.
        must_leave: True once the user wants to go.
        avoided: nodes on which no trial may run.
    """
    work = partial(_make_examples, str(folder.best.absolute()) if folder.url is None else f"{folder.url}/best")
    try:
        if folder.url is not None:
            send_compressor(folder)
        examples = run_task(
            work, footprint, must_leave=must_leave, timeout_seconds=EXAMPLES_TIMEOUT_SECONDS, avoided=avoided
        )
    except (TaskError, OSError) as error:
        logger.warning("no examples of the best compressor: %s", error)
        return
    if examples is not None:
        write_text(folder.best / EXAMPLES, examples)


def _make_examples(place: str, device: str) -> str:
    """What `examples.json` holds for a compressor; nothing is written where it is."""
    from cmp.train.examples import write_examples

    with local_folder(place) as folder, tempfile.TemporaryDirectory(prefix="cmp-") as temporary:
        return write_examples(folder, device=device, target=Path(temporary) / EXAMPLES).read_text(encoding="utf-8")
