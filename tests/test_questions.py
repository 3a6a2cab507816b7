"""The questions that measurements and demonstrations ask of Python's own documentation."""

from pathlib import Path

import pytest

from cmp.results.written import WAYS, AnswerScores, Written, WrittenRow
from cmp.space.loading import load_space
from tests.benchmarks.qa import rows, write_space
from tests.questions import questions

DOCUMENT = """json

A module's own text is no entry that is asked about.

json.dumps(obj, *, skipkeys=False)
    Serialize an object to text. The text is JSON, which is a subset of JavaScript;
    if skipkeys is true then keys that are not basic types are skipped.

class json.Short
    Too short. To ask about.
"""


def test_an_entry_is_asked_what_it_does_and_which_arguments_it_takes() -> None:
    first, second = questions(DOCUMENT)

    assert first["context"] == second["context"]
    assert first["context"].startswith("json.dumps(obj, *, skipkeys=False) Serialize an object to text. The text")
    assert (first["question"], second["question"]) == ("What does dumps do?", "Which arguments does dumps take?")
    for row, answer in ((first, "Serialize an object to text."), (second, "obj, *, skipkeys=False")):
        assert row["answers"]["text"] == [answer]
        start = row["answers"]["answer_start"][0]
        assert row["context"][start : start + len(answer)] == answer


def test_the_measurement_searches_a_small_form_of_the_shipped_space(tmp_path: Path) -> None:
    space = load_space(write_space(tmp_path, trials=5, epochs=3), [])

    assert space.fixed["model_string"] == "pydoc" and space.fixed["answer_column"] == "answers.text"
    assert space.search.num_samples == 5 and space.max_epochs == 3
    assert {path.name for path in (tmp_path / "questions").iterdir()} == {
        f"{split}.jsonl" for split in ("train", "validation", "test")
    }


def test_a_way_has_a_row_with_its_share_of_the_full_context() -> None:
    scores = dict(zip(WAYS, (AnswerScores(0.0, each, each) for each in (0.1, 0.3, 0.2, 0.4)), strict=True))
    row = WrittenRow(0, 0, "why?", ("gold",), dict.fromkeys(WAYS, "text"), scores)

    found = rows(Written(8, "control", (row,)))

    assert [one["what is read"] for one in found] == list(WAYS.values())
    assert found[1]["F1"] == 0.3 and found[1]["F1, of full context"] == pytest.approx(0.75)
    assert found[1]["exact match, of full context"] is None, "a share of nothing"
