"""A search's compressors on its test documents: the same scorers, the same tokens, every control beside them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from cmp.model.api import Compressor
from cmp.model.batch import Batch, View
from cmp.results.scores import Candidate, SplitScores
from cmp.space.settings import TrialSettings, Window
from cmp.train.data import WindowSet, open_data
from cmp.train.evaluation import validation_batches
from cmp.train.scoring import KINDS, bounds_way, memory_way, score_ways, target_kinds
from cmp.train.session import LocalSession, TrialPlan
from cmp.train.testing import score_candidates
from cmp.train.trial import run_trial


@dataclass
class Searched:
    """Two trials and a control of one search, and their scores."""

    plans: dict[int, TrialPlan]
    scores: SplitScores

    def compressor(self, number: int) -> Compressor:
        return Compressor.from_pretrained(self.plans[number].folder / "best", device="cpu")


@pytest.fixture(scope="module")
def searched(tiny_model_folder: Path, tiny_text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    root = tmp_path_factory.mktemp("search")
    base = {
        "model_string": str(tiny_model_folder), "dataset": str(tiny_text_file), "data_root": str(root / "data"),
        "torch_dtype": "float32", "seq_len": 8, "batch_size": 4, "n_train_loops": 4, "n_epochs": 1, "n_data_procs": 1,
        "val_batch_size": 8, "max_val_loops": 3, "lr": 0.02,
    }  # fmt: skip
    nested = TrialSettings(**base, cmp_len=24, n_cmps=4, nested=True)
    kept = TrialSettings(**base, cmp_len=16, n_cmps=2, keep_len=3)
    control = TrialSettings(**base, cmp_len=24, n_cmps=4)
    trials, window = root / "trials", Window(24, 8)
    plans = {
        0: TrialPlan(0, nested, window, trials / "0000"),
        1: TrialPlan(1, kept, window, trials / "0001"),
        -1: TrialPlan(-1, control, window, trials / "text", role="control"),
    }
    for plan in plans.values():
        assert run_trial(plan, LocalSession()).status == "finished"
    first, second = Candidate(0, 1, 4, 0), Candidate(1, 1, 2, 3)
    places = [(first, str(plans[0].folder / "best")), (second, str(plans[1].folder / "best"))]
    places.append((Candidate(0, 1, 2, 0), str(plans[0].folder / "best")))
    text = str(plans[-1].folder / "best")
    return Searched(plans, score_candidates(places, text, runner_up=second, device="cpu"))


def scored_batch(windows: WindowSet) -> Batch:
    """The windows that are scored, of three batches of eight, as one."""
    return windows.batch(np.concatenate(validation_batches(windows, 8, 3)))


def test_every_candidate_is_scored_on_the_same_test_tokens_as_its_trial_reads_them(searched: Searched) -> None:
    scores = searched.scores

    for found in scores.compressors:
        compressor = searched.compressor(found.candidate.trial)
        windows = open_data(compressor.settings, Window(24, 8), tokenizer=compressor.tokenizer).test
        batch = scored_batch(windows)
        size = found.candidate.vectors
        view = View(kept=compressor.settings.keep_len, n_vectors=size if size < compressor.settings.n_cmps else None)
        assert scores.windows == len(batch.target_ids)
        assert found.loss.value == pytest.approx(compressor.model.score(batch, view).nll.mean().item(), rel=1e-5)
    assert scores.tokens == 8 * scores.windows
    assert [found.candidate.positions for found in scores.compressors] == [4, 5, 2]


def test_controls_stand_beside_whole_memories(searched: Searched) -> None:
    whole, other, part = searched.scores.compressors

    assert whole.swapped_loss is not None and whole.mean_loss is not None
    assert other.swapped_loss is not None
    assert part.swapped_loss is None
    assert searched.scores.difference is not None
    assert searched.scores.difference.value == pytest.approx(whole.loss.value - other.loss.value)


def test_the_text_curve_is_that_of_the_control_on_the_same_windows(searched: Searched) -> None:
    control = searched.compressor(-1)
    windows = open_data(control.settings, Window(24, 8), tokenizer=control.tokenizer).test
    batch = scored_batch(windows)

    assert searched.scores.trained
    assert list(searched.scores.text_curve) == ["0", "1", "2", "4", "8", "16", "24"]
    expected = control.model.score(batch, View(kept=4, compresses=False)).nll.mean().item()
    assert searched.scores.text_curve["4"] == pytest.approx(expected, rel=1e-5)
    plain = control.backbone.score_last_context(batch, 4).nll.mean().item()
    assert searched.scores.plain_curve["4"] == pytest.approx(plain, rel=1e-5)


def test_without_a_control_the_bare_models_curve_is_used(searched: Searched) -> None:
    place = (Candidate(1, 1, 2, 3), str(searched.plans[1].folder / "best"))

    scores = score_candidates([place], None, split="validation", device="cpu")

    assert not scores.trained
    assert scores.split == "validation"
    assert list(scores.text_curve) == ["0", "1", "2", "4", "5", "8", "16"], "and at the price of the best, five"
    assert scores.compressors[0].text_loss == pytest.approx(scores.text_curve["5"])


def test_what_is_lost_is_told_by_kind_of_token_and_what_it_costs(searched: Searched) -> None:
    scores = searched.scores

    assert set(scores.kinds) == set(KINDS)
    assert list(scores.kinds["first token"]) == [
        "tokens", "no context", "memory", "text at equal positions", "full context",
    ]  # fmt: skip
    assert scores.kinds["first token"]["tokens"] == scores.windows
    seen, unseen = (scores.kinds[kind] for kind in KINDS[:2])
    both = sum(row["memory"] * row["tokens"] for row in (seen, unseen) if row["memory"])  # type: ignore[operator]
    assert both / scores.tokens == pytest.approx(scores.compressors[0].loss.value, rel=1e-5)
    # GPT-2 of two layers and width 32 in float32: a token's keys and values are 2 x 2 x 32 x 4 bytes.
    assert scores.costs["context_bytes"] == 25 * 512
    assert scores.costs["memory_bytes"] == 4 * 32 * 4


def test_kinds_of_target_tokens_add_up_to_all(searched: Searched) -> None:
    compressor = searched.compressor(1)
    windows = open_data(compressor.settings, Window(24, 8), tokenizer=compressor.tokenizer).test
    ways = [bounds_way(compressor.backbone, [4]), memory_way(compressor.model)]

    *_, sums = score_ways(ways, windows, [np.arange(len(windows))], torch.device("cpu"))

    for way in ("no_context", "memory", "swapped", "mean", "plain 4"):
        nll, tokens = sums[way].by_document.sum(1)
        for one, other in (KINDS[:2], KINDS[2:]):
            assert sums[way].kinds[one][0] + sums[way].kinds[other][0] == pytest.approx(nll, rel=1e-5)
            assert sums[way].kinds[one][1] + sums[way].kinds[other][1] == tokens


def test_a_target_token_is_seen_where_its_context_has_it() -> None:
    context, target = torch.tensor([[0, 5, 6], [1, 2, 3]]), torch.tensor([[5, 0, 9], [3, 5, 1]])
    mask = torch.tensor([[False, True, True], [True, True, True]])

    kinds = target_kinds(Batch(context, target, mask))

    assert kinds["in the context"].tolist() == [[True, False, False], [True, False, True]], "padding is no token"
    assert kinds["first token"].tolist() == [[True, False, False], [True, False, False]]
