"""What is scored after an epoch, beside its controls: swapped memories, smaller memories, the text control's curve."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from cmp.model.backbone import Backbone
from cmp.model.batch import Batch, TokenScores, View, split
from cmp.model.compression import CompressionModel
from cmp.model.steps import ScoreStep
from cmp.space.settings import TrialSettings, Window
from cmp.train.data.windows import Cut, TextWindows
from cmp.train.evaluation import strangers
from cmp.train.session import LocalSession, TrialPlan
from cmp.train.sync import Workers
from cmp.train.trial import run_trial
from cmp.train.validation import validate_compressor, validate_control
from cmp.train.views import curve_lengths, prefix_sizes, training_view
from tests.model.families import VOCABULARY, settings, tiny_backbone


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone("llama")


def windows_of(lengths: list[int]) -> TextWindows:
    """Windows of 9 + 7 tokens in documents of random tokens."""
    tokens = np.random.default_rng(0).integers(3, VOCABULARY, sum(lengths)).astype(np.uint16)
    counts, starts = np.array(lengths) // 16, np.cumsum(lengths) - lengths
    return TextWindows(tokens, starts, counts, 16, Cut(9, 9, 7))


def workers_of(config: TrialSettings) -> Workers:
    return Workers(LocalSession(), config)


def test_every_row_meets_a_stranger_where_there_is_one() -> None:
    documents = np.array([0, 0, 1, 1, 2, 2])
    order = strangers(documents)

    assert sorted(order) == list(range(6))
    assert (documents[order] != documents).all()
    assert strangers(np.array([5])).tolist() == [0]
    crowd = np.array([0, 0, 0, 1])
    assert (crowd[strangers(crowd)] != crowd).sum() == 2, "one document has most rows: as many as can be"


def test_the_swapped_loss_is_that_of_each_window_with_anothers_memory(backbone: Backbone) -> None:
    config = settings(keep_len=2)
    model = CompressionModel(backbone, config, seed=0)
    windows = windows_of([40, 40, 20])  # two windows, two windows, one
    batches = [np.array([0, 1, 4]), np.array([2])]

    found = validate_compressor(ScoreStep(model), windows, batches, workers_of(config))

    batch = windows.batch(batches[0])
    others = windows.batch(batches[0][strangers(np.array([0, 0, 2]))])
    assert strangers(np.array([0, 0, 2])).tolist() == [2, 0, 1]  # row 1 would read its own document
    contexts = torch.cat([others.context_ids[:, :-2], batch.context_ids[:, -2:]], dim=1)
    swapped = model.score(Batch(contexts, batch.target_ids)).nll[[0, 2]].mean().item()
    expected = found.target.loss + swapped - model.score(batch).nll[[0, 2]].mean().item()
    assert found.swapped is not None
    assert found.swapped.tokens == 14
    assert found.swapped.loss == pytest.approx(expected, rel=1e-5)
    assert found.target.tokens == 28


def test_one_batch_in_five_is_read_with_other_memories(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more decoder pass for all of them was half as much validation time again, and more."""
    config = settings()
    model, windows = CompressionModel(backbone, config, seed=0), windows_of([20] * 24)
    batches = [np.array([2 * number, 2 * number + 1]) for number in range(12)]
    swaps, score_variants = [], model.score_variants

    def counted(batch: Batch, swap: torch.Tensor | None, sizes: list[int]) -> dict[str, TokenScores]:
        swaps.append(swap is not None)
        return score_variants(batch, swap, sizes)

    monkeypatch.setattr(model, "score_variants", counted)
    found = validate_compressor(ScoreStep(model), windows, batches, workers_of(config))

    assert swaps == [number in (0, 5, 10) for number in range(12)]
    assert found.swapped is not None and (found.swapped.tokens, found.target.tokens) == (3 * 14, 12 * 14)
    read = torch.cat([windows.batch(batches[number]).context_ids for number in (0, 5, 10)])
    targets = torch.cat([windows.batch(batches[number]).target_ids for number in (0, 5, 10)])
    order = torch.tensor([1, 0, 3, 2, 5, 4])
    change = model.score(Batch(read[order], targets)).nll.mean() - model.score(Batch(read, targets)).nll.mean()
    assert found.swapped.loss == pytest.approx(found.target.loss + change.item(), rel=1e-5)


def test_one_window_alone_has_no_stranger(backbone: Backbone) -> None:
    config = settings()
    model = CompressionModel(backbone, config, seed=0)

    assert (
        validate_compressor(ScoreStep(model), windows_of([40]), [np.array([0, 1])], workers_of(config)).swapped is None
    )


