from pathlib import Path
from typing import Any

import pytest
import torch

from cmp.model.backbone import Backbone
from cmp.model.caches import cache_pairs
from cmp.model.compression import CompressionModel
from cmp.model.loading import LoadOptions
from tests.model.families import settings, tiny_backbone, tiny_model
from tests.model.test_families import counts, full_batch, gradients, padded_batch

MAPS: dict[str, tuple[str, dict[str, str]]] = {
    "llama": (
        "model",
        {"embed_tokens": "cpu", "layers.0": "cpu", "layers.1": "disk", "layers.2": "cpu", "layers.3": "disk"},
    ),
    "gpt2": ("transformer", {"wte": "cpu", "wpe": "cpu", "h.0": "disk", "h.1": "cpu", "h.2": "disk", "h.3": "cpu"}),
}
LAST = {
    "llama": {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"},
    "gpt2": {"transformer.ln_f": "cpu", "lm_head": "cpu"},
}
KINDS: dict[str, dict[str, Any]] = {
    "hidden": {"proj_cmpr": True, "rmb_task": True},
    "last": {"cmp_layer": -1},
    "kv-lora-kl": {"memory": "kv", "lora_rank": 2, "kl_scale": 0.3},
    "kv-recomputed": {"memory": "kv", "lora_rank": 2, "gradient_checkpointing": True},
}


class _Tokenizer:
    bos_token_id = 1


def offloaded(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **extra: str) -> Backbone:
    tiny_model(family).save_pretrained(tmp_path / "model")
    monkeypatch.setattr("cmp.model.backbone.load_tokenizer", lambda _, **options: _Tokenizer())
    prefix, parts = MAPS[family]
    device_map = {f"{prefix}.{name}": device for name, device in parts.items()} | LAST[family] | extra
    options = LoadOptions(device_map=device_map, offload_folder=tmp_path / "offload")
    return Backbone.load(str(tmp_path / "model"), options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", MAPS)
def test_offloaded_blocks_give_the_same_losses_and_gradients(
    family: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread = CompressionModel(offloaded(family, tmp_path, monkeypatch), settings(**KINDS[kind]), seed=0)
    whole = CompressionModel(tiny_backbone(family), settings(**KINDS[kind]), seed=0)
    assert {p.device.type for p in spread.backbone.model.parameters()} == {"cpu", "meta"}
    for batch in (full_batch(), padded_batch()):
        ours, theirs = spread.losses(batch, *counts(batch)), whole.losses(batch, *counts(batch))
        assert ours.total.item() == pytest.approx(theirs.total.item(), rel=1e-5)
        expected = gradients(theirs.total, whole)
        for name, gradient in gradients(ours.total, spread).items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(spread.score(batch).nll, whole.score(batch).nll, rtol=1e-4, atol=1e-5)
    assert {p.device.type for p in spread.backbone.model.parameters()} == {"cpu", "meta"}


def test_an_offloaded_head_is_brought_in_for_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spread = CompressionModel(offloaded("llama", tmp_path, monkeypatch, lm_head="disk"), settings(), seed=0)
    whole = CompressionModel(tiny_backbone("llama"), settings(), seed=0)
    assert spread.backbone.head.module.weight.device.type == "meta"  # type: ignore[union-attr]
    batch = full_batch()
    expected = whole.losses(batch, *counts(batch)).total.item()
    assert spread.losses(batch, *counts(batch)).total.item() == pytest.approx(expected, rel=1e-5)


def test_an_offloaded_model_has_the_fingerprint_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spread = offloaded("llama", tmp_path, monkeypatch)
    assert spread.identity.fingerprint == tiny_backbone("llama").identity.fingerprint


def test_model_parallel_spreads_over_what_is_there(tiny_model_folder: Path) -> None:
    spread = Backbone.load(str(tiny_model_folder), LoadOptions(model_parallel=True))
    whole = Backbone.load(str(tiny_model_folder))
    batch = full_batch()
    torch.testing.assert_close(spread.score_full_context(batch).nll.cpu(), whole.score_full_context(batch).nll)


def test_a_kv_memory_is_read_where_each_block_computes() -> None:
    """All blocks' keys were built on one device: the first block on another one could not be read."""
    backbone, elsewhere = tiny_backbone("llama"), torch.device("meta")
    assert [device.type for device in backbone.block_devices] == ["cpu"] * 4
    whole = CompressionModel(backbone, settings(memory="kv"), seed=0).memory
    backbone.block_devices = [elsewhere if block % 2 else torch.device("cpu") for block in range(4)]
    spread = CompressionModel(backbone, settings(memory="kv"), seed=0).memory
    memory = whole.make(backbone.prefill(full_batch().context_ids, None, 4))

    ours, theirs = spread.reader(memory, 1).cache, whole.reader(memory, 1).cache

    assert ours is not None and theirs is not None
    for block, (mine, other) in enumerate(zip(cache_pairs(ours), cache_pairs(theirs), strict=True)):
        for part, expected in zip(mine, other, strict=True):
            assert part.shape == expected.shape and part.is_meta == bool(block % 2)
            assert part.is_meta or torch.equal(part, expected)


def test_blocks_that_are_offloaded_compute_where_their_hooks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread = offloaded("llama", tmp_path, monkeypatch)

    assert spread.is_spread
    assert {device.type for device in spread.block_devices} == {"cpu"}, "not meta, where their weights wait"


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_on_two_gpus_gives_the_losses_and_gradients_of_one_on_the_cpu(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    monkeypatch.setattr("cmp.model.backbone.load_tokenizer", lambda _, **options: _Tokenizer())
    blocks = {f"model.layers.{block}": block // 2 for block in range(4)}
    device_map = blocks | {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.norm": 1, "lm_head": 1}
    halves = Backbone.load(str(tmp_path / "model"), LoadOptions("float32", "cuda:0", device_map=device_map))
    spread = CompressionModel(halves, settings(**KINDS[kind]), seed=0)
    whole = CompressionModel(tiny_backbone("llama"), settings(**KINDS[kind]), seed=0)
    assert [device.index for device in halves.block_devices] == [0, 0, 1, 1]

    batch = full_batch()
    ours = spread.losses(batch.to(halves.device), *counts(batch)).total
    theirs = whole.losses(batch, *counts(batch)).total

    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)
    expected = gradients(theirs, whole)
    for name, gradient in gradients(ours, spread).items():
        torch.testing.assert_close(gradient.cpu(), expected[name], rtol=1e-3, atol=1e-5)
