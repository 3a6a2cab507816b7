from typing import Any

import pytest
import torch

from cmp.model.backbone import Backbone
from cmp.model.batch import Batch, View
from cmp.model.compression import CompressionModel
from cmp.model.loading import resolve_dtype
from cmp.model.recording import CudaRecorder, Recordings
from cmp.model.steps import LossStep, ScoreStep, recordings_for
from tests.model.families import FAMILIES, NoTokenizer, settings, tiny_backbone, tiny_model
from tests.model.test_families import counts, full_batch, gradients, padded_batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
KINDS: dict[str, dict[str, Any]] = {
    "hidden": {"proj_cmpr": True, "rmb_task": True},
    "kv-lora": {"memory": "kv", "lora_rank": 2},
    "pooled": {"memory": "pooled"},
    "kl": {"kl_scale": 0.3},
    "recomputed": {"memory": "kv", "lora_rank": 2, "gradient_checkpointing": True},
}


def on_gpu(family: str, dtype: torch.dtype = torch.float32) -> Backbone:
    return Backbone(tiny_model(family).to("cuda", dtype), NoTokenizer(), family)


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_computes_what_a_cpu_does(family: str, padded: bool) -> None:
    batch = padded_batch() if padded else full_batch()
    here = CompressionModel(tiny_backbone(family), settings(proj_cmpr=True, rmb_task=True), seed=0)
    there = CompressionModel(on_gpu(family), settings(proj_cmpr=True, rmb_task=True), seed=0)
    for name, parameter in there.named_parameters():
        assert torch.equal(parameter.cpu(), dict(here.named_parameters())[name]), (
            "the seed must not depend on the device"
        )
    ours, theirs = there.losses(batch.to(torch.device("cuda")), *counts(batch)), here.losses(batch, *counts(batch))
    assert ours.total.item() == pytest.approx(theirs.total.item(), rel=1e-4)
    expected = gradients(theirs.total, here)
    for name, gradient in gradients(ours.total, there).items():
        assert (gradient.cpu() - expected[name]).norm() <= 1e-3 * expected[name].norm(), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom", "opt"])
