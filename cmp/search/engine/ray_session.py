"""The session of a trial that Ray runs: its rank and device, where reports go, and when to leave.

Imported only inside a trial's process: it needs torch.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import ray
import torch

from cmp.search.engine.job import ANSWER_TIMEOUT_SECONDS, TrialJob
from cmp.search.engine.mailbox import Mailbox, RemoteMailbox
from cmp.train.session import EpochReport

STOP_FILE_PERIOD_SECONDS = 0.25


class RaySession:
    """A `train.session.Session` over a mailbox."""

    def __init__(
        self, job: TrialJob, post: Any, stopped: Callable[[], bool], *, rank: int, world_size: int, device: torch.device
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.device = device
        self._job = job
        self._post = post
        self._stopped = stopped
        self._looked_at = float("-inf")
        self._stop_file_seen = False

    def report(self, report: EpochReport) -> None:
        """Send the report; at a rung, wait for the search's answer, because the trial may end there."""
        self._post.put({"event": "reported", "done": False, **asdict(report)})
        if report.epoch in self._job.rungs:
            self._post.wait_for_answer(report.epoch, ANSWER_TIMEOUT_SECONDS)

    def stop_requested(self) -> bool:
        """True once this trial or the whole search was asked to leave; looks at the file four times a second."""
        return self._stopped() or self._stop_file_exists()

    def _stop_file_exists(self) -> bool:
        now = time.monotonic()
        if not self._stop_file_seen and now - self._looked_at >= STOP_FILE_PERIOD_SECONDS:
            self._looked_at = now
            self._stop_file_seen = self._job.stop_file.exists()
        return self._stop_file_seen


def local_session(job: TrialJob, post: Mailbox) -> RaySession:
    """The only worker, in the process of the trial itself."""
    return RaySession(job, post, post.stopped, rank=0, world_size=1, device=_local_device(job))


def group_session(job: TrialJob, post: RemoteMailbox) -> RaySession:
    """One of several workers that Ray Train started; only rank 0 listens for the wish to stop."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    rank = context.get_world_rank()
    device = ray.train.torch.get_device() if job.footprint.gpus_per_worker else torch.device("cpu")
    stopped = _listen_for_stop(post) if rank == 0 else _never
    return RaySession(job, post, stopped, rank=rank, world_size=context.get_world_size(), device=device)


def _local_device(job: TrialJob) -> torch.device:
    """The first of the devices that Ray made visible to this process, limited to the trial's share of it."""
    gpus = job.footprint.gpus_per_worker
    if not gpus:
        return torch.device("cpu")
    device = torch.device("cuda:0")
    torch.cuda.set_device(device)
    if gpus < 1:
        torch.cuda.set_per_process_memory_fraction(gpus, device)
    return device


def _never() -> bool:
    return False


def _listen_for_stop(post: RemoteMailbox) -> Callable[[], bool]:
    """Wait for the wish to stop in a thread, so that asking for it costs the loop nothing."""
    stopped = threading.Event()

    def listen() -> None:
        try:
            if post.wait_for_stop():
                stopped.set()
        except ray.exceptions.RayError:
            stopped.set()  # the process that answers to the search is gone: leave with a checkpoint

    threading.Thread(target=listen, daemon=True).start()
    return stopped.is_set
