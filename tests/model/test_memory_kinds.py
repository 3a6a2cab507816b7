import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from cmp.model.batch import Batch, View, padded_right, split
from cmp.model.compression import CompressionModel
from cmp.model.memory import stretch_weights
from tests.model.families import settings, tiny_backbone
from tests.model.test_families import assert_same, counts, full_batch, gradients, padded_batch

KINDS = {
    "hidden": {},
    "hidden-projected": {"proj_cmpr": True, "sep_cmpr": True},
    "hidden-mlp": {"proj_cmpr": True, "proj_hid_mult": 2.0},
    "hidden-lora": {"lora_rank": 2},
    "pooled": {"memory": "pooled", "proj_cmpr": True},
    "kv": {"memory": "kv"},
    "kv-lora": {"memory": "kv", "lora_rank": 2, "sep_cmpr": True},
    "hidden-kept": {"keep_len": 2},
    "kv-kept": {"memory": "kv", "keep_len": 2},
    "pooled-pieces": {"memory": "pooled", "piece_len": 4},
    "kv-pieces": {"memory": "kv", "piece_len": 4, "keep_len": 1, "lora_rank": 2},
    "hidden-recursive": {"piece_len": 4, "recursive": True, "lora_rank": 2},
    "kv-recursive": {"memory": "kv", "piece_len": 4, "recursive": True},
}


