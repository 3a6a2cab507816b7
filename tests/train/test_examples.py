from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmp.model.api import Compressor, CompressorError
from cmp.results.examples import load_examples
from cmp.train.data import RowWindows
from cmp.train.data.windows import Cut
from cmp.train.examples import EXAMPLES, make_examples, validation_windows, write_examples, write_trial_examples
from cmp.train.session import LocalSession, TrialPlan
from tests.train.rows import row_tokens
from tests.train.trained import train_tiny

TASKS: dict[str, dict[str, Any]] = {
    "continue": {},
    "both": {"rmb_task": True, "memory": "kv"},
    "reconstruct": {"rmb_only": True},
}


@dataclass(frozen=True)
class Trained:
    plan: TrialPlan
    compressor: Compressor


@pytest.fixture(scope="module", params=TASKS)
def trained(
    request: pytest.FixtureRequest,
    tiny_model_folder: Path,
    tiny_text_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    plan = train_tiny(tiny_model_folder, tiny_text_file, tmp_path_factory.mktemp("search"), **TASKS[request.param])
    return Trained(plan, Compressor.from_pretrained(plan.folder / "best", device="cpu"))


def test_what_is_written_is_what_the_page_reads(trained: Trained) -> None:
    best = trained.plan.folder / "best"

    path = write_examples(best, backbone=trained.compressor.backbone, count=4, max_windows=9)

    found = load_examples(path)
    assert path == best / EXAMPLES
    assert found is not None
    assert (found.trial, found.epoch, found.scored, len(found.examples)) == (3, 1, 9, 4)
    places = [example.place for example in found.examples]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (1, 9)


def test_an_examples_losses_and_texts_are_those_of_the_compressor(trained: Trained) -> None:
    compressor, settings = trained.compressor, trained.plan.settings
    windows = validation_windows(compressor)

    found = make_examples(compressor, windows, count=3, max_windows=6)

    for example in found.examples:
        # The text is ASCII in a byte-level tokenizer, so decoding loses nothing.
        memory = compressor.compress(example.context)
        bounds = compressor.bounds(example.context, example.target)
        loss = compressor.reconstruction_loss if settings.rmb_only else compressor.loss
        assert example.losses.memory == pytest.approx(loss(memory, example.target), rel=1e-4)
        assert example.losses.no_context == pytest.approx(bounds.no_context, rel=1e-4)
        assert example.losses.full_context == pytest.approx(bounds.full_context, rel=1e-4)
        assert (example.context == example.target) is settings.rmb_only


def test_continuations_are_greedy_and_as_long_as_the_target(trained: Trained) -> None:
    compressor, settings = trained.compressor, trained.plan.settings
    greedy = {"do_sample": False, "max_new_tokens": settings.seq_len}

    found = make_examples(compressor, validation_windows(compressor), count=3, max_windows=6)

    for example in found.examples:
        memory = compressor.compress(example.context)
        if compressor.can_reconstruct:
            assert example.reconstruction == compressor.reconstruct(memory)
        else:
            assert example.reconstruction is None
        written = example.reconstruction if settings.rmb_only else compressor.generate(memory, **greedy)
        assert example.continuations.memory == written
        assert example.continuations.full_context == compressor.continue_text(example.context, **greedy)
        assert example.continuations.no_context == compressor.continue_text("", **greedy)


def test_reconstruction_losses_are_there_where_it_was_trained(trained: Trained) -> None:
    compressor = trained.compressor

    found = make_examples(compressor, validation_windows(compressor), count=3, max_windows=6)

    for example in found.examples:
        if not compressor.can_reconstruct:
            assert example.losses.reconstruction is None
            continue
        memory = compressor.compress(example.context)
        expected = compressor.reconstruction_loss(memory, example.context)
        assert example.losses.reconstruction == pytest.approx(expected, rel=1e-4)


def test_a_process_of_the_search_writes_them_into_best(trained: Trained) -> None:
    results = trained.plan.folder.parent.parent

    assert write_trial_examples(trained.plan, LocalSession()).status == "finished"

    found = load_examples(results / "best" / EXAMPLES)
    assert found is not None
    assert found.trial == 3


def test_a_compressor_that_no_search_trained_has_no_examples(trained: Trained) -> None:
    stray = Compressor(trained.compressor.model)

    with pytest.raises(CompressorError, match="which trial and epoch"):
        make_examples(stray, validation_windows(trained.compressor), count=3, max_windows=6)


def test_pairs_of_several_lengths_have_examples_too(trained: Trained) -> None:
    compressor, settings = trained.compressor, trained.plan.settings
    if settings.rmb_only:
        pytest.skip("pairs have a target of their own")
    texts = ["the cat", "sees", "an old dog", "finds it", "a red house", "is near", "birds", "x"]
    parts = [compressor.tokenizer(text)["input_ids"] for text in texts]
    rows = row_tokens(
        [(context, [], target) for context, target in zip(parts[::2], parts[1::2], strict=True)],
        golds=[[target, "other"] for target in texts[1::2]],
    )
    windows = RowWindows(rows, np.arange(4), Cut(settings.cmp_len, settings.cmp_len, settings.seq_len))

    found = make_examples(compressor, windows, count=4, max_windows=8)

    pairs = {(example.context, example.target) for example in found.examples}
    assert pairs == set(zip(texts[::2], texts[1::2], strict=True))
    for example in found.examples:
        memory = compressor.compress(example.context)
        assert example.losses.memory == pytest.approx(compressor.loss(memory, example.target), rel=1e-4)
        written = compressor.generate(memory, do_sample=False, max_new_tokens=settings.seq_len)
        assert example.continuations.memory == written.strip().partition("\n")[0], "an answer, as long as it gets"
        assert example.golds == (example.target, "other") and example.prompt is None
        assert example.continuations.text is not None
