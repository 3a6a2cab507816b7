"""The machines of a search: connecting to them quietly, and noticing when they are gone.

A local Ray is started for the search and dies with it; `--address` joins a cluster that runs already.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cmp.search.engine.address import cluster_address, require_reachable, token_file
from cmp.search.engine.environment import runtime_environment, set_environment, without_values
from cmp.search.engine.footprint import Node
from cmp.search.engine.roster import Sighting, nodes_of
from cmp.space.errors import UserError

if TYPE_CHECKING:
    from cmp.search.engine.ray_private import BaseContext

# Ray keeps 30 % of the memory for its object store; a search passes a few kilobytes through it.
OBJECT_STORE_BYTES = 256 * 2**20

# The lowest priority there is.
DASHBOARD_NICENESS = 19

# Ray's name of a process that no search survives, and ours.
VITAL_PROCESSES = {"raylet": "node manager", "gcs_server": "control store"}

# A head that is away for longer is gone. Ray's own library ends the program, with exit code 1 and without a word,
# after 60 s; a control store that is started again elsewhere takes some seconds.
HEAD_PATIENCE_SECONDS = 30.0
HEAD_PERIOD_SECONDS = 1.0
# What the main thread gets to notice it, too; it may wait in a call to Ray, which does not return.
HEAD_NOTICE_SECONDS = 5.0
HEAD_TIMEOUT_SECONDS = 3.0

# What leaving Ray may take; of one that is gone it would take minutes.
SHUTDOWN_SECONDS = 10.0


class RayLostError(BaseException):
    """A Ray that was started here did not come up or lost a process, or the head of a cluster is gone.

    Its text says what happened. Not an `Exception`: Tune would first wait for trials that cannot answer any more.
    """


@dataclass
class HeadWatch:
    """Knocks at the control store of a cluster in a thread of its own: calls to Ray wait for a head that is gone.

    Args:
        address: host and port.
        leave: called, in that thread, when the head is gone and nobody has called `stop`.
        clock: seconds that never go back.
    """

    address: str
    leave: Callable[[str], None] = lambda lost: None
    clock: Callable[[], float] = time.monotonic
    _seen: float = field(default=0.0)
    _over: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begin."""
        self._seen = self.clock()
        threading.Thread(target=self._watch, name="head-watch", daemon=True).start()

    def stop(self) -> None:
        """End."""
        self._over.set()

    def lost(self) -> str | None:
        """What to say of a head that has not answered for too long; None where it has."""
        if self._over.is_set() or self.clock() - self._seen < HEAD_PATIENCE_SECONDS:
            return None
        return f"the cluster's head ({self.address}) has not answered for {HEAD_PATIENCE_SECONDS:.0f} s"

    def _watch(self) -> None:
        while not self._over.wait(HEAD_PERIOD_SECONDS):
            if self._answers():
                self._seen = self.clock()
            elif (lost := self.lost()) is not None and not self._over.wait(HEAD_NOTICE_SECONDS):
                self.leave(lost)
                return

    def _answers(self) -> bool:
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=HEAD_TIMEOUT_SECONDS).close()
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class Cluster:
    """A connected Ray.

    Args:
        dashboard: where the dashboard listens, None without one.
        token_file: the file with the token that the dashboard asks for; None when it asks for none.
        head: watched, where the cluster was running before and goes on afterwards.
    """

    dashboard: str | None
    token_file: Path | None
    head: HeadWatch | None

    @property
    def is_remote(self) -> bool:
        """It was running before."""
        return self.head is not None

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
        if self.head is not None:
            return self.head.lost()
        from cmp.search.engine.ray_private import dead_processes

        lost = [(VITAL_PROCESSES[name], pid) for name, pid in dead_processes() if name in VITAL_PROCESSES]
        return f"Ray's {lost[0][0]} (process {lost[0][1]}) died" if lost else None


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
def connected(address: str | None, *, job_name: str) -> Iterator[Cluster]:
    """Start a local Ray, or join the one at `address`, and leave it at the end.

    A Ray that this process is in already is the caller's: it is used as it is, and nobody leaves it.

    Raises:
        UserError: no cluster answers at the address.
        RayLostError: a local Ray did not come up.
    """
    set_environment()
    require_reachable(address)
    import ray

    from cmp.search.engine.ray_private import keep_quiet

    is_callers = callers_cluster() is not None
    if is_callers:
        dashboard = None
    else:
        keep_quiet()
        dashboard = (_start(job_name) if address is None else _join(address, job_name)).dashboard_url or None
    head = None if address is None else HeadWatch(ray.get_runtime_context().gcs_address)
    if head is not None:
        head.start()
    try:
        yield Cluster(dashboard, token_file(), head)
    finally:
        is_gone = head is not None and head.lost() is not None
        if head is not None:
            head.stop()
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
        for pid in [root, *_descendants(root)]:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, pid, DASHBOARD_NICENESS)


def _descendants(root: int) -> list[int]:
    """Processes below `root`; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = list(children.get(root, []))
    for pid in found:
        found += children.get(pid, [])
    return found


def _join(address: str, job_name: str) -> "BaseContext":
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
