import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from cmp.model.backbone import Backbone
from cmp.model.batch import Batch
from cmp.model.caches import cache_pairs
from cmp.model.compression import CompressionModel
from cmp.model.loading import CPU_BFLOAT16_WIDTH, LoadOptions, load_tokenizer, model_facts, resolve_dtype
from cmp.model.surgery import UnsupportedModelError
from tests.model.families import NoTokenizer, settings, tiny_backbone, tiny_model
from tests.model.test_families import counts, full_batch, padded_batch


def test_weights_are_bit_identical_after_training() -> None:
    backbone, batch = tiny_backbone("gpt2"), full_batch()
    before = copy.deepcopy(backbone.model.state_dict())
    compressor = CompressionModel(backbone, settings(lora_rank=2, proj_cmpr=True, rmb_task=True, kl_scale=0.1), seed=0)
    optimizer = torch.optim.AdamW(compressor.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        total = compressor.losses(batch, *counts(batch)).total
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
    assert losses[-1] < losses[0] - 0.1
    after = backbone.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not backbone.model.training
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())


def test_only_the_trainables_are_in_the_state() -> None:
    compressor = CompressionModel(tiny_backbone("gpt2"), settings(sep_cmpr=True, proj_cmpr=True, rmb_task=True), seed=0)
    assert set(compressor.state_dict()) == {
        "fwd.weight",
        "rmb.weight",
        "memory.compression.tokens.weight",
        "memory.compression.separator.weight",
        "memory.projection.gain",
        "memory.projection.linear",
        "memory.projection.bias",
    }
    assert all(parameter.dtype == torch.float32 for parameter in compressor.parameters())


def test_the_seed_alone_decides_how_trainables_start() -> None:
    backbone = tiny_backbone("llama")
    torch.manual_seed(1)
    first = CompressionModel(backbone, settings(lora_rank=2), seed=7).state_dict()
    torch.manual_seed(2)
    again = CompressionModel(backbone, settings(lora_rank=2), seed=7).state_dict()
    other = CompressionModel(backbone, settings(lora_rank=2), seed=8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["memory.compression.tokens.weight"], other["memory.compression.tokens.weight"])


@pytest.mark.parametrize("family", ["gpt2", "bloom", "llama", "opt"])
def test_bounds_are_the_losses_that_the_model_itself_reports(family: str) -> None:
    backbone = tiny_backbone(family)
    for batch in (full_batch(), padded_batch()):
        alone, full = backbone.score_no_context(batch), backbone.score_full_context(batch)
        for row in range(4):
            target = (
                batch.target_ids[row] if batch.target_mask is None else batch.target_ids[row][batch.target_mask[row]]
            )
            context = (
                batch.context_ids[row]
                if batch.context_mask is None
                else batch.context_ids[row][batch.context_mask[row]]
            )
            for scores, before in ((alone, context[:0]), (full, context)):
                ids = torch.cat([torch.tensor([backbone.bos_id]), before, target])
                logits = backbone.model(ids[None]).logits[0, -len(target) - 1 : -1]
                expected = functional.cross_entropy(logits, target, reduction="none")
                torch.testing.assert_close(scores.nll[row, : len(target)], expected, rtol=1e-4, atol=1e-5)
                assert scores.correct[row, : len(target)].tolist() == (logits.argmax(-1) == target).tolist()
                assert not scores.nll[row, len(target) :].any()
                assert not scores.top5[row, len(target) :].any()


def test_a_fingerprint_knows_its_weights_in_any_precision() -> None:
    original = tiny_backbone("llama").identity.fingerprint
    for dtype in (torch.bfloat16, torch.float16):
        assert Backbone(tiny_model("llama").to(dtype), NoTokenizer(), "x").identity.fingerprint == original
    changed = tiny_model("llama")
    with torch.no_grad():
        changed.get_submodule("model.layers.2.mlp.up_proj").weight.mul_(-1)  # type: ignore[operator]
    assert Backbone(changed, NoTokenizer(), "x").identity.fingerprint != original
    assert tiny_backbone("mistral").identity.fingerprint != original


def test_a_saved_model_loads_by_folder(tiny_model_folder: Path) -> None:
    backbone = Backbone.load(str(tiny_model_folder))
    facts = model_facts(str(tiny_model_folder))
    assert (facts.n_layers, facts.max_positions, facts.vocab_size) == (2, 128, 260)
    assert (backbone.n_layers, backbone.max_positions, backbone.vocab_size, backbone.hidden_size) == (2, 128, 260, 32)
    assert backbone.bos_id == load_tokenizer(str(tiny_model_folder)).bos_token_id
    assert backbone.identity.name == str(tiny_model_folder)
    assert backbone.identity.revision is None
    assert Backbone.load(str(tiny_model_folder), LoadOptions("bfloat16")).dtype == torch.bfloat16


