"""CUDA graphs: work of fixed shape, recorded once and launched at once. Called by `steps`.

Small models and short contexts are bound by the time that it takes to launch a thousand small kernels, not by
arithmetic. The kernels of a replay are those of the recorded call, so the numbers are too.
"""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

T = TypeVar("T")

WARMUP_CALLS = 3
# A control reads contexts in many ways, and each recording keeps its inputs and outputs.
MAX_RECORDINGS = 8


class Recorder(Protocol):
    """Something that can record work on a device."""

    def record(self, work: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Do `work` a few times, and record it once: how to do it again, and where its results are each time.

        Raises:
            RuntimeError: it cannot be recorded; everything is as before.
        """


class CudaRecorder:
    """Records on one side stream and into one pool of memory, whatever the number of recordings.

    One stream, because cuBLAS keeps a workspace (32 MB on an H100) for each that it has seen. One pool, because
    recordings are replayed one at a time and none needs what it left behind, except its results: these stay its own,
    as far as other recordings go, but any replay may overwrite the results of another.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = None
        self._pool: Any = None

    def record(self, work: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """As the protocol says."""
        if self._stream is None:
            self._stream, self._pool = torch.cuda.Stream(self._device), torch.cuda.graph_pool_handle()
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(WARMUP_CALLS):
                work()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # Only this thread's calls count: another one may be pinning the next batch in the meantime.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                results = work()
        finally:  # where the recording fails, torch's context does not come to this
            torch.cuda.set_stream(current)
        return graph.replay, results


@dataclass(frozen=True)
class _Recording:
    """Recorded work, its inputs and its results."""

    inputs: tuple[torch.Tensor, ...]
    replay: Callable[[], None]
    results: Any


class Recordings:
    """Calls of functions of tensors, recorded from the second time that a key is met.

    Args:
        recorder: None does every call as it comes.
        notice: told why calls are no longer recorded.
    """

    def __init__(self, recorder: Recorder | None, notice: Callable[[str], None] = lambda _: None) -> None:
        self._recorder = recorder
        self._notice = notice
        self._met: set[Hashable] = set()
        self._recorded: dict[Hashable, _Recording] = {}

    @property
    def active(self) -> bool:
        """False where nothing is recorded, or no longer."""
        return self._recorder is not None

    @property
    def count(self) -> int:
        """How many recordings there are."""
        return len(self._recorded)

    def call(
        self,
        key: Hashable,
        function: Callable[..., T],
        tensors: Sequence[torch.Tensor],
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> T:
        """`function(*tensors)`. What it returns is valid until the next call, of whatever key.

        Args:
            key: stands for the function and all that shapes its work but the tensors' content.
            function: has no branch that depends on content, and waits for nothing.
            tensors: on the recorder's device or not; they are copied there.
            around: entered while recording, for what the calls on the way must not leave behind.
        """
        if self._recorder is None:
            return function(*tensors)
        found = self._recorded.get(key)
        if found is None and (key not in self._met or len(self._recorded) >= MAX_RECORDINGS):
            self._met.add(key)
            return function(*tensors)
        if found is None:
            inputs = tuple(tensor.clone() for tensor in tensors)
            try:
                with around():
                    found = _Recording(inputs, *self._recorder.record(lambda: function(*inputs)))
            except RuntimeError as error:
                self._recorder = None
                self._notice(f"goes on without CUDA graphs: {error}")
                return function(*tensors)
            self._recorded[key] = found
        for mine, given in zip(found.inputs, tensors, strict=True):
            mine.copy_(given, non_blocking=True)
        found.replay()
        return found.results
