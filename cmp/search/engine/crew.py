"""The workers of a trial beside its first: processes in the trial's own placement group, kept warm from trial to trial.

`actor` is the first worker and has a crew where a trial has several. The trial's placement group reserves a bundle for
each of them, so that a trial that Tune starts can always be placed as a whole. They form one `torch.distributed` group
that lives as long as the crew; a worker that is lost breaks it, and then the whole process makes room for a new one.
"""

import fcntl
import os
import signal
import socket
import struct
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cmp.search.engine.environment import last_line
from cmp.search.engine.footprint import Footprint
from cmp.search.engine.job import TrialJob
from cmp.search.engine.mailbox import Message
from cmp.search.engine.process import end_with_parent, enter
from cmp.search.engine.ray_private import set_process_title
from cmp.search.engine.worker import BLAMELESS, run_worker

JOIN_TIMEOUT_SECONDS = 120.0
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
# What the others get to say why they left, once one connection is broken.
ACCOUNT_SECONDS = 10.0

_SIOCGIFADDR = 0x8915


class WorkerLostError(Exception):
    """A worker of the crew is gone.

    Args:
        reason: which, and how.
        node: Ray's id of its machine.
    """

    def __init__(self, reason: str, node: str | None) -> None:
        super().__init__(reason, node)
        self.reason = reason
        self.node = node

    def __str__(self) -> str:
        return self.reason


class CrewMember:
    """The process of one worker; rank 0 is the trial's own process and none of these."""

    def __init__(self, rank: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_with_parent()
        self._rank = rank
        set_process_title(f"ray::Worker {rank}")

    def node(self) -> str:
        """Where it is; answers once the process is up."""
        return ray.get_runtime_context().get_node_id()

    def join(self, host: str, port: int, footprint: Footprint) -> None:
        """Join the others."""
        join_process_group(host, port, self._rank, footprint)

    def run(self, job: TrialJob) -> Message:
        """Run this worker's part of a trial; returns the trial's outcome as this worker sees it."""
        job = job.here()
        set_process_title(f"ray::Worker {self._rank} of {job.name}")
        enter(job.directory)
        return run_worker(job, None, rank=self._rank)


class Crew:
    """The other workers, seen from the first.

    Args:
        footprint: of the trial.
        group: its placement group; bundle 0 is the first worker's own.

    Raises:
        WorkerLostError: one of them did not come up.
    """

    def __init__(self, footprint: Footprint, group: PlacementGroup) -> None:
        self._nodes: list[str] = []
        self._members = [_start_member(rank, footprint, group) for rank in range(1, footprint.workers)]
        self._nodes = self._each([member.node.remote() for member in self._members], JOIN_TIMEOUT_SECONDS)
        store = _open_store(0)
        host = ray.util.get_node_ip_address()
        joined = [member.join.remote(host, store.port, footprint) for member in self._members]
        join_process_group(host, store.port, 0, footprint, store)
        self._each(joined, JOIN_TIMEOUT_SECONDS)

    @property
    def nodes(self) -> Sequence[str]:
        """Where the others are."""
        return self._nodes

    def start(self, job: TrialJob) -> list[Any]:
        """Let the others begin; returns what the methods below want to know of."""
        return [member.run.remote(job) for member in self._members]

    def wait_for_loss(self, tasks: list[Any]) -> WorkerLostError | None:
        """Return when all are done, or at once when one of them is gone."""
        left = list(tasks)
        while left:
            done, left = ray.wait(left, num_returns=1)
            try:
                ray.get(done)
            except RayError as error:
                return self._loss(tasks.index(done[0]), error)
        return None

    def account(self, tasks: list[Any]) -> Message | None:
        """After a broken connection: the outcome of a worker that failed by itself, None where nobody did.

        Raises:
            WorkerLostError: a worker is gone.
        """
        messages = self._each(tasks, ACCOUNT_SECONDS)
        return next((each for each in messages if each["status"] not in (*BLAMELESS, "lost")), None)

    def is_done(self, tasks: list[Any]) -> bool:
        """After a trial that ended well: are all ready for the next one?"""
        try:
            self._each(tasks, ACCOUNT_SECONDS)
        except WorkerLostError:
            return False
        return True

    def _each(self, tasks: list[Any], timeout_seconds: float) -> list[Any]:
        results, end = [], time.monotonic() + timeout_seconds
        for index, task in enumerate(tasks):
            try:
                results.append(ray.get(task, timeout=max(0.0, end - time.monotonic())))
            except (RayError, GetTimeoutError) as error:
                raise self._loss(index, error) from error
        return results

    def _loss(self, index: int, error: Exception) -> WorkerLostError:
        node = self._nodes[index] if self._nodes else None
        if isinstance(error, GetTimeoutError):
            how = "does not answer"
        elif isinstance(error, RayActorError):
            how = "is gone with its machine" if "node has died" in str(error) else "is gone (killed or crashed)"
        else:
            how = f"failed ({last_line(error)})"
        return WorkerLostError(f"its worker {index + 1} {how}", node)


def _start_member(rank: int, footprint: Footprint, group: PlacementGroup) -> Any:
    place = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=rank)
    return (
        ray.remote(CrewMember)
        .options(
            num_cpus=footprint.cpus_per_worker,
            num_gpus=footprint.gpus_per_worker,
            max_restarts=0,
            scheduling_strategy=place,
        )
        .remote(rank)
    )


def _open_store(port: int) -> Any:
    """Where the workers find each other; port 0 takes a free one."""
    import torch.distributed as dist

    timeout = timedelta(seconds=JOIN_TIMEOUT_SECONDS)
    return dist.TCPStore("0.0.0.0", port, is_master=True, wait_for_workers=False, timeout=timeout)


def join_process_group(host: str, port: int, rank: int, footprint: Footprint, store: Any = None) -> None:
    """Become worker `rank` of the default process group: NCCL with GPUs, Gloo without."""
    import torch.distributed as dist

    if (interface := interface_of(ray.util.get_node_ip_address())) is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if store is None:
        timeout = timedelta(seconds=JOIN_TIMEOUT_SECONDS)
        store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    dist.init_process_group(
        "nccl" if footprint.gpus_per_worker else "gloo",
        store=store,
        rank=rank,
        world_size=footprint.workers,
        timeout=COLLECTIVE_TIMEOUT,
    )


def interface_of(address: str) -> str | None:
    """The network interface that has this IPv4 address. Gloo would take the one that the host's name resolves to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
