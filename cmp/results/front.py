"""The front: for every number of positions the compressor with the lowest loss. From the history alone."""

from cmp.results.folder import ResultsFolder
from cmp.results.history import History, TrialRecord
from cmp.results.scores import Candidate, load_scores
from cmp.space.space import Space


def candidate_of(space: Space, trial: TrialRecord) -> Candidate:
    """A trial's best epoch, with all its vectors."""
    settings, report = space.trial_settings(trial.settings), trial.best_report or {}
    return Candidate(trial.number, report.get("epoch", 0), settings.n_vectors, settings.keep_len)


def front(space: Space, history: History) -> list[Candidate]:
    """The compressors that no other beats at as many positions or fewer, cheapest first.

    Every number of vectors of a nested trial is a compressor of its own.
    """
    points: list[tuple[int, float, Candidate]] = []
    for trial in history.ranked():
        report = trial.best_report
        if report is None or trial.status == "failed":
            continue
        whole, settings = candidate_of(space, trial), space.trial_settings(trial.settings)
        points.append((whole.positions, report["val_loss"], whole))
        for size, loss in (report.get("nested") or {}).items():
            part = Candidate(trial.number, whole.epoch, int(size) * settings.n_pieces, settings.keep_len)
            points.append((part.positions, loss, part))
    kept: list[Candidate] = []
    lowest = float("inf")
    for _, loss, candidate in sorted(points, key=lambda point: point[:2]):
        if loss < lowest:
            kept, lowest = [*kept, candidate], loss
    return kept


def is_scored(folder: ResultsFolder, space: Space, history: History) -> bool:
    """Whether the best trial's best epoch has been scored on the test split."""
    best, scores = history.best(), load_scores(folder.test_scores)
    wanted = None if best is None else candidate_of(space, best)
    return scores is not None and bool(scores.compressors) and scores.compressors[0].candidate == wanted
