"""Where a running cluster is, and whether it lets this program in: asked in a second, before anything is done.

`ray.init` itself tries for a minute where nobody listens or the token is another, and then says something else.
"""

import os
import socket
from pathlib import Path

from cmp.search.engine.environment import set_environment, without_values
from cmp.space.errors import UserError

REACH_TIMEOUT_SECONDS = 5.0

_COPY_TOKEN = (
    "copy ~/.ray/auth_token from the machine where `ray start --head` ran (chmod 600), or start all of the cluster and "
    "this program with RAY_AUTH_MODE=disabled"
)


def cluster_address(argument: str | None) -> str | None:
    """What `--address` says, else RAY_ADDRESS (`ray job submit` sets it); None starts Ray on this machine."""
    address = argument or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address


def require_reachable(address: str | None) -> None:
    """Shake hands with the cluster's control store.

    Raises:
        UserError: nobody answers, it wants another token or another version, or it is an address for something else.
    """
    if address is None:
        return
    if "://" in address:
        message = f"{address} is for Ray's remote client or its job server; run the search on a machine of the cluster"
        raise UserError("--address", f"{message}, with --address auto or host:6379")
    set_environment()
    host_and_port = _resolve(address)
    _require_listening(host_and_port)
    _require_admission(host_and_port)


def _resolve(address: str) -> str:
    """The control store's host and port; `auto` is the cluster that was started last on this machine."""
    if address != "auto":
        return address
    from cmp.search.engine.ray_private import address_of_local_cluster

    found = address_of_local_cluster()
    if found is None:
        message = "auto, but no cluster runs on this machine; start one with `ray start --head`, or leave it out"
        raise UserError("--address", message)
    return found


def _require_listening(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_TIMEOUT_SECONDS).close()
    except (OSError, ValueError) as error:
        message = f"nobody answers at {address} ({error}); start a cluster with `ray start --head`, or leave it out"
        raise UserError("--address", message) from error


def _require_admission(address: str) -> None:
    from cmp.search.engine.ray_private import Greeting, greet

    greeting = greet(address)
    if greeting is Greeting.NO_TOKEN:
        raise UserError(
            "--address", f"the cluster at {address} asks for a token, and there is none here; {_COPY_TOKEN}"
        )
    if greeting is Greeting.WRONG_TOKEN:
        raise UserError(
            "--address", f"the cluster at {address} asks for another token than the one here; {_COPY_TOKEN}"
        )
    if isinstance(greeting, str):
        raise UserError(
            "--address", f"the cluster at {address} does not answer as one of Ray ({without_values(greeting)})"
        )
    theirs, ours = greeting
    if theirs != ours:
        message = f"the cluster at {address} runs {theirs}, this program {ours}; they must be the same"
        raise UserError("--address", message)


def token_file() -> Path | None:
    """Where the token lies that the dashboard and the cluster ask for, when they do."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return None
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    return path if path.exists() else None
