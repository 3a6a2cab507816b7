"""A file of measured numbers in `results/`, with what it takes to judge them. Called by benchmarks that write one."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmp.store import write_json

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "ray", "optuna")


def write_measured(name: str, command: str, notes: str, rows: Sequence[dict[str, Any]]) -> Path:
    """Write `results/<name>.json`; `python -m tests.benchmarks.page` puts it on the page."""
    path = RESULTS / f"{name}.json"
    content = {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": _machine(),
        "versions": {package: importlib.metadata.version(package).split("+")[0] for package in PACKAGES},
        "notes": notes,
        "rows": list(rows),
    }
    write_json(path, content)
    return path


def _commit() -> str | None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=RESULTS, capture_output=True, text=True, check=False)
    return done.stdout.strip()[:9] or None


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = platform.machine().replace("_", "-")
    return {"processor": f"shared {machine}", "cores": os.cpu_count(), "memory": f"{memory:.0f} GiB"}
