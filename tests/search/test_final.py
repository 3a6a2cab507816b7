"""The last word of a search: who is scored on documents that decided nothing, and what the cards say then."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cmp.results.best import BestNote, write_note
from cmp.results.folder import ResultsFolder
from cmp.results.front import MOST_SCORED, is_scored, to_score
from cmp.results.history import History
from cmp.results.scores import Candidate, save_scores
from cmp.search import final
from cmp.space.space import Space
from cmp.train.session import LocalSession, TrialPlan
from cmp.train.trial import run_trial
from tests.report.honest import scores_for


def space(**search: Any) -> Space:
    searched = {"n_cmps": {"logint": [1, 64]}, "nested": {"choice": [True, False]}, "keep_len": {"choice": [0, 4]}}
    return Space.from_dict({"model_string": "m", "dataset": "d", "exp_name": "e", **searched, "search": search})


def trial(number: int, n_cmps: int, loss: float, kept: int = 0, nested: dict[str, float] | None = None) -> list[Any]:
    settings = {"n_cmps": n_cmps, "nested": nested is not None, "keep_len": kept}
    metrics = {"epoch": 2, "val_loss": loss, "positions": n_cmps + kept, "nested": nested}
    return [
        {"event": "suggested", "trial": number, "settings": settings, "time": 0.0},
        {"event": "reported", "trial": number, "epoch": 2, "metrics": metrics, "time": 1.0},
        {"event": "finished", "trial": number, "epoch": 2, "time": 2.0},
    ]


SEARCHED = [*trial(0, 4, 1.8, nested={"1": 1.95, "2": 1.85}), *trial(1, 8, 1.7, kept=4), *trial(2, 8, 1.75)]


def test_the_best_the_runner_up_and_the_front_are_scored_each_once() -> None:
    wanted = to_score(space(), History.from_events(SEARCHED))

    assert wanted is not None
    assert wanted.runner_up == Candidate(2, 2, 8, 0)
    assert wanted.candidates == (
        Candidate(1, 2, 8, 4),
        Candidate(2, 2, 8, 0),
        *(Candidate(0, 2, n_cmps, 0) for n_cmps in (1, 2, 4)),
    )
    assert to_score(space(), History()) is None


def test_a_long_front_is_not_scored_as_a_whole() -> None:
    events = [event for number in range(20) for event in trial(number, number + 1, 2.0 - number / 50)]

    wanted = to_score(space(), History.from_events(events))

    assert wanted is not None and len(wanted.candidates) == MOST_SCORED


def test_a_front_that_has_changed_since_is_scored_again(tmp_path: Path) -> None:
    folder, history = ResultsFolder(tmp_path), History.from_events(SEARCHED)
    wanted = to_score(space(), history)
    assert wanted is not None and not is_scored(folder, space(), history)
    scores = scores_for("tested", wanted.candidates[0], 1.7, runner_up=2)
    rows = tuple(replace(scores.compressors[0], candidate=one) for one in wanted.candidates)
    save_scores(folder.test_scores, replace(scores, compressors=rows))

    assert is_scored(folder, space(), history)
    for event in trial(3, 1, 1.9):
        history.apply(event)
    assert not is_scored(folder, space(), history)


@pytest.fixture(scope="module")
def searched(tiny_model_folder: Path, tiny_text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> ResultsFolder:
    """A nested trial and a text control, trained for an epoch, with best/ and a point of the front."""
    folder = ResultsFolder(tmp_path_factory.mktemp("search"))
    plain = {
        "model_string": str(tiny_model_folder), "dataset": str(tiny_text_file), "data_root": str(folder.path / "data"),
        "torch_dtype": "float32", "cmp_len": 24, "seq_len": 8, "batch_size": 4, "n_train_loops": 4, "n_epochs": 1,
        "val_batch_size": 8, "max_val_loops": 2, "lr": 0.02, "n_cmps": 4, "n_data_procs": 1,
    }  # fmt: skip
    for number, nested, role in ((0, True, "search"), (-1, False, "control")):
        one = Space.from_dict({**plain, "nested": nested})
        plan = TrialPlan(number, one.trial_settings({}), one.window, folder.trial(number), role=role)  # type: ignore[arg-type]
        assert run_trial(plan, LocalSession()).status == "finished"
    for path, positions in ((folder.best, 4), (folder.front / "2", 2)):
        path.mkdir(parents=True)
        for file in (folder.trial(0) / "best").iterdir():
            (path / file.name).write_bytes(file.read_bytes())
        write_note(path, BestNote(0, 1, 2.0, False, {}, positions, None if positions == 4 else positions))
    return folder


def test_cards_begin_with_test_scores_and_every_compressor_gets_its_control(searched: ResultsFolder) -> None:
    before = (searched.trial(0) / "best" / "README.md").read_text()
    places = [(Candidate(0, 1, n, 0), searched.best_of(0)) for n in (4, 2)]

    scores, cards = final._score(places, searched.best_of(-1), None, final.compressor_folders(searched), "cpu")
    final.write_cards(searched, cards)

    best, part = ((path / "README.md").read_text() for path in (searched.best, searched.front / "2"))
    assert "test documents, which decided nothing in its search" in best and "## On test documents" in best
    assert "24 context tokens become 4 memory vectors" in best
    assert "24 context tokens become 2 memory vectors" in part and "makes the first 2 of each piece's 4 vectors" in part
    own = scores.find(Candidate(0, 1, 2, 0))
    assert own is not None and f"| its own memory | {own.loss.value:.4f}" in part
    assert "not scored on documents that decided nothing" in before
    assert (searched.trial(0) / "best" / "README.md").read_text() == before, "of another epoch there may be no scores"
    assert all((path / "control.json").exists() for path in (searched.best, searched.front / "2"))


def test_a_compressor_that_was_not_scored_keeps_its_card(searched: ResultsFolder, tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path)
    folder.best.mkdir()
    write_note(folder.best, BestNote(5, 1, 2.0, False, {}, 4, None))
    (folder.best / "README.md").write_text("old")

    final.write_cards(folder, {Candidate(0, 1, 4, 0): "new"})
    assert (folder.best / "README.md").read_text() == "old"

    final.write_cards(folder, {Candidate(5, 1, 4, 0): "new"})
    assert (folder.best / "README.md").read_text() == "new"
    assert json.loads((folder.best / "search.json").read_text())["trial"] == 5
