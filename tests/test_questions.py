"""The questions that measurements and demonstrations ask of Python's own documentation."""

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
