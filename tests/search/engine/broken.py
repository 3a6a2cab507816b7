"""Trials that go wrong, in place of `run_trial`: named by tests as a job's entry. Work outside trials that does."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from cmp.train.outcome import PeerLostError
from cmp.train.session import TrialOutcome


def sticky_cuda_error(plan: Any, session: Any) -> TrialOutcome:
    """What a trial says when a kernel has read outside its memory."""
    return TrialOutcome("failed", 0, "AcceleratorError: CUDA error: an illegal memory access was encountered")


def own_error(plan: Any, session: Any) -> TrialOutcome:
    """A mistake that only this trial makes."""
    return TrialOutcome("failed", 0, "ValueError: n_cmps is too large")


def lost_peer(plan: Any, session: Any) -> TrialOutcome:
    """Another worker is gone."""
    raise PeerLostError("a worker of the trial is gone: connection closed by peer")


def device_side_assert(plan: Any, session: Any) -> TrialOutcome:
    """A real one: an index outside its tensor, seen by a kernel."""
    import torch

    try:
        index = torch.tensor([10**6], device=session.device)
        torch.zeros(4, device=session.device)[index].cpu()
    except RuntimeError as error:
        return TrialOutcome("failed", 0, f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return TrialOutcome("finished", 0)


def silent_device_side_assert(plan: Any, session: Any) -> TrialOutcome:
    """The same, where the trial's own words do not tell."""
    outcome = device_side_assert(plan, session)
    return TrialOutcome(outcome.status, 0, "ValueError: something else")


def answer_after_deaths(deaths: int, folder: Path, device: str) -> str:
    """Work outside a trial whose process dies so often first; notes in the folder how often it began."""
    number = len(list(folder.iterdir()))
    if number < deaths:
        (folder / str(number)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return device


def raise_error(folder: Path, device: str) -> str:
    """Work that fails, and notes that it began."""
    (folder / str(len(list(folder.iterdir())))).touch()
    raise ValueError("no such layer")


def wait_for_ever(device: str) -> str:
    """Work that does not end."""
    time.sleep(1000)
    return device
