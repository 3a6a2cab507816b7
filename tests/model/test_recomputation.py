"""gradient_checkpointing: blocks run again in the backward pass give the same gradients, from less memory."""

import threading
from typing import Any

import pytest
import torch

from cmp.model.compression import CompressionModel
from cmp.model.lora import CompressionLora
from tests.model.families import settings, tiny_backbone
from tests.model.test_families import counts, full_batch, gradients, padded_batch

KINDS: dict[str, dict[str, Any]] = {
    "hidden-lora": {"lora_rank": 2, "proj_cmpr": True, "rmb_task": True, "cmp_layer": 2},
    "kv-lora-kl": {"memory": "kv", "lora_rank": 2, "kl_scale": 0.3, "keep_len": 2},
    "kv-pieces": {"memory": "kv", "lora_rank": 2, "piece_len": 3, "recursive": True},
    "pooled": {"memory": "pooled", "proj_cmpr": True},
}


def models(family: str, kind: str) -> tuple[CompressionModel, CompressionModel]:
    """One as usual and one that recomputes, on one backbone, with LoRA that does something."""
    backbone = tiny_backbone(family)
    pair = [
        CompressionModel(backbone, settings(**KINDS[kind], gradient_checkpointing=again), seed=0)
        for again in (False, True)
    ]
    for model in pair:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("_up"):
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return pair[0], pair[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "gemma3", "opt"])
def test_recomputed_blocks_give_the_same_losses_and_gradients(family: str, kind: str) -> None:
    usual, again = models(family, kind)
    for batch in (full_batch(), padded_batch()):
        ours, theirs = again.losses(batch, *counts(batch)).total, usual.losses(batch, *counts(batch)).total
        assert ours.item() == theirs.item()
        expected = gradients(theirs, usual)
        for name, gradient in gradients(ours, again).items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", ["hidden-lora", "kv-lora-kl"])
def test_lora_is_active_when_another_thread_recomputes(kind: str) -> None:
    """A GPU's backward pass runs in a thread of its own, which has entered no `active()`."""
    usual, again = models("llama", kind)
    batch = full_batch()
    total = again.losses(batch, *counts(batch)).total
    thread = threading.Thread(target=total.backward)
    thread.start()
    thread.join()
    expected = gradients(usual.losses(batch, *counts(batch)).total, usual)
    assert any(name.endswith("_up") for name in expected)
    for name, parameter in again.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-8)


def test_another_compressors_lora_does_not_leak_into_the_recomputation() -> None:
    usual, again = models("llama", "hidden-lora")
    other: Any = CompressionModel(again.backbone, settings(**KINDS["hidden-lora"]), seed=5).memory
    lora: CompressionLora = other.compression.lora
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter += 1.0
    batch = full_batch()
    total = again.losses(batch, *counts(batch)).total
    with lora.active():  # while this thread trains something else
        ours = gradients(total, again)
    for name, gradient in gradients(usual.losses(batch, *counts(batch)).total, usual).items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", ["hidden-lora", "kv-lora-kl"])
def test_less_is_kept_for_the_backward_pass(kind: str) -> None:
    kept = [_bytes_kept(model) for model in models("llama", kind)]

    assert kept[1] < 0.5 * kept[0]


def _bytes_kept(model: CompressionModel) -> int:
    """Bytes of the tensors that the backward pass of a loop will need, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.backbone.model.parameters()]}
    storages: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = full_batch()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        total = model.losses(batch, *counts(batch)).total
        kept = sum(storages.values())  # while the graph, and so every storage, is alive
    total.backward()
    return kept
