"""Rows of context, prompt and answers: found in any data, written as texts, cut and split."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from cmp.space.settings import TrialSettings, Window
from cmp.train.data import DataError, RowWindows, open_data, prepare_data
from cmp.train.data.documents import open_documents
from cmp.train.data.rows import Row
from tests.train.data.conftest import ByteTokenizer

Make = Callable[..., TrialSettings]

SQUAD = {
    "id": "1",
    "title": "Super Bowl",
    "context": "Denver won.",
    "question": "Who won?",
    "answers": {"text": ["Denver", "Denver won"], "answer_start": [0, 0]},
}
SQUAD_ROW = Row("Denver won.", "Who won?", ("Denver", "Denver won"))
COLUMNS = {"context_column": "context", "prompt_column": "question", "answer_column": "answers.text"}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def in_format(rows: list[dict[str, Any]], folder: Path, kind: str) -> Path:
    """The same rows as a file or folder of some kind."""
    folder.mkdir()
    if kind == "jsonl":
        return write_jsonl(folder / "rows.jsonl", rows)
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
        return folder / "rows.parquet"
    datasets = pytest.importorskip("datasets")
    if kind == "saved":
        datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
        return folder / "saved"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "part.parquet")
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: plain\n  data_files: part.parquet\n---\n")
    return folder


def read(settings: TrialSettings) -> list[Any]:
    return list(open_documents(settings).splits["train"].documents())


def problem(settings: TrialSettings) -> DataError:
    with pytest.raises(DataError) as caught:
        read(settings)
    return caught.value


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved", "hub"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "by-itself"])
def test_squads_own_layout_is_read_in_every_format(tmp_path: Path, settings: Make, kind: str, named: bool) -> None:
    path = in_format([SQUAD] * 3, tmp_path / "data", kind)

    assert read(settings(path, **(COLUMNS if named else {}))) == [SQUAD_ROW] * 3


def test_csv_files_are_read_by_their_first_line(tmp_path: Path, settings: Make) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["passage", "q", "a"], ["Denver won.", "Who, then?", "Denver"], ["b", "", "c"]])
    named = {"context_column": "passage", "prompt_column": "q", "answer_column": "a"}

    rows = read(settings(tmp_path / "rows.csv", **named))

    assert rows == [Row("Denver won.", "Who, then?", ("Denver",)), Row("b", "", ("c",))]
    assert read(settings(tmp_path / "*.csv", text_column="passage")) == ["Denver won.", "b"]


def test_dotted_names_lead_through_columns_and_lists(tmp_path: Path, settings: Make) -> None:
    row = {
        "document": {"paragraphs": [{"text": "First."}, {"text": "Second."}]},
        "qa": {"asked": "What?", "golds": [{"text": "one"}, {"text": None}, {"text": "two"}, {"text": "one"}]},
    }
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    named = {"context_column": "document.paragraphs.text", "prompt_column": "qa.asked"}

    assert read(settings(path, **named, answer_column="qa.golds.text")) == [
        Row("First.\nSecond.", "What?", ("one", "two"))
    ]


def test_rows_of_kvpress_are_read_as_they_are(tmp_path: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    """Its pipeline reads context, question, a line break and answer_prefix; answers are one text or a list."""
    rows = [
        {"context": f"{n} needles", "question": "How many?", "answer_prefix": "There are", "answer": [str(n), "some"]}
        | {"max_new_tokens": 5 + n, "task": "niah"}
        for n in range(20)
    ]
    trial = settings(write_jsonl(tmp_path / "a.jsonl", rows), cmp_len=20, seq_len=9)

    assert read(trial)[3] == Row("3 needles", "How many?", ("3", "some"), "There are", 8)
    windows = open_data(trial, Window(20, 9), tokenizer=tokenizer).train
    assert isinstance(windows, RowWindows)
    batch = windows.batch(np.array([0]))
    assert batch.prompt_ids is not None
    assert tokenizer.text(batch.prompt_ids[0]) == "How many?\nThere are"
    count = tokenizer.text(batch.context_ids[0]).split()[0]
    assert tokenizer.text(batch.target_ids[0]) == f" {count}"
    assert windows.golds(0) == [count, "some"]
    assert windows.max_new_tokens(np.array([0])).tolist() == [5 + int(count)]


@pytest.mark.parametrize("prompt_template", [None, "\nQuestion: {prompt}\nAnswer:"])
def test_prompts_are_written_by_their_template_and_answers_are_apart_from_them(
    tmp_path: Path, settings: Make, tokenizer: ByteTokenizer, prompt_template: str | None
) -> None:
    rows = [{**SQUAD, "context": f"Denver won {n}."} for n in range(9)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    trial = settings(path, cmp_len=20, seq_len=9, prompt_template=prompt_template)

    batch = open_data(trial, Window(20, 9), tokenizer=tokenizer).train.batch(np.array([0]))

    assert batch.prompt_ids is not None
    asked = "\nWho won?\n" if prompt_template is None else "\nQuestion: Who won?\nAnswer:"
    assert tokenizer.text(batch.prompt_ids[0]) == asked
    assert tokenizer.text(batch.target_ids[0]) == ("Denver" if prompt_template is None else " Denver")


class ChatTokenizer(ByteTokenizer):
    """A tokenizer with an end of text and a chat template, as instruct models have them."""

    eos_token_id = 0
    bos_token = "<s>"
    chat_template = "a template"

    def apply_chat_template(self, turns: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool) -> str:
        assert not tokenize and add_generation_prompt
        return "<s>" + "".join(f"<{turn['role']}>{turn['content']}" for turn in turns) + "<model>"


def test_with_a_chat_template_the_prompt_is_the_users_turn_and_the_answer_ends_with_the_end_of_text(
    tmp_path: Path, settings: Make
) -> None:
    tokenizer = ChatTokenizer()
    rows = [{**SQUAD, "context": f"Denver won {n}."} for n in range(9)]
    trial = settings(write_jsonl(tmp_path / "a.jsonl", rows), cmp_len=20, seq_len=9, chat_template=True)

    batch = open_data(trial, Window(20, 9), tokenizer=tokenizer).train.batch(np.array([0]))

    assert batch.prompt_ids is not None
    assert tokenizer.text(batch.prompt_ids[0]) == "<user>Who won?<model>", "the text begins before the context"
    assert tokenizer.text(batch.target_ids[0]) == "Denver<s>"


def test_a_model_without_a_chat_template_says_so(tmp_path: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    trial = settings(write_jsonl(tmp_path / "a.jsonl", [SQUAD] * 9), cmp_len=20, seq_len=9, chat_template=True)

    with pytest.raises(DataError, match="no chat template") as caught:
        prepare_data(trial, Window(20, 9), tokenizer=tokenizer)

    assert caught.value.setting == "chat_template"


def test_labels_are_words(tmp_path: Path, settings: Make) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"a": datasets.Value("string"), "label": datasets.ClassLabel(names=["not_same", "same"])}
    )
    rows = {"a": ["x", "y", "z"], "label": [1, 0, -1]}
    datasets.Dataset.from_dict(rows, features).save_to_disk(tmp_path / "saved")
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "a.parquet")
    plain = write_jsonl(tmp_path / "a.jsonl", [{"a": "x", "label": 1}, {"a": "y", "label": False}])
    named = {"context_column": "a", "answer_column": "label"}

    for path in ("saved", "a.parquet"):
        documents = open_documents(settings(tmp_path / path, **named))
        assert documents.choices == ("not same", "same")
        assert [row.answers for row in documents.splits["train"].documents()] == [("same",), ("not same",), ()]
    in_words = open_documents(settings(plain, **named, answer_choices="no, yes"))
    assert [row.answers for row in in_words.splits["train"].documents()] == [("yes",), ("no",)]
    assert [row.answers for row in read(settings(plain, **named))] == [("1",), ("False",)]
    wrong = problem(
        settings(write_jsonl(tmp_path / "b.jsonl", [{"a": "x", "label": 7}]), **named, answer_choices="n,y")
    )
    assert wrong.setting == "answer_choices" and "7 in 'label'" in str(wrong) and "none of n, y" in str(wrong)


def test_a_test_split_without_answers_is_not_used(tmp_path: Path, settings: Make) -> None:
    write_jsonl(tmp_path / "train.jsonl", [SQUAD])
    write_jsonl(tmp_path / "test.jsonl", [{**SQUAD, "answers": {"text": [], "answer_start": []}}] * 3)

    assert set(open_documents(settings(tmp_path, **COLUMNS)).splits) == {"train"}


def test_wrong_columns_are_said_with_what_there_is(tmp_path: Path, settings: Make) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [SQUAD])

    def said(**changes: str) -> str:
        return str(problem(settings(path, **{**COLUMNS, **changes})))

    assert said(context_column="passage").startswith("context_column: 'passage' is not a column of")
    assert "its columns: answers, context, id" in said(context_column="passage")
    assert "leads nowhere at 'txt'; there it has text, answer_start" in said(answer_column="answers.txt")
    assert "name one of them: answers.(text, answer_start)" in said(answer_column="answers")
    assert "leads nowhere at 'deeper'; there it holds no columns" in said(answer_column="answers.text.deeper")
    assert "'answers.answer_start' of" in said(prompt_column="answers.answer_start")
    assert "pydoc is plain text" in str(problem(settings("pydoc", **COLUMNS)))


def rows_of_lengths(path: Path, count: int = 60) -> Path:
    """Contexts of 10 and 30 characters, questions of 5 and 50, answers of 1 and 20, of every third context twice."""
    rows = []
    for n in range(count):
        base = n - (n % 3 == 2)
        context = f"{base:03}" + "c" * (27 if base % 5 == 0 else 7)
        answer = "a" * (20 if n % 7 == 0 else 1)
        rows.append({"context": context, "question": "q" * (50 if n % 11 == 0 else 5), "answer": answer})
    return write_jsonl(path, rows)


NAMED = {"context_column": "context", "prompt_column": "question", "answer_column": "answer"}


def test_what_is_cut_and_left_out_is_counted(tmp_path: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    trial = settings(
        rows_of_lengths(tmp_path / "a.jsonl"),
        **NAMED,
        cmp_len=12,
        seq_len=8,
        prompt_len=10,
        prompt_template="{prompt}?",
    )

    summary = prepare_data(trial, Window(12, 8), tokenizer=tokenizer)

    long_prompts = [n for n in range(60) if n % 11 == 0]
    kept = [n for n in range(60) if n % 11]
    assert summary.rows and summary.documents == 60
    assert summary.long_prompts == summary.dropped_documents == len(long_prompts) == 6
    assert summary.cut_contexts == sum((n - (n % 3 == 2)) % 5 == 0 for n in kept)
    assert summary.cut_answers == sum(n % 7 == 0 for n in kept)
    assert summary.longest_prompt == 6
    assert summary.train_windows + summary.validation_windows + summary.test_windows == len(kept)
    assert {"long_prompts", "cut_contexts", "cut_answers"} <= set(summary.counts)


def test_the_cut_is_at_the_side_that_is_asked_for_or_refused(
    tmp_path: Path, settings: Make, tokenizer: ByteTokenizer
) -> None:
    path = rows_of_lengths(tmp_path / "a.jsonl")

    def contexts(cut: str, cmp_len: int = 12) -> set[str]:
        trial = settings(path, **NAMED, cmp_len=cmp_len, seq_len=8, cut=cut)
        windows = open_data(trial, Window(cmp_len, 8), tokenizer=tokenizer).train
        batch = windows.batch(np.arange(len(windows)))
        assert batch.context_mask is not None
        return {tokenizer.text(ids[keep]) for ids, keep in zip(batch.context_ids, batch.context_mask, strict=True)}

    assert any(text == "c" * 12 for text in contexts("start"))
    assert all(text[:3].isdigit() for text in contexts("end"))
    assert all(text[:3].isdigit() for text in contexts("error", cmp_len=30))
    with pytest.raises(DataError, match=r"12 contexts are above cmp_len 12 \(the longest has 30 tokens\)") as caught:
        contexts("error")
    assert caught.value.setting == "cut"


def test_rows_with_one_context_are_on_one_side(tmp_path: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    trial = settings(rows_of_lengths(tmp_path / "a.jsonl"), **NAMED, cmp_len=30, seq_len=8)

    data = open_data(trial, Window(30, 8), tokenizer=tokenizer)

    sides = [set(some.documents(np.arange(len(some))).tolist()) for some in (data.train, data.validation, data.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 40
    assert sum(len(some) for some in (data.train, data.validation, data.test)) == 60
    assert data.summary.repeated_documents == 0


def test_trials_with_a_shorter_context_predict_the_same_answers(
    tmp_path: Path, settings: Make, tokenizer: ByteTokenizer
) -> None:
    path, window = rows_of_lengths(tmp_path / "a.jsonl"), Window(30, 8)
    long, short = (
        open_data(settings(path, **NAMED, cmp_len=cmp_len, seq_len=8), window, tokenizer=tokenizer)
        for cmp_len in (30, 6)
    )

    every = np.arange(len(long.validation))
    assert long.fingerprint == short.fingerprint
    assert np.array_equal(long.validation.batch(every).target_ids, short.validation.batch(every).target_ids)
    assert short.validation.batch(every).context_ids.shape[1] == 6


@pytest.mark.parametrize(
    "changes",
    [{"prompt_template": "{prompt}"}, {"cut": "end"}, {"prompt_len": 7}, {"prompt_column": "answer"}],
    ids=lambda changes: next(iter(changes)),
)
def test_whatever_changes_the_rows_changes_their_fingerprint(
    tmp_path: Path, settings: Make, tokenizer: ByteTokenizer, changes: dict[str, Any]
) -> None:
    path = rows_of_lengths(tmp_path / "a.jsonl")

    prints = {
        open_data(
            settings(path, **{**NAMED, **some}, cmp_len=30, seq_len=8), Window(30, 8), tokenizer=tokenizer
        ).fingerprint
        for some in ({}, changes)
    }

    assert len(prints) == 2


def test_no_row_left_is_said_with_what_to_look_at(tmp_path: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    trial = settings(rows_of_lengths(tmp_path / "a.jsonl"), **NAMED, cmp_len=30, seq_len=8, prompt_len=2)

    with pytest.raises(DataError, match="no row left for train: of 60 rows 0 have a context"):
        prepare_data(trial, Window(30, 8), tokenizer=tokenizer)


def test_rows_can_be_reconstructed_without_their_prompts(
    tmp_path: Path, settings: Make, tokenizer: ByteTokenizer
) -> None:
    trial = settings(rows_of_lengths(tmp_path / "a.jsonl"), **NAMED, rmb_only=True, seq_len=8, prompt_len=2)

    data = open_data(trial, Window(0, 8), tokenizer=tokenizer)

    batch = data.train.batch(np.arange(3))
    assert batch.prompt_ids is None and np.array_equal(batch.context_ids, batch.target_ids)
    assert data.summary.long_prompts == data.summary.dropped_documents == 0
