"""What is written in answer to prompts, four ways, against the same written one by one through the public API."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmp import Compressor
from cmp.model.api import CompressorError, Memory
from cmp.model.backbone import Backbone
from cmp.model.batch import View
from cmp.results.written import AnswerScores, Written, WrittenRow, load_written, save_written
from cmp.train.answers import answer_scores
from cmp.train.data import RowWindows
from cmp.train.data.windows import Cut, TextWindows
from cmp.train.written import score_written
from tests.model.saved import new_compressor, save_tiny_model
from tests.train.rows import row_tokens

CONTEXTS = ["the cat", "an old dog barks", "x", "a red house near trees"]
PROMPTS = [" Who?", "", " What is it near?", " Why?"]
ANSWERS = ["cat", "old dog", "x", "red"]
KINDS: dict[str, dict[str, Any]] = {
    "hidden": {"keep_len": 2},
    "kv": {"memory": "kv", "keep_len": 1},
    "pieces": {"piece_len": 4, "n_cmps": 2},
    "kv-pieces": {"memory": "kv", "piece_len": 4, "n_cmps": 2},
    "pooled": {"memory": "pooled"},
}


@pytest.fixture(scope="module", params=["gpt2", "llama", "bloom", "gemma2"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone.load(str(save_tiny_model(request.param, tmp_path_factory.mktemp(request.param))))


def windows_of(compressor: Compressor, **others: Any) -> RowWindows:
    def ids(text: str) -> list[int]:
        return compressor.tokenizer(text)["input_ids"] if text else []

    rows = [(ids(a), ids(b), ids(c)) for a, b, c in zip(CONTEXTS, PROMPTS, ANSWERS, strict=True)]
    settings = compressor.settings
    cut = Cut(settings.cmp_len, settings.cmp_len, settings.seq_len, prompt_len=20)
    return RowWindows(row_tokens(rows, golds=[[answer] for answer in ANSWERS], **others), np.arange(4), cut)


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_answered_as_each_row_alone(backbone: Backbone, kind: str) -> None:
    """Contexts and prompts differ in length; one context is shorter than what is kept of it, one prompt is empty."""
    compressor = new_compressor(backbone, cmp_len=24, seq_len=5, **KINDS[kind])
    positions = compressor.settings.positions
    greedy = {"do_sample": False, "max_new_tokens": 5}

    found = score_written(compressor, windows_of(compressor))

    assert found.positions == positions and found.text_by == "backbone"
    assert sorted(row.window for row in found.rows) == [0, 1, 2, 3]
    for row in found.rows:
        context, prompt = CONTEXTS[row.window], PROMPTS[row.window]
        memory = compressor.compress(context)
        expected = {
            "no_context": compressor.continue_text("", prompt, **greedy),
            "memory": compressor.generate(memory, prompt, **greedy),
            "text": compressor.continue_text(context[-positions:], prompt, **greedy),
            "full_context": compressor.continue_text(context, prompt, **greedy),
        }
        assert row.answers == {way: first_line(text) for way, text in expected.items()}
        assert row.prompt == prompt and row.golds == (ANSWERS[row.window],)
        assert row.scores == {way: answer_scores(text, row.golds) for way, text in row.answers.items()}


def test_the_text_control_may_read_the_text(backbone: Backbone) -> None:
    compressor = new_compressor(backbone, cmp_len=24, seq_len=5, n_cmps=4)
    control = new_compressor(backbone, cmp_len=24, seq_len=5, n_cmps=2)

    found = score_written(compressor, windows_of(compressor), control=control)

    assert found.text_by == "control"
    nothing = control.model.compress(windows_of(control).batch(np.array([0])), View(compresses=False)).vectors
    memory = Memory(nothing, ((),), 2)
    for row in found.rows:
        tail = CONTEXTS[row.window][-4:]
        expected = control.generate(memory, tail + PROMPTS[row.window], do_sample=False, max_new_tokens=5)
        assert row.answers["text"] == first_line(expected)


def test_the_likeliest_choice_is_the_answer_of_a_classification(backbone: Backbone) -> None:
    compressor = new_compressor(backbone, cmp_len=24, seq_len=5)
    words = ["cat", "x", "old dog"]
    choices = {word: compressor.tokenizer(word)["input_ids"] for word in words}

    found = score_written(compressor, windows_of(compressor, choices=choices))

    for row in found.rows:
        context, prompt = CONTEXTS[row.window], PROMPTS[row.window]
        memory = compressor.compress(context)
        sums = {}
        for word in words:
            text = prompt + word
            losses = compressor.loss(memory, text, per_token=True)
            sums[word] = sum(losses[len(prompt) :])
        right = min(sums, key=lambda word: sums[word]) == ANSWERS[row.window]
        assert row.scores["memory"].accuracy == float(right)


def test_an_answer_is_as_long_as_its_row_allows(backbone: Backbone) -> None:
    compressor = new_compressor(backbone, cmp_len=24, seq_len=5)

    found = score_written(compressor, windows_of(compressor, limits=[1, 2, 3, 0]))

    for row in found.rows:
        limit = [1, 2, 3, 5][row.window]
        memory = compressor.compress(CONTEXTS[row.window])
        text = compressor.generate(memory, PROMPTS[row.window], do_sample=False, max_new_tokens=limit)
        assert row.answers["memory"] == first_line(text)


def test_plain_text_and_reconstruction_have_no_answers(backbone: Backbone) -> None:
    compressor = new_compressor(backbone, cmp_len=24, seq_len=5)
    texts = TextWindows(np.arange(40, dtype=np.uint16), np.array([0]), np.array([1]), 29, Cut(24, 24, 5))
    with pytest.raises(CompressorError, match="plain text; name their context_column"):
        score_written(compressor, texts)

    only = new_compressor(backbone, rmb_only=True, seq_len=5)
    with pytest.raises(CompressorError, match="only reconstruct"):
        score_written(only, windows_of(compressor))


def written(memory: float, full: float) -> Written:
    def scores(value: float) -> AnswerScores:
        return AnswerScores(value, value, 0.0)

    rows = [
        WrittenRow(n, n, "Q", ("a", "b"), {"memory": "m"}, {"memory": scores(memory), "full_context": scores(full * n)})
        for n in range(3)
    ]
    return Written(4, "backbone", tuple(rows))


def test_the_share_of_the_full_contexts_score_is_that_of_the_means() -> None:
    assert written(0.3, 0.5).mean("full_context") == AnswerScores(0.5, 0.5, 0.0)
    assert written(0.3, 0.5).kept() == {"exact_match": 0.6, "f1": 0.6, "rouge_l": None, "accuracy": None}


def test_what_was_written_comes_back_from_its_file(tmp_path: Path) -> None:
    save_written(tmp_path / "written.json", written(0.3, 0.5))

    assert load_written(tmp_path / "written.json") == written(0.3, 0.5)
    assert load_written(tmp_path / "missing.json") is None
    (tmp_path / "written.json").write_text('{"rows": 3}')
    assert load_written(tmp_path / "written.json") is None