def test_a_replayed_graph_gives_the_numbers_of_eager_steps(family: str, kind: str) -> None:
    eager = CompressionModel(on_gpu(family), settings(**KINDS[kind]), seed=0)
    graphed = CompressionModel(eager.backbone, settings(**KINDS[kind]), seed=0)
    recordings = recordings_for(graphed.backbone, pytest.fail)
    steps = LossStep(eager), LossStep(graphed, recordings=recordings)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-2) for model in (eager, graphed)]
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, 97, (4, 16), generator=generator).cuda()
        batch = Batch(ids[:, :9], ids[:, 9:])
        losses = [step(batch, *counts(batch)) for step in steps]
        assert losses[0].total.item() == pytest.approx(losses[1].total.item(), rel=1e-5)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    assert recordings.count == 1
    for ours, theirs in zip(graphed.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_recorded_step_follows_the_loss_scale_without_being_recorded_again() -> None:
    compressor = CompressionModel(on_gpu("llama"), settings(), seed=0)
    scale = torch.tensor(8.0, device="cuda")
    recordings = recordings_for(compressor.backbone, pytest.fail)
    step, batch = LossStep(compressor, scale, recordings), full_batch().to(torch.device("cuda"))
    gradients_at = {}
    for value in (1.0, 8.0, 2.0):
        scale.fill_(value)
        step(batch, *counts(batch))
        gradients_at[value] = [
            parameter.grad.clone() for parameter in compressor.parameters() if parameter.grad is not None
        ]
        for parameter in compressor.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
    assert recordings.count == 1
    for high, low in zip(gradients_at[8.0], gradients_at[2.0], strict=True):
        torch.testing.assert_close(high, 4.0 * low, rtol=1e-3, atol=1e-6)


def test_padded_batches_run_eagerly_beside_graphs() -> None:
    compressor = CompressionModel(on_gpu("llama"), settings(), seed=0)
    recordings = recordings_for(compressor.backbone, pytest.fail)
    step, cuda = LossStep(compressor, recordings=recordings), torch.device("cuda")
    for _ in range(2):
        step(full_batch().to(cuda), *counts(full_batch()))
    before = [parameter.grad.clone() for parameter in compressor.parameters() if parameter.grad is not None]
    step(padded_batch().to(cuda), *counts(padded_batch()))
    expected = gradients(compressor.losses(padded_batch().to(cuda), *counts(padded_batch())).total, compressor)
    for start, parameter, gradient in zip(before, compressor.parameters(), expected.values(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad - start, gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_scores_are_those_of_eager_ones_beside_recorded_steps(kind: str) -> None:
    config = settings(**{**KINDS[kind], "nested": kind != "pooled"})
    model = CompressionModel(on_gpu("llama"), config, seed=0)
    recordings = recordings_for(model.backbone, pytest.fail)
    steps, scores = LossStep(model, recordings=recordings), ScoreStep(model, recordings)
    sizes = (1, 2) if config.nested else ()
    for seed in range(4):
        ids = torch.randint(3, 97, (4, 16), generator=torch.Generator().manual_seed(seed)).cuda()
        batch, swap = Batch(ids[:, :9], ids[:, 9:]), torch.tensor([1, 2, 3, 0])
        steps(batch, *counts(batch))
        found = scores.variants(batch, swap, sizes)
        for name, expected in model.score_variants(batch, swap, sizes).items():
            torch.testing.assert_close(found[name].nll, expected.nll, rtol=1e-4, atol=1e-5)
            assert torch.equal(found[name].correct, expected.correct)
        texts = [View(kept=kept, compresses=False) for kept in (0, 2)]
        for view, expected in zip(texts, scores.views(batch, texts), strict=True):
            torch.testing.assert_close(model.score(batch, view).nll, expected.nll, rtol=1e-4, atol=1e-5)
    assert recordings.count == 3


def test_recordings_share_one_workspace_and_one_pool() -> None:
    model = CompressionModel(on_gpu("llama"), settings(), seed=0)
    recordings = recordings_for(model.backbone, pytest.fail)
    step, reserved = LossStep(model, recordings=recordings), []
    for length in range(4, 10):
        ids = torch.randint(3, 97, (4, length + 7)).cuda()
        batch = Batch(ids[:, :length], ids[:, length:])
        for _ in range(2):
            step(batch, *counts(batch))
        reserved.append(torch.cuda.memory_reserved())
    assert recordings.count == 6
    assert reserved[-1] - reserved[0] < 16 * 2**20, "a workspace of cuBLAS is 8 to 32 MB"


def test_a_failed_recording_leaves_the_stream_as_it_was() -> None:
    notices: list[str] = []
    device, before = torch.device("cuda", torch.cuda.current_device()), torch.cuda.current_stream()
    recordings = Recordings(CudaRecorder(device), notices.append)
    ones = torch.ones(3, device=device)
    for _ in range(3):
        assert recordings.call("sum", lambda x: x.sum().item(), [ones]) == 3.0, "a copy to the host cannot be recorded"
    assert len(notices) == 1 and not recordings.active
    assert torch.cuda.current_stream() == before
    assert (ones + 1).sum().item() == 6.0


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_the_decoder_reads_without_an_explicit_mask(family: str) -> None:
    backbone = on_gpu(family)
    embeds = backbone.embed(torch.arange(3, 15).view(2, 6))
    backbone.run(embeds)
    torch.cuda.set_sync_debug_mode("error")
    try:
        backbone.run(embeds)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_loop_never_waits_for_the_device() -> None:
    compressor = CompressionModel(on_gpu("llama"), settings(proj_cmpr=True, rmb_task=True, kl_scale=0.1), seed=0)
    batch = full_batch().to(torch.device("cuda"))
    compressor.losses(batch, *counts(batch)).total.backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        compressor.losses(batch, *counts(batch)).total.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_bfloat16_is_the_default_and_close_to_float32() -> None:
    assert resolve_dtype("auto", torch.device("cuda"), 64) == torch.bfloat16
    batch = full_batch().to(torch.device("cuda"))
    half = CompressionModel(on_gpu("llama", torch.bfloat16), settings(proj_cmpr=True), seed=0)
    full = CompressionModel(on_gpu("llama"), settings(proj_cmpr=True), seed=0)
    ours, theirs = half.losses(batch, *counts(batch)).total, full.losses(batch, *counts(batch)).total
    assert ours.item() == pytest.approx(theirs.item(), rel=0.02)
