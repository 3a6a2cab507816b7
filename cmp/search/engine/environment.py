"""What Ray and its processes get from the environment: here, on other machines, and what must never travel.

A runtime environment stands in clear in the dashboard, in the job's metadata and in logs of every node. So nothing that
looks like a secret goes into one, and no value of a variable into a message.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from cmp.space.errors import UserError

# Read by Ray in the driver, in the trials' processes and in their workers. Workers run at niceness 15 by default:
# beside anything else that computes, training would nearly stand still. So it would with several threads that spin
# while they wait for each other: ten times slower on two cores with two others.
TRIAL_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",
}

# Read by Ray Tune in the driver. Its own tables, loggers, snapshots and signal handling are not wanted here. How many
# trials wait for their place is decided by the search.
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
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000000",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S_AUTOSCALER": "1000000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
}

# What users set for themselves and workers on other nodes need too. Trackers run in the driver.
TRAVELLING_PREFIXES = ("HF_", "TRANSFORMERS_", "CMP_", "OMP_", "NCCL_", "GLOO_", "TORCH_")
# Where an object store is. Who may use it each machine knows for itself.
TRAVELLING_NAMES = (
    "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_PROFILE",
    "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ENDPOINT",
)  # fmt: skip

_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
_PLACE_NAME = re.compile(r"(_PATH|_FILE|_DIR|_HOME)$")
_SECRET_VALUE = re.compile(r"://[^/\s]*@")

# What the job that this program runs in was given: `ray job submit` sets it.
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"

# Ray takes 500 MiB; the package is a few hundred kilobytes.
MAX_PACKAGE_BYTES = 50 * 2**20


def set_environment() -> None:
    """Set what Ray and torch's threads read when they are imported; what the user has set already stays."""
    for name, value in {**TRIAL_ENVIRONMENT, **DRIVER_ENVIRONMENT}.items():
        os.environ.setdefault(name, value)


def is_secret(name: str, value: str) -> bool:
    """Could this variable give something away? By its name, or as an address with a password in it."""
    by_name = _SECRET_NAME.search(name) is not None and _PLACE_NAME.search(name) is None
    return by_name or _SECRET_VALUE.search(value) is not None


def travelling_environment() -> dict[str, str]:
    """Variables that processes on other nodes get."""
    mine = {name: value for name, value in os.environ.items() if _travels(name)}
    kept = {name: value for name, value in mine.items() if not is_secret(name, value)}
    return {**kept, **{name: os.environ[name] for name in TRIAL_ENVIRONMENT}}


def _travels(name: str) -> bool:
    return name.startswith(TRAVELLING_PREFIXES) or name in TRAVELLING_NAMES


def withheld_names() -> list[str]:
    """Variables of the same kinds that stay here, because they look like secrets."""
    names = [name for name in os.environ if _travels(name)]
    return sorted(name for name in names if is_secret(name, os.environ[name]))


def runtime_environment() -> dict[str, Any]:
    """What this program adds to the runtime environment of its processes on a running cluster.

    A job that was submitted with a runtime environment of its own keeps that: only what it lacks is added, because Ray
    refuses two that name the same thing.

    Raises:
        UserError: the package is too large to be sent.
    """
    given = _given_by_job()
    variables = {k: v for k, v in travelling_environment().items() if k not in given.get("env_vars", {})}
    brings_code = "working_dir" in given or "py_modules" in given
    return {"env_vars": variables, **({} if brings_code else package_to_send())}


def package_to_send() -> dict[str, Any]:
    """The package itself, for nodes that do not have it; nothing beside it: no data, no results, no `.env`.

    An installed package is on the other nodes, too.

    Raises:
        UserError: something large lies in it; the largest files are named.
    """
    package = Path(__file__).resolve().parents[2]
    if "site-packages" in package.parts:
        return {}
    _require_small(package)
    return {"py_modules": [str(package)], "excludes": ["**/__pycache__/"]}


def _require_small(package: Path) -> None:
    files = [path for path in package.rglob("*") if path.is_file()]
    sizes = {path: path.stat().st_size for path in files}
    if sum(sizes.values()) > MAX_PACKAGE_BYTES:
        largest = sorted(files, key=lambda path: -sizes[path])[:3]
        names = ", ".join(f"{path} ({sizes[path] / 2**20:.0f} MiB)" for path in largest)
        raise UserError(None, f"{package} is sent to all nodes and is too large for that; move away: {names}")


def _given_by_job() -> dict[str, Any]:
    """The runtime environment of the job that this program is the driver of."""
    try:
        config = json.loads(os.environ.get(_JOB_CONFIG) or "{}")
    except ValueError:
        return {}
    return config.get("runtime_env") or {}


def without_values(text: str) -> str:
    """A text of Ray's that may quote variables, without their values."""
    for name, value in sorted(os.environ.items(), key=lambda item: -len(item[1])):
        if len(value) >= 4 and (is_secret(name, value) or _travels(name)):
            text = text.replace(value, f"<{name}>")
    return text


def last_line(error: BaseException) -> str:
    """What an error of Ray's comes to: the last line of its text, often a traceback; without values of variables."""
    lines = [line.strip() for line in without_values(str(error)).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
