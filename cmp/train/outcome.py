"""How things that go wrong inside a trial become its outcome. Called by `trial` and `sync`."""

from typing import Literal

import torch

from cmp.objects import StoreError
from cmp.space.errors import UserError
from cmp.space.settings import TrialSettings

FailureKind = Literal["diverged", "out_of_memory", "failed", "interrupted"]
_NO_MEMORY_MESSAGES = ("can't allocate memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


class PeerLostError(RuntimeError):
    """Another worker is gone in the middle of a collective operation: the group must be started again.

    The only error that `run_trial` lets out, because nothing is wrong with the trial itself.
    """


class TrialFailedError(Exception):
    """The trial cannot go on, for a reason that is its own.

    Args:
        kind: what the outcome will say.
        reason: one line.
        elsewhere: it happened on another worker, which has logged it.
    """

    def __init__(self, kind: FailureKind, reason: str, *, elsewhere: bool = False) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.elsewhere = elsewhere


class LeaveRequestedError(TrialFailedError):
    """The trial was asked to leave in the middle of something that is not worth finishing; it will be done again."""

    def __init__(self) -> None:
        super().__init__("interrupted", "asked to leave")


def as_failure(error: Exception, settings: TrialSettings) -> TrialFailedError:
    """The outcome that an exception stands for; a store that is away is no fault of the trial, which goes on later."""
    if isinstance(error, TrialFailedError):
        return error
    if isinstance(error, StoreError) and error.passing:
        return TrialFailedError("interrupted", str(error))
    if is_out_of_memory(error):
        return TrialFailedError("out_of_memory", memory_hint(settings))
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:300]
    if isinstance(error, UserError):
        return TrialFailedError("failed", message)
    return TrialFailedError("failed", f"{type(error).__name__}: {message}" if message else type(error).__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """GPU memory (torch's own error), CPU memory (Python's, or a RuntimeError of torch's allocator)."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _NO_MEMORY_MESSAGES)


def memory_hint(settings: TrialSettings) -> str:
    """What to lower, with the values that did not fit; the largest lever first."""
    batch = f"batch_size {settings.batch_size} (raise n_grad_loops to keep the effective batch)"
    lengths = "seq_len" if settings.rmb_only else "cmp_len and seq_len"
    others = [lengths]
    if settings.val_batch_size > settings.batch_size:
        others.insert(0, f"val_batch_size {settings.val_batch_size}")
    if not settings.gradient_checkpointing:
        others.append("or set gradient_checkpointing: true")
    if settings.torch_dtype in ("auto", "float32"):
        others.append(f"or use torch_dtype bfloat16 instead of {settings.torch_dtype}")
    return f"out of memory; lower {batch}, {', '.join(others)}"
