"""All that is used of Ray beside its public interface. Read in the sources of ray 2.60.0; look here when Ray changes.

Imported only after `cluster.set_environment`: importing Ray reads the environment.
"""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ray._private import services, worker
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.state import state
from ray._private.utils import check_version_info, compute_version_info, get_num_cpus
from ray._private.worker import BaseContext
from ray._raylet import AuthenticationTokenLoader, GcsClient, NodeID  # type: ignore[attr-defined]
from ray._raylet import setproctitle as set_process_title  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError
from ray.experimental import internal_kv

__all__ = [
    "BaseContext",
    "Greeting",
    "Versions",
    "address_of_local_cluster",
    "autoscaler_is_active",
    "dead_processes",
    "greet",
    "keep_quiet",
    "kv_delete",
    "kv_read",
    "kv_write",
    "leaving_nodes",
    "local_controller",
    "local_cpus",
    "local_gpus",
    "node_of_actor",
    "set_process_title",
    "started_processes",
]

GREETING_SECONDS = 10.0
_KV_NAMESPACE = "cmp"


def keep_quiet() -> None:
    """Let Ray not print what its node managers say, pages of it where one dies: the search says it in a line."""
    worker.print_to_stdstream = lambda *_, **__: None


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


def node_of_actor(actor_id: str | None) -> str | None:
    """The node on which an actor's process is or was, also when it never came up; None when nobody knows."""
    row = state.actor_table(actor_id) if actor_id else None
    node = (row or {}).get("Address", {}).get("NodeID")
    return None if not node or node == NodeID.nil().hex() else node


def leaving_nodes() -> frozenset[str]:
    """Nodes that were told to go, by an autoscaler or a spot notice."""
    return frozenset(state.get_draining_nodes())


def local_controller(name: str | None) -> Any:
    """What runs a `TorchTrainer` in the process at hand, without a process group of its own."""
    from ray.train.v2._internal.execution.local_mode.utils import LocalController

    return LocalController(name or "")


def kv_write(key: str, value: bytes) -> None:
    """Store a value in the cluster's control store, for all processes."""
    internal_kv._internal_kv_put(key, value, namespace=_KV_NAMESPACE)


def kv_read(key: str) -> bytes | None:
    """The value under a key; None where there is none, or no Ray."""
    if not internal_kv._internal_kv_initialized():
        return None
    return internal_kv._internal_kv_get(key, namespace=_KV_NAMESPACE)


def kv_delete(key: str) -> None:
    """Remove a key."""
    internal_kv._internal_kv_del(key, namespace=_KV_NAMESPACE)


def address_of_local_cluster() -> str | None:
    """Host and port of the cluster that `auto` means."""
    try:
        return services.canonicalize_bootstrap_address("auto")
    except (ConnectionError, ValueError):
        return None


class Greeting(Enum):
    """Answers of a control store that lets nobody in."""

    NO_TOKEN = "no token"
    WRONG_TOKEN = "wrong token"


@dataclass(frozen=True)
class Versions:
    """Of Ray and Python: both ends must have the same, because they exchange pickled objects."""

    ray: str
    python: str

    def __str__(self) -> str:
        return f"Ray {self.ray} on Python {self.python}"


_METADATA_KEY, _METADATA_NAMESPACE = b"CLUSTER_METADATA", b"cluster"


def greet(address: str, timeout_seconds: float = GREETING_SECONDS) -> tuple[Versions, Versions] | Greeting | str:
    """Ask a control store for its versions: without a token, and where it wants one, with the one here.

    A driver that has a token asks everybody for it, and its trials' processes die on a cluster that has none. So
    whether this process uses one follows from the cluster, unless the user has decided (RAY_AUTH_MODE).

    Returns:
        The cluster's versions and ours, as the same where Ray takes them for the same; or why we are not let in; or
        another reason, in Ray's words.
    """
    decided = os.environ.get("RAY_AUTH_MODE", "").lower()
    if decided == "token" and not _has_token():
        return Greeting.NO_TOKEN  # with it the library would end the process
    answer = _ask_versions(address, timeout_seconds)
    if answer is None and not decided:
        if not _has_token():
            return Greeting.NO_TOKEN
        logging.getLogger(maybe_enable_token_auth_if_token_available.__module__).setLevel(logging.ERROR)
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        answer = _ask_versions(address, timeout_seconds)
    elif not decided:
        os.environ["RAY_AUTH_MODE"] = "disabled"
    if answer is None:
        return Greeting.NO_TOKEN if decided == "disabled" else Greeting.WRONG_TOKEN
    return answer


def _has_token() -> bool:
    tokens = AuthenticationTokenLoader.instance()
    has_token = tokens.has_token(ignore_auth_mode=True)
    tokens.reset_cache()  # a token that it remembers is asked for, whatever the mode
    return has_token


def _ask_versions(address: str, timeout_seconds: float) -> tuple[Versions, Versions] | str | None:
    """The cluster's versions and ours, another reason, or None where another token is wanted."""
    try:
        content = GcsClient(address=address).internal_kv_get(
            _METADATA_KEY, _METADATA_NAMESPACE, timeout=timeout_seconds
        )
        metadata = json.loads(content)
    except AuthenticationError:
        return None
    except Exception as error:  # of many types, from compiled code
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    theirs = Versions(metadata["ray_version"], metadata["python_version"])
    try:
        check_version_info(metadata, "here")
    except RuntimeError:
        return theirs, Versions(*compute_version_info()[:2])
    return theirs, theirs


def autoscaler_is_active() -> bool:
    """Does an autoscaler start machines for this cluster?

    Its monitor runs everywhere and notes what it sees; without an autoscaler, a node's type is its own id.
    """
    status = json.loads(internal_kv._internal_kv_get("__autoscaling_status") or b"{}")
    types = (status.get("autoscaler_report") or {}).get("node_type_mapping") or {}
    if any(not name.startswith("node_") for name in types.values()):
        return True
    reply = GetClusterStatusReply()
    reply.ParseFromString(internal_kv.internal_kv_get_gcs_client().get_cluster_status(timeout_s=GREETING_SECONDS))
    return any(node.ray_node_type_name for node in reply.cluster_resource_state.node_states)
