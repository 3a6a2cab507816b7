"""The last word of a search: its best compressors on documents that decided nothing, worked out on a trial's device."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from cmp.results.best import CARD, read_note
from cmp.results.folder import ResultsFolder
from cmp.results.front import to_score
from cmp.results.history import CONTROL, History
from cmp.results.scores import Candidate, SplitScores, save_scores
from cmp.search.engine.footprint import Footprint
from cmp.search.engine.task import TaskError, run_task
from cmp.space.space import Space
from cmp.store import write_text

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 3600.0


def score_on_test(
    folder: ResultsFolder,
    space: Space,
    history: History,
    footprint: Footprint,
    must_leave: Callable[[], bool],
    avoided: frozenset[str] = frozenset(),
) -> SplitScores | None:
    """Let a worker with a trial's resources score the best, the runner-up and the front.

    The scores are kept as `test.json`, and the cards of best/ and front/ begin with them. Without them the search names
    validation numbers only, and says so.
    """
    wanted = to_score(space, history)
    if wanted is None:
        return None
    control = history.control
    has_curve = history.text_curve is not None and history.text_curve.trained
    work = partial(
        _score,
        [(one, folder.best_of(one.trial)) for one in wanted.candidates],
        folder.best_of(CONTROL) if control is not None and has_curve else None,
        wanted.runner_up,
        [path.absolute() for path in compressor_folders(folder)],
    )
    try:
        found = run_task(work, footprint, must_leave=must_leave, timeout_seconds=TIMEOUT_SECONDS, avoided=avoided)
    except TaskError as error:
        logger.warning("no scores on the test split: %s", error)
        return None
    if found is None:
        return None
    scores, cards = found
    save_scores(folder.test_scores, scores)
    write_cards(folder, cards)
    return scores


def compressor_folders(folder: ResultsFolder) -> list[Path]:
    """best/, and the folders of the front."""
    return [path for path in (folder.best, *sorted(folder.front.glob("[0-9]*"))) if path.is_dir()]


def write_cards(folder: ResultsFolder, cards: Mapping[Candidate, str]) -> None:
    """Replace the card of every compressor in best/ and front/ that was scored."""
    by_note = {(one.trial, one.epoch, one.positions): card for one, card in cards.items()}
    for path in compressor_folders(folder):
        note = read_note(path)
        card = None if note is None else by_note.get((note.trial, note.epoch, note.positions or 0))
        if card is not None:
            write_text(path / CARD, card)


def _score(
    places: list[tuple[Candidate, str]],
    control: str | None,
    runner_up: Candidate | None,
    compressors: list[Path],
    device: str,
) -> tuple[SplitScores, dict[Candidate, str]]:
    from cmp.model.saving import add_control
    from cmp.train.testing import score_candidates, scored_card

    for folder in compressors:
        if control is not None:
            add_control(folder, Path(control))
    scores = score_candidates(places, control, runner_up=runner_up, device=device)
    return scores, {one: scored_card(place, scores, one) for one, place in places}
