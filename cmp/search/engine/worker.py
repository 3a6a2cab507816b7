"""One worker's part of a trial, in the process at hand, and the messages about it. For `actor` and `crew`."""

import os
import re
import socket
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import ray

from cmp.search.engine.job import TrialJob
from cmp.search.engine.mailbox import Mailbox, Message
from cmp.search.engine.probe import sees

# How a trial can end without any fault; then its process may run the next one.
BLAMELESS = ("finished", "interrupted", "diverged")

# After these a CUDA context is of no use any more: every later call in the process fails with the same words.
_STICKY_CUDA = re.compile(
    r"illegal memory access|device-side assert|unspecified launch failure|misaligned address|illegal instruction"
    r"|CUDA error: (out of memory|uncorrectable|initialization error)|NCCL error|ECC error",
    re.IGNORECASE,
)


class NotSharedError(Exception):
    """The results folder here is not the one that the search writes to."""


def run_worker(
    job: TrialJob, post: Mailbox | None, must_leave: Callable[[], bool] = lambda: False, *, rank: int = 0
) -> Message:
    """Run one worker's part of a trial with all that is warm in this process.

    Args:
        job: what to run.
        post: where rank 0 puts its reports.
        must_leave: asks whether the trial should write a checkpoint and leave; only rank 0 listens.
        rank: of this worker.

    Returns:
        The outcome's message; its status is "lost" where another worker is gone.

    Raises:
        NotSharedError: this machine does not see the results folder.
    """
    if not sees(job.sign):
        raise NotSharedError(f"the results folder {job.plan.folder.parents[1]} is not shared with this machine")
    import torch

    from cmp.search.engine.ray_session import RaySession
    from cmp.search.engine.trainer import run_in_trainer
    from cmp.train.outcome import PeerLostError

    session = RaySession(job, post, must_leave, rank=rank)
    torch.set_num_threads(max(1, int(job.footprint.cpus_per_worker)))
    try:
        outcome = run_in_trainer(job, session)
    except PeerLostError as error:
        return lost_message(first_line(error), None)
    is_spoilt = outcome.status not in BLAMELESS and (_is_sticky(outcome.reason) or not _still_computes(session.device))
    return {"event": "outcome", "done": True, **asdict(outcome), "is_spoilt": is_spoilt}


def started_message() -> Message:
    """The first message of a trial."""
    return {"event": "started", "node": socket.gethostname(), "node_id": this_node(), "pid": os.getpid(), "done": False}


def lost_message(reason: str, node: str | None) -> Message:
    """The outcome of a trial that lost a worker on `node`."""
    lost = {"event": "outcome", "status": "lost", "epoch": 0, "reason": reason, "done": True}
    return {**lost, "node_id": node, "is_spoilt": True}


def failed_message(error: Exception, *, is_spoilt: bool) -> Message:
    """The outcome of a trial around which something went wrong."""
    reason = f"{type(error).__name__}: {first_line(error)}"
    failed = {"event": "outcome", "status": "failed", "epoch": 0, "reason": reason, "done": True}
    return {**failed, "is_spoilt": is_spoilt or _is_sticky(reason)}


def this_node() -> str | None:
    """Ray's id of this machine; None where Ray does not run."""
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else None


def first_line(error: Exception) -> str:
    """Of its text, shortened."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else ""


def _is_sticky(reason: str | None) -> bool:
    return bool(_STICKY_CUDA.search(reason or ""))


def _still_computes(device: Any) -> bool:
    """Some CUDA errors show at the next call only."""
    if device.type != "cuda":
        return True
    import torch

    try:
        return torch.ones(8, device=device).sum().item() == 8.0
    except RuntimeError:
        return False
