"""Recordings without a GPU: a recorder that does the work again, on the inputs of the recording, as a graph would."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch

from cmp.model import recording
from cmp.model.batch import Batch, View
from cmp.model.compression import CompressionModel
from cmp.model.recording import MAX_RECORDINGS, CudaRecorder, Recordings
from cmp.model.steps import LossStep, ScoreStep, recordings_for
from tests.model.families import settings, tiny_backbone
from tests.model.test_families import counts, full_batch, padded_batch


class Again:
    """Does the work again and writes the new results where the old ones are."""

    def __init__(self) -> None:
        self.replays = 0

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        results = [work() for _ in range(4)][-1]

        def replay() -> None:
            self.replays += 1
            for old, new in zip(tensors_in(results), tensors_in(work()), strict=True):
                old.copy_(new)

        return replay, results


def tensors_in(results: Any) -> list[torch.Tensor]:
    if isinstance(results, torch.Tensor):
        return [results]
    if is_dataclass(results):
        return [tensor for item in fields(results) for tensor in tensors_in(getattr(results, item.name))]
    return [
        tensor for part in (results.values() if isinstance(results, dict) else results) for tensor in tensors_in(part)
    ]


def batch_of(seed: int) -> Batch:
    ids = torch.randint(3, 97, (4, 16), generator=torch.Generator().manual_seed(seed))
    return Batch(ids[:, :9], ids[:, 9:])


@pytest.mark.parametrize("changes", [{"rmb_task": True}, {"memory": "kv", "lora_rank": 2, "kl_scale": 0.3}])
def test_replayed_steps_give_the_losses_and_gradients_of_eager_ones(changes: dict[str, Any]) -> None:
    backbone = tiny_backbone("llama")
    eager, replayed = (CompressionModel(backbone, settings(**changes), seed=0) for _ in range(2))
    recorder = Again()
    steps = LossStep(eager), LossStep(replayed, recordings=Recordings(recorder, pytest.fail))
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-2) for model in (eager, replayed)]
    for seed in range(5):
        theirs, ours = (step(batch_of(seed), *counts(batch_of(seed))) for step in steps)
        assert ours.total.item() == pytest.approx(theirs.total.item(), rel=1e-6)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    assert recorder.replays == 4, "the first call of a shape is not worth recording"
    for ours_after, theirs_after in zip(replayed.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours_after, theirs_after)


def test_replayed_scores_are_the_models_own() -> None:
    model = CompressionModel(tiny_backbone("llama"), settings(rmb_task=True, nested=True), seed=0)
    recorder = Again()
    scores = ScoreStep(model, Recordings(recorder, pytest.fail))
    views = [View(kept=kept, compresses=False) for kept in (0, 4)]
    for seed in range(4):
        batch, swap = batch_of(seed), torch.from_numpy(np.roll(np.arange(4), 1 + seed % 3))
        for name, expected in model.score_variants(batch, swap, (1, 2)).items():
            assert torch.equal(scores.variants(batch, swap, (1, 2))[name].nll, expected.nll)
        assert torch.equal(scores.reconstruction(batch).nll, model.score_reconstruction(batch).nll)
        for view, found in zip(views, scores.views(batch, views), strict=True):
            assert torch.equal(found.nll, model.score(batch, view).nll)
    assert recorder.replays > 9


def test_padded_batches_are_never_recorded() -> None:
    recorder = Again()
    step = LossStep(CompressionModel(tiny_backbone("gpt2"), settings(), seed=0), recordings=Recordings(recorder))
    for _ in range(3):
        step(padded_batch(), *counts(padded_batch()))
    assert recorder.replays == 0


def test_only_so_many_shapes_are_recorded_and_the_others_still_run() -> None:
    recordings = Recordings(Again())
    for _ in range(3):
        for size in range(1, MAX_RECORDINGS + 3):
            assert recordings.call(size, lambda x: 2 * x, [torch.ones(size)]).sum().item() == 2 * size
    assert recordings.count == MAX_RECORDINGS


def test_a_work_that_cannot_be_recorded_is_said_once_and_done_anyway() -> None:
    class Refuses:
        def record(self, work: Callable[[], Any]) -> Any:
            raise RuntimeError("operation not permitted when stream is capturing")

    notices: list[str] = []
    model = CompressionModel(tiny_backbone("gpt2"), settings(), seed=0)
    step = LossStep(model, recordings=Recordings(Refuses(), notices.append))
    alone = LossStep(model)
    for _ in range(3):
        given = step(full_batch(), *counts(full_batch())).total.item()
    assert given == alone(full_batch(), *counts(full_batch())).total.item()
    assert notices == ["goes on without CUDA graphs: operation not permitted when stream is capturing"]


def test_nothing_is_recorded_on_a_cpu() -> None:
    assert not recordings_for(tiny_backbone("gpt2")).active


def test_a_failed_recording_gives_the_stream_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's context leaves its stream current when the recording cannot be ended."""
    current = ["the trial's"]

    class Stream:
        def __init__(self, device: Any = None) -> None: ...

        def wait_stream(self, other: Any) -> None: ...

    @contextmanager
    def on(stream: Any) -> Any:
        before, current[0] = current[0], stream
        yield
        current[0] = before

    class Graph:
        def __init__(self, *args: Any, stream: Any, **options: Any) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            current[0] = self.stream

        def __exit__(self, *args: object) -> None:
            raise RuntimeError("capture_end: the capture was invalidated")

    class Current(str):
        def wait_stream(self, other: Any) -> None: ...

    current[0] = Current("the trial's")
    fakes = {
        "Stream": Stream, "stream": on, "graph": Graph, "CUDAGraph": object, "graph_pool_handle": lambda: "pool",
        "current_stream": lambda device: current[0], "set_stream": lambda stream: current.__setitem__(0, stream),
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(recording.torch.cuda, name, fake)
    with pytest.raises(RuntimeError, match="invalidated"):
        CudaRecorder(torch.device("cuda")).record(lambda: 1)
    assert current[0] == "the trial's"
