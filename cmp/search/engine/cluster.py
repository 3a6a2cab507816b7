"""The machines of a search: what there is, and connecting to it quietly.

A local Ray is started for the search and dies with it; `--address` joins a cluster that runs already. Everything
that Ray reads from the environment is set here, before Ray is imported.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cmp.search.engine.footprint import Node
from cmp.space.errors import UserError

if TYPE_CHECKING:
    from cmp.search.engine.ray_private import BaseContext

# Ray keeps 30 % of the memory for its object store; a search passes a few kilobytes through it.
OBJECT_STORE_BYTES = 256 * 2**20

REACH_TIMEOUT_SECONDS = 5.0

# The lowest priority there is.
DASHBOARD_NICENESS = 19

# Read by Ray in the driver, in the trials' processes and in their workers. Ray Train's controller looks every
# 2 s by default, which delays the end of every trial by as much; the preemption watcher costs a process per trial.
# Workers run at niceness 15 by default: beside anything else that computes, training would nearly stand still. So it
# would with several threads that spin while they wait for each other: ten times slower on two cores with two others.
TRIAL_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",
}

# Read by Ray Tune in the driver. Its own tables, loggers, snapshots and signal handling are not wanted here.
DRIVER_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",
    "TUNE_WARN_THRESHOLD_S": "30",
}

# Ray's name of a process that no search survives, and ours.
VITAL_PROCESSES = {"raylet": "node manager", "gcs_server": "control store"}

# What users set for themselves and workers on other nodes need too.
TRAVELLING_PREFIXES = ("HF_", "TRANSFORMERS_", "CMP_", "OMP_", "NCCL_", "GLOO_", "TORCH_", "WANDB_", "MLFLOW_")


class RayLostError(BaseException):
    """A Ray that was started here did not come up or lost a process; its text says what happened.

    Not an `Exception`: Tune would first wait for trials that cannot answer any more.
    """


@dataclass(frozen=True)
class Cluster:
    """A connected Ray.

    Args:
        nodes: its machines.
        dashboard: where the dashboard listens, None without one.
        token_file: the file with the token that the dashboard asks for; None when it asks for none.
        is_remote: it was running before and goes on afterwards.
    """

    nodes: tuple[Node, ...]
    dashboard: str | None
    token_file: Path | None
    is_remote: bool

    def require_alive(self) -> None:
        """Look at the processes of a Ray that was started here; without them no trial could be placed any more.

        Raises:
            RayLostError: the raylet or the control store (GCS) is gone.
        """
        if (lost := self._lost()) is not None:
            raise RayLostError(lost)

    def is_alive(self) -> bool:
        """The same as an answer."""
        return self._lost() is None

    def _lost(self) -> str | None:
        if self.is_remote:
            return None
        from cmp.search.engine.ray_private import dead_processes

        lost = [(VITAL_PROCESSES[name], pid) for name, pid in dead_processes() if name in VITAL_PROCESSES]
        return f"Ray's {lost[0][0]} (process {lost[0][1]}) died" if lost else None


def set_environment() -> None:
    """Set what Ray and torch's threads read when they are imported; what the user has set already stays."""
    for name, value in {**TRIAL_ENVIRONMENT, **DRIVER_ENVIRONMENT}.items():
        os.environ.setdefault(name, value)


def local_nodes() -> tuple[Node, ...]:
    """This machine as Ray would see it, without starting Ray."""
    set_environment()
    from cmp.search.engine.ray_private import local_cpus, local_gpus

    return (Node(local_cpus(), local_gpus()),)


def cluster_nodes(address: str | None) -> tuple[Node, ...]:
    """The machines that a search would use; joins the cluster for a moment when there is an address."""
    if address is None:
        return local_nodes()
    with connected(address, job_name="dry run") as cluster:
        return cluster.nodes


def require_reachable(address: str | None) -> None:
    """Fail in seconds when nobody listens at an address: Ray itself would try for minutes.

    Raises:
        UserError: nobody does, or it is an address for Ray's remote client, in which a search cannot run.
    """
    if address is None or ":" not in address:
        return
    if "://" in address:
        message = f"{address} is for Ray's remote client; run the search on a machine of the cluster, with host:6379"
        raise UserError("--address", message)
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_TIMEOUT_SECONDS).close()
    except (OSError, ValueError) as error:
        message = f"nobody answers at {address} ({error}); start a cluster with `ray start --head`, or leave it out"
        raise UserError("--address", message) from error


@contextmanager
def connected(address: str | None, *, job_name: str) -> Iterator[Cluster]:
    """Start a local Ray, or join the one at `address`, and leave it at the end.

    Raises:
        UserError: no cluster answers at the address.
        RayLostError: a local Ray did not come up.
    """
    set_environment()
    require_reachable(address)
    import ray

    context = _start(job_name) if address is None else _join(address, job_name)
    try:
        nodes = tuple(_nodes(ray.nodes()))
        yield Cluster(nodes, context.dashboard_url or None, _token_file(), address is not None)
    finally:
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
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RayLostError(f"Ray did not start ({reason})") from None
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
            runtime_env={"env_vars": _travelling_environment(), **_working_dir()},
            job_config=JobConfig(metadata={"job_name": job_name}),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        message = f"no Ray cluster answers at {address} ({reason}); start one with `ray start --head`, or leave it out"
        raise UserError("--address", message) from error


def _travelling_environment() -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if name.startswith(TRAVELLING_PREFIXES)}
    return {**mine, **{name: os.environ[name] for name in TRIAL_ENVIRONMENT}}


def _working_dir() -> dict[str, object]:
    """Ship this package's source to nodes that do not have it; an installed package is already there."""
    root = Path(__file__).resolve().parents[3]
    if "site-packages" in root.parts:
        return {}
    excludes = [f"/{path.name}/" for path in root.iterdir() if path.is_dir() and path.name != "cmp"]
    return {"working_dir": str(root), "excludes": excludes}


def _nodes(rows: list[dict]) -> Iterator[Node]:
    for row in rows:
        if row["Alive"]:
            yield Node(row["Resources"].get("CPU", 0.0), row["Resources"].get("GPU", 0.0))


def _token_file() -> Path | None:
    """Where Ray keeps the dashboard's token, when it asks for one."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return None
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    return path if path.exists() else None
