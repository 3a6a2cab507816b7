"""What is made of the best compressor when a search has ended, as the worker makes it."""

import json
from pathlib import Path
from typing import Any

import pytest

from cmp.results.written import ANSWERS, WAYS, load_written
from cmp.search.closing import EXAMPLES, _make_examples
from tests.train.trained import train_tiny

ROWS: dict[str, Any] = {"context_column": "context", "prompt_column": "question", "answer_column": "answers.text"}


def test_of_texts_there_are_examples_only(tiny_model_folder: Path, tiny_text_file: Path, tmp_path: Path) -> None:
    plan = train_tiny(tiny_model_folder, tiny_text_file, tmp_path)

    made = _make_examples(str(plan.folder / "best"), "cpu")

    assert list(made) == [EXAMPLES]
    assert not (plan.folder / "best" / EXAMPLES).exists(), "the search itself puts them where they belong"


@pytest.mark.parametrize("changes", [ROWS, {**ROWS, "prompt_column": None}], ids=["asked", "not-asked"])
def test_of_rows_there_are_answers_on_the_test_split_too(
    tiny_model_folder: Path, tiny_rows_file: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    plan = train_tiny(tiny_model_folder, tiny_rows_file, tmp_path, **changes)

    made = _make_examples(str(plan.folder / "best"), "cpu")

    (tmp_path / ANSWERS).write_text(made[ANSWERS])
    written = load_written(tmp_path / ANSWERS)
    assert written is not None and len(written.rows) == 6 and written.text_by == "backbone"
    assert set(written.rows[0].answers) == set(WAYS)
    example = json.loads(made[EXAMPLES])["examples"][0]
    assert len(example["golds"]) == 2 and (example["prompt"] is None) == (changes["prompt_column"] is None)
