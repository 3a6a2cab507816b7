"""All that is used of Ray beside its public interface. Read in the sources of ray 2.60.0; look here when Ray changes.

Imported only after `cluster.set_environment`: importing Ray reads the environment.
"""

from collections.abc import Iterator
from typing import Any

from ray._private import worker
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray._private.utils import get_num_cpus
from ray._private.worker import BaseContext
from ray._raylet import setproctitle as set_process_title  # type: ignore[attr-defined]

__all__ = [
    "BaseContext",
    "datasets_callback",
    "dead_processes",
    "local_cpus",
    "local_gpus",
    "set_process_title",
    "started_processes",
]


def dead_processes() -> list[tuple[str, int]]:
    """(name, process id) of what Ray started on this machine, for this driver, and what has ended since."""
    node = worker._global_node
    return [] if node is None else [(name, process.pid) for name, process in node.dead_processes()]


def started_processes(name: str) -> Iterator[int]:
    """Process ids of what Ray started under `name` (ray_constants: "dashboard", "raylet", "gcs_server", ...)."""
    node = worker._global_node
    started: list[Any] = node.all_processes.get(name, []) if node is not None else []
    return (info.process.pid for info in started)


def local_cpus() -> float:
    """CPU cores that Ray would find on this machine, within the limits of a container."""
    return float(get_num_cpus())


def local_gpus() -> float:
    """GPUs that Ray would find on this machine."""
    manager = get_accelerator_manager_for_resource("GPU")
    return float(manager.get_current_node_num_accelerators() if manager else 0)


def datasets_callback() -> type:
    """The callback of Ray Train that starts Ray Data's manager; a trainer adds it in `_create_default_callbacks`."""
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback

    return DatasetsCallback