def test_bfloat16_backbones_train_float32_trainables() -> None:
    backbone = Backbone(tiny_model("llama").bfloat16(), NoTokenizer(), "x")
    exact = CompressionModel(tiny_backbone("llama"), settings(proj_cmpr=True, lora_rank=2), seed=0)
    compressor = CompressionModel(backbone, settings(proj_cmpr=True, lora_rank=2), seed=0)
    batch = full_batch()
    losses = compressor.losses(batch, *counts(batch))
    losses.total.backward()
    assert losses.total.item() == pytest.approx(exact.losses(batch, *counts(batch)).total.item(), rel=0.02)
    assert compressor.compress(batch).vectors.dtype == torch.bfloat16
    assert all(
        parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in compressor.parameters()
    )


def test_auto_is_bfloat16_on_a_cpu_that_computes_in_it_where_the_model_is_wide(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu, wide, narrow = torch.device("cpu"), CPU_BFLOAT16_WIDTH, CPU_BFLOAT16_WIDTH - 1
    for able in ({"avx512_bf16": True, "amx_bf16": False}, {"amx_bf16": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert resolve_dtype("auto", cpu, wide) == torch.bfloat16
        assert resolve_dtype("auto", cpu, narrow) == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "avx2": True})
    assert resolve_dtype("auto", cpu, wide) == torch.float32
    assert resolve_dtype("float16", cpu, wide) == torch.float16


def test_embedding_scale_is_that_of_what_the_blocks_are_given() -> None:
    """Gemma multiplies its embeddings by sqrt(width); the compression tokens have to start where it does."""
    backbone = tiny_backbone("gemma")
    given = backbone.model.get_input_embeddings()(torch.arange(97)).square().mean().sqrt().item()
    assert backbone.embedding_rms == pytest.approx(given, rel=1e-4)


def test_a_model_whose_head_is_unknown_is_refused() -> None:
    model = tiny_model("llama")

    class Doubled(type(model)):  # type: ignore[misc]
        def forward(self, *args: object, **kwargs: object) -> object:
            output = super().forward(*args, **kwargs)
            output.logits = 2 * output.logits
            return output

    model.__class__ = Doubled
    with pytest.raises(UnsupportedModelError, match="computes its logits"):
        Backbone(model, NoTokenizer(), "x")


def test_a_model_without_blocks_is_refused() -> None:
    model = tiny_model("llama")
    model.model.layers = nn.ModuleList(list(model.model.layers)[:3])  # type: ignore[union-attr,operator]
    with pytest.raises(UnsupportedModelError, match="no list of 4 blocks"):
        Backbone(model, NoTokenizer(), "x")


def test_a_single_target_token_can_be_scored() -> None:
    backbone, batch = tiny_backbone("gpt2"), full_batch()
    one = Batch(batch.context_ids, batch.target_ids[:, :1])
    full = backbone.score_full_context(batch).nll[:, :1]
    torch.testing.assert_close(backbone.score_full_context(one).nll, full, rtol=1e-5, atol=1e-6)
    compressor = CompressionModel(backbone, settings(kl_scale=1.0), seed=0)
    assert compressor.losses(one, 4.0, 1.0).total.isfinite()


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"])
def test_a_prefill_without_states_ends_at_the_last_keys_and_values(family: str) -> None:
    backbone, batch = tiny_backbone(family), padded_batch()
    last_block = backbone.block_modules(2)[-1]
    ended = []
    handle = last_block.register_forward_hook(lambda *_: ended.append(True))
    try:
        prefix = backbone.prefill(batch.context_ids, batch.context_mask, 2)
        assert not ended and prefix.states is None
        whole = backbone.prefill(batch.context_ids, batch.context_mask, 2, with_states=True)
    finally:
        handle.remove()
    assert ended and whole.known_states().shape[:2] == (whole.batch_size, whole.length)
    for ours, theirs in zip(cache_pairs(prefix.cache), cache_pairs(whole.cache), strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "mistral-sliding", "bloom", "opt"])
def test_a_pass_that_nothing_goes_on_from_never_looks_for_packed_texts(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That look waits for a GPU at every pass, and in a recorded graph it costs the fused attention."""
    import transformers.masking_utils as masks

    backbone = tiny_backbone(family)
    embeds = backbone.embed(torch.arange(3, 15).view(2, 6))
    with torch.no_grad():
        states = backbone._stack(inputs_embeds=embeds, use_cache=False).last_hidden_state
    monkeypatch.setattr(masks, "find_packed_sequence_indices", lambda _: pytest.fail("it looked"))
    made: list[object] = []
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        _noting(torch.nn.functional.scaled_dot_product_attention, made),
    )
    torch.testing.assert_close(backbone.run(embeds), states)
    if family in ("llama", "gpt2", "opt"):
        assert made == [None] * 4, "no attention was given an explicit mask"


def _noting(attention: Any, masks: list[object]) -> Any:
    def noted(*args: Any, attn_mask: object = None, **options: Any) -> torch.Tensor:
        masks.append(attn_mask)
        return attention(*args, attn_mask=attn_mask, **options)

    return noted
