"""The machines of a search: connecting to them quietly, and noticing when they are gone.

A local Ray is started for the search and dies with it; `--address` joins a cluster that runs already.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cmp.search.engine.address import cluster_address, require_reachable, token_file
from cmp.search.engine.environment import runtime_environment, set_environment, without_values
from cmp.search.engine.footprint import Node
from cmp.search.engine.roster import Sighting, nodes_of
from cmp.search.engine.watch import VITAL_PROCESSES, HeadWatch, LocalWatch, RayWatch, death_of, descendants
from cmp.space.errors import UserError

if TYPE_CHECKING:
    from cmp.search.engine.ray_private import BaseContext

# Ray keeps 30 % of the memory for its object store; a search passes a few kilobytes through it.
OBJECT_STORE_BYTES = 256 * 2**20

# The lowest priority there is.
DASHBOARD_NICENESS = 19

# What leaving Ray may take; of one that is gone it would take minutes.
SHUTDOWN_SECONDS = 10.0


class RayLostError(BaseException):
    """A Ray that was started here did not come up or lost a process, or the head of a cluster is gone.

    Its text says what happened. Not an `Exception`: Tune would first wait for trials that cannot answer any more.
    """


@dataclass(frozen=True)
class Cluster:
    """A connected Ray.

    Args:
        dashboard: where the dashboard listens, None without one.
        token_file: the file with the token that the dashboard asks for; None when it asks for none.
        watch: whether it is still there; at its head, where the cluster was running before and goes on afterwards.
    """

    dashboard: str | None
    token_file: Path | None
    watch: RayWatch

    @property
    def is_remote(self) -> bool:
        """It was running before."""
        return isinstance(self.watch, HeadWatch)

    def sight(self) -> Sighting:
        """Its machines now."""
        import ray

        from cmp.search.engine.ray_private import autoscaler_is_active, leaving_nodes

        nodes = nodes_of(ray.nodes())
        return Sighting(nodes, leaving_nodes(), autoscaler_is_active()) if self.is_remote else Sighting(nodes)

    def require_alive(self) -> None:
        """Look at the processes of a Ray that was started here, or for the head of another.

        Raises:
            RayLostError: no trial could be placed any more.
        """
        if (lost := self._lost()) is not None:
            raise RayLostError(lost)

    def is_alive(self) -> bool:
        """The same as an answer."""
        return self._lost() is None

    def _lost(self) -> str | None:
        if self.is_remote:
            return self.watch.lost()
        from cmp.search.engine.ray_private import dead_processes

        return next((death_of(name, pid) for name, pid in dead_processes() if name in VITAL_PROCESSES), None)


def local_nodes() -> tuple[Node, ...]:
    """This machine as Ray would see it, without starting Ray."""
    set_environment()
    from cmp.search.engine.ray_private import local_cpus, local_gpus

    return (Node(local_cpus(), local_gpus()),)


def cluster_nodes(address: str | None) -> tuple[Node, ...]:
    """The machines that a search would use; joins the cluster for a moment when there is one."""
    address = cluster_address(address)
    if address is None:
        return local_nodes()
    with connected(address, job_name="dry run") as cluster:
        return cluster.sight().nodes


def callers_cluster() -> str | None:
    """The address of a Ray that this process is in already; None where it is in none."""
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().gcs_address if ray is not None and ray.is_initialized() else None


@contextmanager
def connected(
    address: str | None, *, job_name: str, leave: Callable[[str], None] = lambda lost: None
) -> Iterator[Cluster]:
    """Start a local Ray, or join the one at `address`, and leave it at the end.

    A Ray that this process is in already is the caller's: it is used as it is, and nobody leaves it.

    Args:
        address: host and port; None starts Ray here.
        job_name: for people who look at the dashboard.
        leave: ends the program, in a thread of its own, when Ray is gone while the main thread waits in a call to it.

    Raises:
        UserError: no cluster answers at the address.
        RayLostError: a local Ray did not come up.
    """
    set_environment()
    require_reachable(address)
    from cmp.search.engine.ray_private import keep_quiet

    is_callers = callers_cluster() is not None
    if not is_callers:
        keep_quiet()
    is_own = address is None and not is_callers
    with _own_ray(job_name, leave) if is_own else _running_ray(address, job_name, leave, is_callers) as cluster:
        yield cluster


@contextmanager
def _own_ray(job_name: str, leave: Callable[[str], None]) -> Iterator[Cluster]:
    """A Ray of this process; watched while it starts and while it is stopped, too."""
    import ray

    watch = LocalWatch(leave)
    watch.start()
    try:
        context = _start(job_name)
        try:
            yield Cluster(context.dashboard_url or None, token_file(), watch)
        finally:
            ray.shutdown()
    finally:
        watch.stop()


@contextmanager
def _running_ray(
    address: str | None, job_name: str, leave: Callable[[str], None], is_callers: bool
) -> Iterator[Cluster]:
    """A Ray that goes on afterwards; one of the caller's is neither joined nor left."""
    import ray

    dashboard = None if is_callers else _join(address, job_name).dashboard_url or None
    watch = HeadWatch(ray.get_runtime_context().gcs_address, leave)
    watch.start()
    try:
        yield Cluster(dashboard, token_file(), watch)
    finally:
        is_gone = watch.lost() is not None
        watch.stop()
        if not is_callers:
            _leave(is_gone=is_gone)


def _leave(*, is_gone: bool) -> None:
    """Leave Ray; of a cluster whose head is gone nothing is waited for."""
    import ray

    leaving = threading.Thread(target=ray.shutdown, name="leave-ray", daemon=True)
    if is_gone:
        leaving.start()
        leaving.join(SHUTDOWN_SECONDS)
    else:
        ray.shutdown()


def _start(job_name: str) -> "BaseContext":
    import ray
    from ray.job_config import JobConfig

    try:
        context = ray.init(
            address="local",
            include_dashboard=True,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
            job_config=JobConfig(metadata={"job_name": job_name}),
        )
    except Exception as error:  # Ray raises bare ones; one of its processes was killed, or the machine is too busy
        ray.shutdown()
        raise RayLostError(f"Ray did not start ({_reason(error)})") from None
    _make_dashboard_modest()
    return context


def _make_dashboard_modest() -> None:
    """Let trials go first: the dashboard's ten processes import for seconds just when the first trials start."""
    from cmp.search.engine.ray_private import started_processes

    for root in started_processes("dashboard"):
        for pid in [root, *descendants(root)]:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, pid, DASHBOARD_NICENESS)


def _join(address: str | None, job_name: str) -> "BaseContext":
    import ray
    from ray.job_config import JobConfig

    try:
        return ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=runtime_environment(),
            job_config=JobConfig(metadata={"job_name": job_name}),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        message = f"no Ray cluster answers at {address} ({_reason(error)}); start one with `ray start --head`"
        raise UserError("--address", f"{message}, or leave it out") from None


def _reason(error: Exception) -> str:
    """The first line, without values of variables: Ray quotes whole runtime environments."""
    lines = without_values(str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
