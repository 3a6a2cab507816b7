"""Whatever a file holds, it is a space or a list of problems, never a traceback; and every space can be searched."""

import random
from pathlib import Path

import pytest

from cmp.space.errors import SpaceError
from cmp.space.loading import load_space
from cmp.space.reference import settings_table
from cmp.space.rehearsal import rehearse
from cmp.space.settings import RULES

SPACES = sorted((Path(__file__).parents[2] / "spaces").glob("*.yaml"))
SCRAPS = ["null", "{", "}", "[", "]", ":", "- ", "\t", "'", '"', "&a", "*a", "<<: *a", "!!int", "1e400", "-1", "0"]
SCRAPS += ["true", "choice", "search:", "{choice: [half, -1]}", "{int: [1, 5]}", "9" * 5000, "%", "---", "?", "|", "\0"]


def damaged(text: str, rng: random.Random) -> str:
    """The text with a few cuts, scraps and repeated lines."""
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(text))
        kind = rng.random()
        if kind < 0.3:
            text = text[:place] + text[place + rng.randint(1, 8) :]
        elif kind < 0.7:
            text = text[:place] + rng.choice(SCRAPS) + text[place:]
        else:
            lines = text.split("\n")
            lines.insert(rng.randrange(len(lines)), rng.choice(lines))
            text = "\n".join(lines)
    return text


@pytest.mark.parametrize("seed", range(100))
def test_a_damaged_file_is_a_space_or_a_list_of_problems(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    path = tmp_path / rng.choice(["x.yaml", "x.json"])
    path.write_text(damaged(rng.choice(SPACES).read_text(), rng), encoding="utf-8")

    try:
        space = load_space(path)
    except SpaceError as error:
        assert all(problem.file == str(path) and problem.message for problem in error.problems)
        return

    for _ in range(20):
        settings = space.trial_settings(space.sample(rng))
        assert settings.n_cmps <= settings.context_len
        assert space.search.grace_period <= settings.n_epochs
        assert settings.n_grad_loops <= settings.n_train_loops * settings.n_epochs
    assert rehearse(space).search.num_samples <= 2


def test_the_table_for_the_readme_has_a_row_for_every_setting() -> None:
    rows = settings_table().splitlines()[2:]

    assert [row.split("`")[1] for row in rows] == list(RULES)
    assert "| `n_cmps` | a whole number of at least 1 | `4` | " in settings_table()
