"""Every shipped space trains: its rehearsal, in this process; `test_spaces` rehearses it as a search."""

import random
from pathlib import Path

import pytest

from cmp.model.loading import model_facts
from cmp.space.loading import load_space
from cmp.space.rehearsal import rehearse
from cmp.train.session import LocalSession, TrialPlan
from cmp.train.trial import run_trial

SPACES = sorted((Path(__file__).parents[2] / "spaces").glob("*.yaml"))
TRIALS = 3


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_trials_of_a_shipped_space_train_to_their_end(
    path: Path, tmp_path: Path, tiny_model_folder: Path, tiny_text_file: Path, tiny_rows_file: Path
) -> None:
    asks = load_space(path).fixed["context_column"] is not None
    overrides = [
        f"testing={tiny_model_folder}", f"dataset={tiny_rows_file if asks else tiny_text_file}", f"data_root={tmp_path}"
    ]  # fmt: skip
    space, rng = rehearse(load_space(path, overrides), model_facts(str(tiny_model_folder)), gpus=0), random.Random(0)
    for number in range(TRIALS):
        session = LocalSession()
        plan = TrialPlan(number, space.trial_settings(space.sample(rng)), space.window, tmp_path / f"{number}")

        outcome = run_trial(plan, session)

        assert outcome.status == "finished", outcome.reason
        assert len(session.reports) == space.fixed["n_epochs"]
