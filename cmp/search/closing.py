"""What a search does when its last trial has ended: examples and answers of the best, made on a trial's device."""

import logging
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cmp.results.folder import ResultsFolder
from cmp.results.mirror import send_compressor
from cmp.results.written import ANSWERS, save_written
from cmp.search.engine.footprint import Footprint
from cmp.search.engine.task import TaskError, run_task
from cmp.store import local_folder, write_text

logger = logging.getLogger(__name__)

EXAMPLES = "examples.json"
TIMEOUT_SECONDS = 1800.0  # most of it answers, where something is asked


def write_examples_of_best(
    folder: ResultsFolder,
    footprint: Footprint,
    must_leave: Callable[[], bool],
    avoided: frozenset[str] = frozenset(),
) -> None:
    """Let a worker with a trial's resources write `best/examples.json`, and `best/answers.json` where data are rows.

    Without them the page is only shorter.

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
        made = run_task(work, footprint, must_leave=must_leave, timeout_seconds=TIMEOUT_SECONDS, avoided=avoided)
    except (TaskError, OSError) as error:
        logger.warning("no examples of the best compressor: %s", error)
        return
    for name, content in (made or {}).items():
        write_text(folder.best / name, content)


def _make_examples(place: str, device: str) -> dict[str, str]:
    """Files that belong into a compressor's folder, by name; nothing is written where it is."""
    from cmp.model.api import Compressor
    from cmp.train.examples import search_data, write_examples
    from cmp.train.own import load_own
    from cmp.train.written import is_answerable, score_written

    with local_folder(place) as folder, tempfile.TemporaryDirectory(prefix="cmp-") as temporary:
        compressor = load_own(folder, device)
        control = Compressor.text_control(folder, compressor.backbone)
        examples = Path(temporary) / EXAMPLES
        write_examples(folder, backbone=compressor.backbone, target=examples, control=control)
        found = {EXAMPLES: examples.read_text(encoding="utf-8")}
        windows = search_data(compressor).test
        if is_answerable(windows, compressor):
            save_written(Path(temporary) / ANSWERS, score_written(compressor, windows, control=control))
            found[ANSWERS] = (Path(temporary) / ANSWERS).read_text(encoding="utf-8")
    return found
