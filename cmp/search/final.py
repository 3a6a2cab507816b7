"""The last word of a search: its best compressors on documents that decided nothing, worked out on a trial's device."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cmp.results.folder import ResultsFolder
from cmp.results.front import best_point, candidate_of, front
from cmp.results.history import CONTROL, History
from cmp.results.scores import Candidate, SplitScores, save_scores
from cmp.search.engine.footprint import Footprint
from cmp.search.engine.task import TaskError, run_task
from cmp.space.space import Space

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 3600.0
# A front of more points says no more, and each is one more pass over the test windows.
MOST_CANDIDATES = 12


def score_on_test(
    folder: ResultsFolder,
    space: Space,
    history: History,
    footprint: Footprint,
    must_leave: Callable[[], bool],
    avoided: frozenset[str] = frozenset(),
) -> SplitScores | None:
    """Let a worker with a trial's resources score the best, the runner-up and the front; keep it as `test.json`.

    Without it the search names validation numbers only, and says so.
    """
    best = best_point(space, history)
    if best is None:
        return None
    others = (trial for trial in history.ranked() if trial.val_loss is not None)
    second = next((trial for trial in others if trial.number != best.trial), None)
    runner_up = None if second is None else candidate_of(space, second)
    candidates = [best.candidate, *([runner_up] if runner_up is not None else [])]
    candidates += [point for point in front(space, history) if point not in candidates]
    control = history.control
    has_curve = history.text_curve is not None and history.text_curve.trained
    work = partial(
        _score,
        [(one, folder.best_of(one.trial)) for one in candidates[:MOST_CANDIDATES]],
        folder.best_of(CONTROL) if control is not None and has_curve else None,
        runner_up,
        folder.best.absolute(),
    )
    try:
        scores = run_task(work, footprint, must_leave=must_leave, timeout_seconds=TIMEOUT_SECONDS, avoided=avoided)
    except TaskError as error:
        logger.warning("no scores on the test split: %s", error)
        return None
    if scores is not None:
        save_scores(folder.test_scores, scores)
    return scores


def _score(
    places: list[tuple[Candidate, str]], control: str | None, runner_up: Candidate | None, best: Path, device: str
) -> SplitScores:
    from cmp.model.saving import add_control
    from cmp.train.testing import score_candidates

    if control is not None:
        add_control(best, Path(control))
    return score_candidates(places, control, runner_up=runner_up, device=device)
