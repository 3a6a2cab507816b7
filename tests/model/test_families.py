from dataclasses import replace

import pytest
import torch

from cmp.model.batch import Batch, View
from cmp.model.compression import CompressionModel
from tests.model.families import FAMILIES, VOCABULARY, settings, tiny_backbone
from tests.model.naive import naive_full_context_nll, naive_kl, naive_loss, naive_no_context_nll


def full_batch(context: int = 9, target: int = 7) -> Batch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (4, context + target), generator=generator)
    return Batch(ids[:, :context], ids[:, context:])


def padded_batch() -> Batch:
    batch = full_batch()
    lengths, target_lengths = torch.tensor([9, 5, 1, 7]), torch.tensor([7, 2, 6, 1])
    context_mask = torch.arange(9) >= 9 - lengths[:, None]
    target_mask = torch.arange(7) < target_lengths[:, None]
    return Batch(batch.context_ids, batch.target_ids, context_mask, target_mask)


def prompted(batch: Batch, *, padded: bool) -> Batch:
    """The batch with prompts of 5 tokens; padded ones have 5, 0, 2 and 4."""
    ids = torch.randint(3, VOCABULARY, (4, 5), generator=torch.Generator().manual_seed(2))
    mask = torch.arange(5) >= 5 - torch.tensor([5, 0, 2, 4])[:, None] if padded else None
    return replace(batch, prompt_ids=ids, prompt_mask=mask)


def counts(batch: Batch) -> tuple[float, float]:
    target = batch.target_ids.numel() if batch.target_mask is None else int(batch.target_mask.sum())
    context = batch.context_ids.numel() if batch.context_mask is None else int(batch.context_mask.sum())
    return float(target), float(context)


def gradients(loss: torch.Tensor, compressor: CompressionModel) -> dict[str, torch.Tensor]:
    names, parameters = zip(*compressor.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def assert_same(ours: torch.Tensor, naive: torch.Tensor, name: str) -> None:
    assert naive.norm() > 0, f"{name} has no gradient, so nothing is compared"
    assert (ours - naive).norm() / naive.norm() <= 1e-5, name


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("cmp_layer", ["half", -1, -2, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_every_gradient_agree_with_the_naive_full_pass(
    family: str, cmp_layer: int | str, padded: bool
) -> None:
    batch = padded_batch() if padded else full_batch()
    backbone = tiny_backbone(family)
    compressor = CompressionModel(backbone, settings(cmp_layer=cmp_layer, sep_cmpr=True, rmb_task=True), seed=0)

    losses = compressor.losses(batch, *counts(batch))
    naive = naive_loss(backbone.model, compressor, batch)

    assert losses.total.item() == pytest.approx(naive.item(), rel=1e-5)
    ours, theirs = gradients(losses.total, compressor), gradients(naive, compressor)
    for name in ours:
        assert_same(ours[name], theirs[name], name)


SPLITS = {
    "kept": {"keep_len": 2},
    "pieces": {"piece_len": 4},  # of 9 tokens: 1 + 4 + 4
    "kept-pieces": {"keep_len": 1, "piece_len": 4},  # 4 + 4, and one as text
}


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_kept_tokens_and_pieces_agree_with_the_naive_full_pass(family: str, split: str, padded: bool) -> None:
    """Padded contexts have 9, 5, 1 and 7 tokens: whole pieces and whole contexts are missing from some rows."""
    batch = padded_batch() if padded else full_batch()
    backbone = tiny_backbone(family)
    config = settings(**SPLITS[split], rmb_task=True)
    compressor = CompressionModel(backbone, config, seed=0)
    target = counts(batch)[0]
    rows = [9, 5, 1, 7] if padded else [9] * 4
    rebuilt = sum(max(0, length - config.keep_len) for length in rows)

    losses = compressor.losses(batch, target, float(rebuilt))
    naive = naive_loss(backbone.model, compressor, batch)

    assert losses.total.item() == pytest.approx(naive.item(), rel=1e-5)
    ours, theirs = gradients(losses.total, compressor), gradients(naive, compressor)
    for name in ours:
        assert_same(ours[name], theirs[name], name)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"])
def test_the_first_vectors_are_a_memory_of_their_own(family: str) -> None:
    batch, backbone = padded_batch(), tiny_backbone(family)
    compressor = CompressionModel(backbone, settings(piece_len=5, nested=True), seed=0)

    losses = compressor.losses(batch, *counts(batch), View(n_vectors=2))
    naive = naive_loss(backbone.model, compressor, batch, n_vectors=2)

    assert losses.total.item() == pytest.approx(naive.item(), rel=1e-5)
    assert losses.total.item() != pytest.approx(compressor.losses(batch, *counts(batch)).total.item(), rel=1e-5)


PROMPTS = {
    "plain": {},
    "kept": {"keep_len": 2},
    "pieces": {"keep_len": 1, "piece_len": 4},
    "rebuilt": {"keep_len": 3, "rmb_task": True},
}


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("case", PROMPTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_read_after_the_memory_and_carry_no_loss(family: str, case: str, padded: bool) -> None:
    """One of the padded prompts is empty, and one context is shorter than the tokens that are kept of it."""
    batch = prompted(padded_batch() if padded else full_batch(), padded=padded)
    backbone = tiny_backbone(family)
    config = settings(**PROMPTS[case])
    compressor = CompressionModel(backbone, config, seed=0)
    rows = [9, 5, 1, 7] if padded else [9] * 4
    rebuilt = sum(max(0, length - config.keep_len) for length in rows)

    losses = compressor.losses(batch, counts(batch)[0], float(rebuilt))
    naive = naive_loss(backbone.model, compressor, batch)

    assert losses.total.item() == pytest.approx(naive.item(), rel=1e-5)
    ours, theirs = gradients(losses.total, compressor), gradients(naive, compressor)
    for name in ours:
        assert_same(ours[name], theirs[name], name)


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_bounds_and_teacher_read_the_prompt_too(family: str, padded: bool) -> None:
    batch = prompted(padded_batch() if padded else full_batch(), padded=padded)
    backbone = tiny_backbone(family)
    compressor = CompressionModel(backbone, settings(kl_scale=1.0, keep_len=2), seed=0)

    alone = backbone.score_no_context(batch).nll.sum(1).tolist()
    full = backbone.score_full_context(batch).nll.sum(1).tolist()
    losses = compressor.losses(batch, *counts(batch))

    assert alone == pytest.approx(naive_no_context_nll(backbone.model, batch, backbone.bos_id), rel=1e-4)
    assert full == pytest.approx(naive_full_context_nll(backbone.model, batch, backbone.bos_id), rel=1e-4)
    assert losses.kl_sum.item() == pytest.approx(naive_kl(backbone.model, compressor, batch).item(), rel=1e-4)
