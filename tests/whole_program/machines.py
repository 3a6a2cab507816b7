"""Clusters of several Ray nodes on one machine: nodes that come, go, and see other files than the others."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.whole_program.harness import REPOSITORY, Run, Search, descendants

START_SECONDS = 90.0
RAY = [sys.executable, "-m", "ray.scripts.scripts"]

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="namespaces need root and unshare"
)


@dataclass
class Machines:
    """A head without CPUs, and nodes of one CPU each.

    Args:
        address: of the head.
        environment: of all nodes, and of programs that join.
        marks: where programs that are slowed down note their first loop.
    """

    cluster: Any
    environment: dict[str, str]
    marks: Path
    by_name: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Host and port of the control store."""
        return self.cluster.address

    @property
    def dashboard(self) -> str:
        """Where the dashboard and the job server listen."""
        return f"http://{self.cluster.head_node.webui_url}"

    @property
    def session(self) -> str:
        """Folder of all logs."""
        return self.cluster.head_node.get_session_dir_path()

    def add(self, name: str, cpus: float = 1, **options: Any) -> None:
        """One node more."""
        self.by_name[name] = self.cluster.add_node(num_cpus=cpus, node_name=name, **options)

    def remove(self, name: str) -> None:
        """A node goes at once, as when its power is cut."""
        node = self.by_name.pop(name)
        if isinstance(node, subprocess.Popen):
            for pid in [node.pid, *descendants(node.pid)]:
                kill(pid)
            node.wait()
        else:
            self.cluster.remove_node(node, allow_graceful=False)

    def add_hiding(self, name: str, *hidden: Path, cpus: int = 1, variables: dict[str, str] | None = None) -> None:
        """A node that sees empty folders in the place of some: as a machine on which they are not mounted."""
        for path in hidden:
            path.mkdir(parents=True, exist_ok=True)
        mounts = " && ".join(f"mount -t tmpfs none '{path}'" for path in hidden)
        start = " ".join([*RAY, "start", f"--address={self.address}", f"--num-cpus={cpus}", f"--node-name={name}"])
        command = f"{mounts} && exec {start} --block --disable-usage-stats"
        output = (self.marks / f"{name}.txt").open("w")
        self.by_name[name] = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", command],
            env={**self.environment, **(variables or {})},
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        wait_for(lambda: name in self.names(), f"node {name} did not join", START_SECONDS)

    def kill_head(self) -> None:
        """The head goes at once, its control store with it."""
        head = self.cluster.head_node
        for info in (process for kind in head.all_processes.values() for process in kind):
            kill(info.process.pid)

    def names(self) -> set[str]:
        """Names of the nodes that are alive, asked without joining."""
        from ray._raylet import GcsClient

        rows = GcsClient(address=self.address).get_all_node_info(timeout=10)
        return {row.node_name for row in rows.values() if row.state == 0}

    def tell_to_go(self, name: str, seconds: float = 600.0) -> None:
        """Give a node notice, as a cloud does before it takes a spot machine back."""
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        client = GcsClient(address=self.address)
        row = next(row for row in client.get_all_node_info(timeout=10).values() if row.node_name == name)
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + seconds) * 1000)
        accepted, why = client.drain_node(row.node_id.hex(), reason, "spot notice", deadline_ms)
        assert accepted, why

    def start(self, search: Search, *arguments: str, epoch_seconds: float = 0.0, **variables: str) -> Run:
        """Type the command of a search, with this cluster's address."""
        environment = {**self.environment, **variables}
        return search.start("--address", self.address, *arguments, epoch_seconds=epoch_seconds, environment=environment)

    def end(self) -> None:
        """Stop everything."""
        for name in [name for name, node in self.by_name.items() if isinstance(node, subprocess.Popen)]:
            self.remove(name)
        self.cluster.shutdown()


@contextmanager
def machines(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, epoch_seconds: float = 0.0, dashboard: bool = False
) -> Iterator[Machines]:
    """A cluster with a head alone. Trials are slowed down by so many seconds an epoch, to have time for faults."""
    (folder / "marks").mkdir(parents=True, exist_ok=True)
    for name, value in {
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(REPOSITORY),
        "CRASH_EPOCH_SECONDS": str(epoch_seconds),
        "CRASH_FIRST_LOOP": str(folder / "marks" / "first-loop"),
        "CRASH_HOLD": str(folder / "hold"),
    }.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": dashboard})
    here = Machines(cluster, dict(os.environ), folder / "marks")
    try:
        yield here
    finally:
        here.end()


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120.0) -> None:
    """Return once the condition holds.

    Raises:
        AssertionError: it did not in time.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} after {seconds} s"
        time.sleep(0.1)


def wait_in(run: Run, condition: Callable[[], Any], seconds: float = 200.0) -> None:
    """Return once the condition holds while the program runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert run.process.poll() is None and time.monotonic() < end, run.text()
        time.sleep(0.1)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