def started(compressor: CompressionModel) -> CompressionModel:
    """Every parameter moved off its start, so that zeros and identities hide nothing."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in compressor.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return compressor


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom", "opt"])
def test_padding_changes_nothing(family: str, kind: str) -> None:
    compressor = started(CompressionModel(tiny_backbone(family), settings(**KINDS[kind], cmp_len=9), seed=0))
    ids = full_batch().context_ids[:, :5]
    target = full_batch().target_ids
    junk = torch.full((4, 4), 7)
    mask = torch.cat([torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 5, dtype=torch.bool)], 1)
    bare, padded = Batch(ids, target), Batch(torch.cat([junk, ids], 1), target, mask)

    if "piece_len" not in KINDS[kind]:  # the padded context has a piece without any token, which is masked
        mine, theirs = compressor.compress(bare).vectors, compressor.compress(padded).vectors
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(compressor.score(bare).nll, compressor.score(padded).nll, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_trainable_gets_a_gradient_and_losses_agree_with_scores(kind: str) -> None:
    compressor = started(CompressionModel(tiny_backbone("llama"), settings(**KINDS[kind], rmb_task=True), seed=0))
    for batch in (full_batch(), padded_batch()):
        losses = compressor.losses(batch, *counts(batch))
        assert all(gradient.any() for gradient in gradients(losses.total, compressor).values())
        assert losses.lm_sum.item() == pytest.approx(compressor.score(batch).nll.sum().item(), rel=1e-5)
        rebuilt = compressor.score_reconstruction(batch).nll.sum().item()
        assert losses.rmb_sum.item() == pytest.approx(rebuilt, rel=1e-5)
        lengths = torch.full((4,), 9) if batch.context_mask is None else batch.context_mask.sum(1)
        compressed = (lengths - compressor.settings.keep_len).clamp(min=0).sum().item()
        assert (losses.lm_tokens.item(), losses.rmb_tokens.item()) == (counts(batch)[0], compressed)


@pytest.mark.parametrize("kind", KINDS)
def test_summing_the_shares_of_workers_gives_the_whole(kind: str) -> None:
    compressor = started(CompressionModel(tiny_backbone("gpt2"), settings(**KINDS[kind], rmb_task=True), seed=0))
    batch = padded_batch()
    whole = compressor.losses(batch, *counts(batch)).total
    assert batch.context_mask is not None and batch.target_mask is not None
    halves = [
        Batch(batch.context_ids[rows], batch.target_ids[rows], batch.context_mask[rows], batch.target_mask[rows])
        for rows in (slice(0, 1), slice(1, 4))
    ]
    parts = sum(compressor.losses(half, *counts(batch)).total for half in halves)
    assert isinstance(parts, torch.Tensor)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize("sep_cmpr", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gpt_neox", "qwen3"])
def test_key_value_memory_is_one_pass_in_which_the_target_does_not_see_the_context(family: str, sep_cmpr: bool) -> None:
    """The naive way: [BOS, context, separator, compression, FWD, target] at once, with a mask cut by hand."""
    backbone, batch = tiny_backbone(family), full_batch()
    compressor = CompressionModel(backbone, settings(memory="kv", sep_cmpr=sep_cmpr), seed=0)
    learned = compressor.memory.compression
    added = [learned.separator()] if sep_cmpr else []
    added += [learned.tokens()]
    bos = torch.full((4, 1), backbone.bos_id)
    parts = [
        backbone.embed(torch.cat([bos, batch.context_ids], 1)),
        *(part.expand(4, -1, -1) for part in added),
        compressor.fwd_token.expand(4, -1, -1),
        backbone.embed(batch.target_ids[:, :-1]),
    ]
    total, unseen = sum(part.shape[1] for part in parts), 1 + 9 + sep_cmpr
    mask = torch.ones(total, total, dtype=torch.bool).tril()
    mask[unseen + 3 :, :unseen] = False
    logits = backbone.model(
        inputs_embeds=torch.cat(parts, 1),
        attention_mask=mask.expand(4, 1, total, total),
        position_ids=torch.arange(total).expand(4, -1),
        use_cache=False,
    ).logits[:, -7:]
    naive = functional.cross_entropy(logits.flatten(0, 1), batch.target_ids.flatten())

    losses = compressor.losses(batch, *counts(batch))

    assert losses.total.item() == pytest.approx(naive.item(), rel=1e-5)
    ours, theirs = gradients(losses.total, compressor), gradients(naive, compressor)
    for name in ours:
        assert_same(ours[name], theirs[name], name)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_low_rank_updates_act_at_compression_positions_only(family: str) -> None:
    """The naive way: one pass over everything, with hooks that add the update at the last positions."""
    backbone, batch = tiny_backbone(family), full_batch()
    compressor = started(CompressionModel(backbone, settings(lora_rank=2, cmp_layer=-2), seed=0))
    lora = compressor.memory.compression.lora

    def add_at_the_end(linear: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        down, up = lora._deltas[linear]
        update = inputs[0] @ down.T @ up.T / down.shape[1] ** 0.5
        return output + torch.cat([torch.zeros_like(update[:, :-3]), update[:, -3:]], 1)

    handles = [linear.register_forward_hook(add_at_the_end) for linear in lora._deltas]
    embeds = backbone.embed(torch.cat([torch.full((4, 1), backbone.bos_id), batch.context_ids], 1))
    tokens = compressor.memory.compression.tokens().expand(4, -1, -1)
    states = backbone._blocks(3)(inputs_embeds=torch.cat([embeds, tokens], 1), use_cache=False).last_hidden_state
    for handle in handles:
        handle.remove()
    naive = compressor.memory.projection(states[:, -3:])

    torch.testing.assert_close(compressor.compress(batch).vectors, naive, rtol=1e-5, atol=1e-5)


def test_low_rank_updates_are_inert_outside_the_compression_pass() -> None:
    backbone, batch = tiny_backbone("llama"), full_batch()
    before = backbone.score_full_context(batch).nll
    compressor = started(CompressionModel(backbone, settings(lora_rank=2, memory="kv"), seed=0))
    compressor.compress(batch)
    assert torch.equal(backbone.score_full_context(batch).nll, before)
    other = CompressionModel(backbone, settings(), seed=0)
    expected = CompressionModel(tiny_backbone("llama"), settings(), seed=0)
    assert torch.equal(other.compress(batch).vectors, expected.compress(batch).vectors)


def test_kl_is_that_of_the_uncompressed_context() -> None:
    backbone = tiny_backbone("llama")
    compressor = CompressionModel(backbone, settings(kl_scale=0.5), seed=0)
    plain = CompressionModel(backbone, settings(), seed=0)
    for batch in (full_batch(), padded_batch()):
        losses = compressor.losses(batch, *counts(batch))
        (states,) = compressor.decode(compressor.compress(batch), compressor.tasks(batch, split(batch, View())))
        student = torch.log_softmax(backbone.head.module(states), -1)
        kl_sum = 0.0
        for row in range(4):
            context = (
                batch.context_ids[row]
                if batch.context_mask is None
                else batch.context_ids[row][batch.context_mask[row]]
            )
            n_kept = 7 if batch.target_mask is None else int(batch.target_mask[row].sum())
            ids = torch.cat([torch.tensor([backbone.bos_id]), context, batch.target_ids[row]])
            teacher = torch.log_softmax(backbone.model(ids[None]).logits[0, -8:-1], -1)[:n_kept]
            kl_sum += functional.kl_div(student[row, :n_kept], teacher, log_target=True, reduction="sum").item()
        assert losses.kl_sum.item() == pytest.approx(kl_sum, rel=1e-4)
        lm = plain.losses(batch, *counts(batch)).total.item()
        assert losses.total.item() == pytest.approx(lm + 0.5 * kl_sum / counts(batch)[0], rel=1e-4)


def test_pooled_memory_is_the_mean_of_stretches() -> None:
    """Five real tokens in two stretches: 0..2 and 2..4 (the middle one counts in both), BOS and padding in none."""
    mask = torch.tensor([[False, True, True, True, True, True, True]])
    weights = stretch_weights(7, 2, mask, torch.device("cpu"))
    third = 1 / 3
    expected = torch.tensor([[[0, 0, third, third, third, 0, 0], [0, 0, 0, 0, third, third, third]]])
    torch.testing.assert_close(weights, expected)
    fewer_tokens_than_stretches = stretch_weights(3, 4, None, torch.device("cpu"))
    torch.testing.assert_close(fewer_tokens_than_stretches.sum(-1), torch.ones(1, 4))


def test_reconstruction_alone_predicts_the_context_and_counts_as_the_main_task() -> None:
    backbone, context = tiny_backbone("gpt2"), padded_batch()
    ids, mask = padded_right((context.context_ids, context.context_mask))
    batch = Batch(context.context_ids, ids, context.context_mask, mask)
    compressor = CompressionModel(backbone, settings(rmb_only=True, seq_len=9, kl_scale=0.1), seed=0)
    losses = compressor.losses(batch, 22.0, 22.0)
    assert losses.lm_tokens.item() == 22
    assert torch.equal(compressor.score(batch).nll, compressor.score_reconstruction(batch).nll)
    assert losses.lm_sum.item() == pytest.approx(compressor.score(batch).nll.sum().item(), rel=1e-5)
    assert {name.split(".")[0] for name, _ in compressor.named_parameters()} == {"memory", "rmb"}


def test_memory_starts_at_the_scale_of_embeddings() -> None:
    backbone = tiny_backbone("llama")
    for changes in (*KINDS.values(), {"proj_cmpr": True, "cmp_layer": -1}):
        if changes.get("memory") != "kv":
            memory = CompressionModel(backbone, settings(**changes), seed=0).compress(full_batch()).vectors
            rms = memory.square().mean(-1).sqrt()
            torch.testing.assert_close(rms, torch.full_like(rms, backbone.embedding_rms), rtol=0.01, atol=0)


def test_scores_without_reconstruction_say_what_is_missing() -> None:
    compressor = CompressionModel(tiny_backbone("llama"), settings(), seed=0)
    with pytest.raises(ValueError, match="rmb_task or rmb_only"):
        compressor.score_reconstruction(full_batch())
    assert math.isfinite(compressor.score(full_batch()).nll.sum().item())
