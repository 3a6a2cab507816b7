"""The session of a trial that Ray runs: its rank and device, where reports go, and when to leave.

Imported only inside a trial's process: it needs torch.
"""

from collections.abc import Callable
from dataclasses import asdict

import torch

from cmp.search.engine.job import ANSWER_TIMEOUT_SECONDS, TrialJob
from cmp.search.engine.mailbox import Mailbox
from cmp.train.session import EpochReport

# What a process holds of a GPU beside tensors: a CUDA context with its kernels takes 0.3 to 0.6 GB. Two halves of a GPU
# and two contexts are more than the GPU.
OUTSIDE_BYTES = 0.75 * 2**30
MIN_FRACTION = 0.02


class RaySession:
    """A `train.session.Session` over a mailbox.

    Args:
        job: what is run, and on what.
        post: of the trial, at rank 0; the others do not report.
        must_leave: asks whether the search wants the trial to leave.
        rank: of this worker.
    """

    def __init__(self, job: TrialJob, post: Mailbox | None, must_leave: Callable[[], bool], *, rank: int) -> None:
        self.rank = rank
        self.world_size = job.footprint.workers
        self.device = _device(job)
        self._job = job
        self._post = post
        self._must_leave = must_leave

    def report(self, report: EpochReport) -> None:
        """Send the report; at a rung, wait for the search's answer, because the trial may end there."""
        assert self._post is not None, "only rank 0 reports"
        self._post.put({"event": "reported", "done": False, **asdict(report)})
        if report.epoch in self._job.rungs:
            self._post.wait_for_answer(report.epoch, ANSWER_TIMEOUT_SECONDS)

    def stop_requested(self) -> bool:
        """True once this trial or the whole search was asked to leave; only rank 0 hears of it."""
        return self._post is not None and (self._post.stopped() or self._must_leave())


def _device(job: TrialJob) -> torch.device:
    """The first of the devices that Ray made visible to this process, limited to the trial's share of it."""
    gpus = job.footprint.gpus_per_worker
    if not gpus:
        return torch.device("cpu")
    device = torch.device("cuda:0")
    torch.cuda.set_device(device)
    if gpus < 1:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(memory_fraction(gpus, total), device)
    return device


def memory_fraction(gpus: float, total_bytes: int) -> float:
    """The share of a GPU's memory for torch's tensors, in a process that has `gpus` of it, less than 1."""
    return max(MIN_FRACTION, gpus - OUTSIDE_BYTES / total_bytes)