def test_a_nested_memory_is_scored_at_every_power_of_two(backbone: Backbone) -> None:
    config = settings(nested=True, n_cmps=5)
    model = CompressionModel(backbone, config, seed=0)
    windows, batches = windows_of([40, 40]), [np.arange(4)]

    found = validate_compressor(ScoreStep(model), windows, batches, workers_of(config))

    batch = windows.batch(batches[0])
    assert found.nested == {
        str(size): pytest.approx(model.score(batch, View(n_vectors=size)).nll.mean().item(), rel=1e-5)
        for size in (1, 2, 4)
    }
    assert (
        validate_compressor(
            ScoreStep(CompressionModel(backbone, settings(), 0)), windows, batches, workers_of(config)
        ).nested
        == {}
    )


@pytest.mark.parametrize("memory", ["hidden", "kv"])
def test_a_text_control_reads_the_last_tokens_after_an_empty_memory(backbone: Backbone, memory: str) -> None:
    config = settings(memory=memory)
    model = CompressionModel(backbone, config, seed=0)
    windows, batches = windows_of([40, 40]), [np.arange(4)]

    curve = validate_control(ScoreStep(model), windows, batches, workers_of(config), whole_curve=True).text_curve

    assert list(curve) == ["0", "1", "2", "4", "8", "9"]
    batch = windows.batch(batches[0])
    empty = model.compress(Batch(batch.context_ids[:, :0], batch.target_ids), View())
    assert empty.vectors.shape[:2] == (4, 3)
    assert torch.equal(empty.vectors[0], empty.vectors[3]), "it cannot carry anything"
    (state,) = model.decode(empty, model.tasks(batch, split(batch, View())))
    alone = backbone.scores(state, batch.target_ids, None).nll.mean().item()
    assert curve["0"] == pytest.approx(alone, rel=1e-5)
    assert len({round(loss, 6) for loss in curve.values()}) == 6


def test_views_follow_from_seed_and_loop_alone() -> None:
    control = [training_view(settings(cmp_len=64), "control", loop) for loop in range(2000)]
    again = [training_view(settings(cmp_len=64), "control", loop) for loop in range(2000)]

    assert control == again
    assert not any(view.compresses for view in control)
    counts = Counter(view.kept for view in control)
    assert counts[0] / 2000 == pytest.approx(0.2, abs=0.03)
    assert counts[64] / 2000 == pytest.approx(0.1, abs=0.03)
    between = sorted(view.kept for view in control if 0 < view.kept < 64)
    assert math.log(between[len(between) // 2]) == pytest.approx(math.log(64) / 2, abs=0.35), (
        "even on a logarithmic scale"
    )

    nested = Counter(training_view(settings(nested=True, n_cmps=5), "search", loop).n_vectors for loop in range(400))
    assert set(nested) == {1, 2, 4, 5}
    assert min(nested.values()) > 60
    assert training_view(settings(keep_len=3), "search", 7) == View(kept=3)


def test_curves_are_measured_from_no_token_to_all() -> None:
    assert curve_lengths(100) == [0, 1, 2, 4, 8, 16, 32, 64, 100]
    assert prefix_sizes(8) == [1, 2, 4]
    assert prefix_sizes(1) == []


def test_a_text_control_is_trained_like_a_trial_and_reports_its_curve_at_the_end(
    tiny_model_folder: Path, tiny_text_file: Path, tmp_path: Path
) -> None:
    config = TrialSettings(
        model_string=str(tiny_model_folder), dataset=str(tiny_text_file), data_root=str(tmp_path), n_data_procs=1,
        torch_dtype="float32", cmp_len=24, seq_len=8, n_cmps=2, kl_scale=0.5, batch_size=4, n_train_loops=6,
        n_epochs=2, val_batch_size=8, max_val_loops=3,
    )  # fmt: skip
    session = LocalSession()

    outcome = run_trial(TrialPlan(-1, config, Window(24, 8), tmp_path / "trials" / "text", role="control"), session)

    assert outcome.status == "finished"
    first, last = session.reports
    assert (first.text_curve, first.swapped_loss) == (None, None)
    assert last.text_curve is not None
    assert list(last.text_curve) == ["0", "1", "2", "4", "8", "16", "24"]
    assert last.val_loss == last.text_curve["0"]
    assert first.plain_curve is not None
    assert first.plain_curve["0"] == first.no_context_loss
    assert first.plain_curve["24"] == pytest.approx(first.full_context_loss)
    assert last.plain_curve is None
