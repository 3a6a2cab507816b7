"""`python -m cmp evaluate`, called as its users call it."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cmp import Compressor
from cmp.commands.evaluate import main as evaluate
from cmp.model.batch import TokenScores
from cmp.model.saving import add_control, read_config
from cmp.train.positions import PositionSums
from cmp.train.session import LocalSession, TrialPlan
from cmp.train.trial import run_trial
from tests.train.trained import train_tiny

TASKS: dict[str, dict[str, Any]] = {"both": {"rmb_task": True}, "reconstruct": {"rmb_only": True, "seq_len": 12}}


@pytest.fixture(scope="module", params=TASKS)
def plan(
    request: pytest.FixtureRequest,
    tiny_model_folder: Path,
    tiny_text_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> TrialPlan:
    return train_tiny(tiny_model_folder, tiny_text_file, tmp_path_factory.mktemp("search"), **TASKS[request.param])


def scores_of(plan: TrialPlan, tmp_path: Path, *options: str) -> dict[str, Any]:
    best = str(plan.folder / "best")
    code = evaluate([best, "--device", "cpu", "--json", str(tmp_path / "scores.json"), *options])
    assert code == 0
    return json.loads((tmp_path / "scores.json").read_text())


def test_its_own_data_give_the_numbers_that_the_search_reported(plan: TrialPlan, tmp_path: Path) -> None:
    reported = read_config(plan.folder / "best").origin.metrics

    found = scores_of(plan, tmp_path)

    assert found["windows"] == 12
    assert found["val_loss"] == found["memory"]["loss"] == pytest.approx(reported["val_loss"], rel=1e-5)
    assert found["memory"]["accuracy"] == pytest.approx(reported["val_acc"])
    assert found["memory"]["top5"] == pytest.approx(reported["val_top5"])
    assert found["no_context"]["loss"] == pytest.approx(reported["no_context_loss"], rel=1e-5)
    assert found["full_context"]["loss"] == pytest.approx(reported["full_context_loss"], rel=1e-5)
    if reported["recovered"] is None:
        assert found["recovered"] is None
    else:
        assert found["recovered"] == pytest.approx(reported["recovered"], rel=1e-3)
    if not plan.settings.rmb_only:
        assert found["reconstruction"]["loss"] == pytest.approx(reported["val_rmb_loss"], rel=1e-5)
        assert found["reconstruction"]["accuracy"] == pytest.approx(reported["val_rmb_acc"])


def test_losses_by_position_average_to_the_loss(plan: TrialPlan, tmp_path: Path) -> None:
    found = scores_of(plan, tmp_path)

    for name in ("no_context", "memory", "full_context"):
        row = found[name]
        assert len(row["loss_by_position"]) == plan.settings.seq_len
        assert sum(row["loss_by_position"]) / plan.settings.seq_len == pytest.approx(row["loss"], rel=1e-6)
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))
        assert row["tokens"] == found["windows"] * plan.settings.seq_len


def test_another_text_is_scored_with_windows_as_long_as_needed(plan: TrialPlan, tmp_path: Path) -> None:
    length = plan.settings.seq_len + (0 if plan.settings.rmb_only else plan.settings.cmp_len)
    text = "sphinx of black quartz, judge my vow! " * 9
    (tmp_path / "other.txt").write_text(text)
    n_tokens = len(Compressor.from_pretrained(plan.folder / "best").tokenizer(text.strip())["input_ids"])

    found = scores_of(plan, tmp_path, "--dataset", str(tmp_path / "other.txt"), "--split", "all")

    assert found["dataset"].endswith("other.txt")
    assert found["windows"] in (n_tokens // length, (n_tokens + 1) // length)


def test_the_amount_can_be_chosen(plan: TrialPlan, tmp_path: Path) -> None:
    few = scores_of(plan, tmp_path, "--max-loops", "1", "--batch-size", "3")
    all_held_out = scores_of(plan, tmp_path, "--all-windows")
    everything = scores_of(plan, tmp_path, "--all-windows", "--split", "all")

    assert few["windows"] == 3
    assert 12 < all_held_out["windows"] < everything["windows"]


def test_the_test_split_is_other_windows_than_the_search_saw(plan: TrialPlan, tmp_path: Path) -> None:
    counts = read_config(plan.folder / "best").origin.data

    found = scores_of(plan, tmp_path, "--split", "test", "--all-windows")

    assert found["split"] == "test" and found["windows"] == counts["test_windows"] > 0
    assert found["val_loss"] != scores_of(plan, tmp_path, "--all-windows")["val_loss"]


def test_a_compressor_from_before_the_test_split_was_trained_on_it(
    plan: TrialPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    shutil.copytree(plan.folder / "best", old)
    config = json.loads((old / "config.json").read_text())
    del config["origin"]["data"]["test_windows"]
    (old / "config.json").write_text(json.dumps(config))

    assert evaluate([str(old), "--device", "cpu", "--split", "test"]) == 2

    assert "--split: this compressor is older than the test split" in capsys.readouterr().err


def test_the_table_has_every_row_and_fits_80_columns(
    plan: TrialPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    found = scores_of(plan, tmp_path)

    printed = capsys.readouterr().out
    for part in ("no context", "the memory", "full context", f"{found['val_loss']:.4f}", "recovered:", "5-8"):
        assert part in printed
    assert ("reconstruction" in printed) is not plan.settings.rmb_only
    tables = [line for line in printed.splitlines() if line.startswith(("│", "┃"))]
    assert max(map(len, tables)) <= 80


def test_every_way_of_reading_stands_beside_the_others(plan: TrialPlan, tmp_path: Path) -> None:
    if plan.settings.rmb_only:
        pytest.skip("with rmb_only there is no text that stands in for a context")
    compressor = Compressor.from_pretrained(plan.folder / "best")

    found = scores_of(plan, tmp_path, "--all-windows", "--last", "12", "3", "4")

    rows = {row["read"]: row for row in found["ways"]}
    assert list(rows) == [
        "nothing", "its own memory", "the memory of another document", "one constant memory, the mean",
        "the bare model: the last token",
        *(f"the bare model: the last {kept} tokens" for kept in (2, 3, 4, 8, 12, 16, 24)), "the whole context",
    ]  # fmt: skip
    assert rows["its own memory"]["loss"] == found["val_loss"]
    assert rows["the whole context"]["loss"] == pytest.approx(rows["the bare model: the last 24 tokens"]["loss"])
    assert rows["the memory of another document"]["loss"] != rows["its own memory"]["loss"]
    (first,) = found["scores"]["compressors"]
    assert first["candidate"] == {"trial": 3, "epoch": 1, "vectors": 2, "kept": 0}
    assert first["loss"]["low"] <= first["loss"]["value"] <= first["loss"]["high"]
    assert not found["scores"]["trained"], "its folder has no text control"
    assert compressor.settings.n_cmps == found["positions"] == 2


def test_text_that_no_context_has_is_refused(plan: TrialPlan, capsys: pytest.CaptureFixture[str]) -> None:
    asked = "24" if plan.settings.rmb_only else "25"

    assert evaluate([str(plan.folder / "best"), "--device", "cpu", "--last", asked]) == 2

    why = "the context itself is predicted" if plan.settings.rmb_only else "contexts have 24 tokens"
    assert f"--last: there is no such text: {why}" in capsys.readouterr().err


def test_with_its_text_control_a_compressor_is_measured_by_it(plan: TrialPlan, tmp_path: Path) -> None:
    if plan.settings.rmb_only:
        pytest.skip("with rmb_only there is no text that stands in for a context")
    control = replace(plan, number=-1, folder=plan.folder.parent / "text", role="control")
    assert (
        run_trial(replace(control, settings=replace(plan.settings, rmb_task=False)), LocalSession()).status
        == "finished"
    )
    folder = tmp_path / "carried-away"
    shutil.copytree(plan.folder / "best", folder)
    add_control(folder, control.folder / "best")

    code = evaluate([str(folder), "--device", "cpu", "--json", str(tmp_path / "scores.json")])

    found = json.loads((tmp_path / "scores.json").read_text())
    assert code == 0
    assert found["scores"]["trained"]
    curve = read_config(control.folder / "best").origin.metrics["text_curve"]
    assert found["scores"]["text_curve"] == {kept: pytest.approx(loss, rel=1e-5) for kept, loss in curve.items()}
    assert "the text control: the last 8 tokens" in {row["read"] for row in found["ways"]}


def test_a_nested_compressor_is_scored_with_any_number_of_its_vectors(
    tiny_model_folder: Path, tiny_text_file: Path, tmp_path: Path
) -> None:
    plan = train_tiny(tiny_model_folder, tiny_text_file, tmp_path / "search", n_cmps=6, nested=True, keep_len=2)

    found = scores_of(plan, tmp_path, "--vectors", "3")

    sizes = [row["candidate"]["vectors"] for row in found["scores"]["compressors"]]
    assert sizes == [3, 6, 4, 2, 1]
    assert (found["n_cmps"], found["positions"]) == (3, 5)
    assert found["scores"]["compressors"][1]["swapped_loss"] is not None
    assert "3 of its vectors, and the last 2 tokens" in {row["read"] for row in found["ways"]}


def test_json_alone_goes_to_standard_output(plan: TrialPlan, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate([str(plan.folder / "best"), "--device", "cpu", "--json", "-"]) == 0

    assert json.loads(capsys.readouterr().out)["n_cmps"] == 2


@pytest.mark.parametrize(
    ("dataset", "message"),
    [("missing.txt", "missing.txt"), ("short.txt", "no window left"), ("empty.txt", "empty.txt")],
)
def test_unusable_data_are_one_line_and_exit_code_2(
    plan: TrialPlan,
    dataset: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("too short")
    Path("empty.txt").write_text("")

    assert evaluate([str(plan.folder / "best"), "--device", "cpu", "--dataset", dataset]) == 2

    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_positions_without_a_token_have_no_loss() -> None:
    nll = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    right = torch.tensor([[True, False, False], [False, False, False]])
    kept = torch.tensor([[True, True, False], [True, False, False]])
    sums = PositionSums()

    sums.add(TokenScores(nll, right, kept, kept))

    assert sums.by_position() == [2.0, 2.0, None]
    assert (sums.loss, sums.accuracy, sums.top5_accuracy) == (2.0, pytest.approx(1 / 3), 1.0)


@pytest.fixture(scope="module")
def asked(tiny_model_folder: Path, tiny_rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> TrialPlan:
    """A compressor that was trained on questions."""
    rows = {"context_column": "context", "prompt_column": "question", "answer_column": "answers.text"}
    folder = tmp_path_factory.mktemp("questions")
    return train_tiny(tiny_model_folder, tiny_rows_file, folder, **rows, prompt_template="\nQ: {prompt}\nA:")


def test_of_rows_what_is_written_is_scored_in_four_ways(asked: TrialPlan, tmp_path: Path) -> None:
    found = scores_of(asked, tmp_path, "--answers", "5", "--split", "test")

    assert list(found["answers"]) == ["no_context", "memory", "text", "full_context"]
    assert set(found["answers_kept"]) == {"exact_match", "f1", "rouge_l", "accuracy"}
    rows = found["written"]["rows"]
    assert len(rows) == 5 and rows[0]["prompt"].startswith("\nQ: ") and len(rows[0]["golds"]) == 2
    means = [sum(row["scores"]["memory"]["f1"] for row in rows) / 5, found["answers"]["memory"]["f1"]]
    assert means[0] == pytest.approx(means[1])
    assert scores_of(asked, tmp_path, "--answers", "0")["written"] is None


def test_rows_of_kvpress_are_answered_and_the_share_that_is_kept_is_printed(
    asked: TrialPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"question": "Which?", "answer_prefix": "The number is", "max_new_tokens": 3}
    rows = [{**row, "context": f"the number is {n}", "answer": [str(n)]} for n in range(30)]
    (tmp_path / "kvpress.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    code = evaluate([str(asked.folder / "best"), "--device", "cpu", "--dataset", str(tmp_path / "kvpress.jsonl")])

    printed = capsys.readouterr().out
    assert code == 0
    for words in ("prompts, greedily", "exact match", "ROUGE-L", "text at equal positions", "kept of the full"):
        assert words in printed


def test_a_classification_has_an_accuracy_of_its_likeliest_choice(
    tiny_model_folder: Path, tiny_rows_file: Path, tmp_path: Path
) -> None:
    rows = {"context_column": "sentence1", "prompt_column": "sentence2", "answer_column": "label"}
    plan = train_tiny(tiny_model_folder, tiny_rows_file, tmp_path, **rows, answer_choices="no, yes")

    found = scores_of(plan, tmp_path, "--answers", "6")

    accuracies = {way: scores["accuracy"] for way, scores in found["answers"].items()}
    assert all(round(6 * accuracy) == pytest.approx(6 * accuracy) for accuracy in accuracies.values())
    assert {gold for row in found["written"]["rows"] for gold in row["golds"]} <= {"no", "yes"}


def test_a_compressor_of_questions_can_be_scored_on_plain_text(
    asked: TrialPlan, tiny_text_file: Path, tmp_path: Path
) -> None:
    found = scores_of(asked, tmp_path, "--dataset", str(tiny_text_file))

    assert found["written"] is None and found["windows"] > 0
