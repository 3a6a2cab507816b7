"""Measured numbers as data: `results/NAME.json` with the command, commit, date and machine beside the rows.

The benchmarks call it; `tests.benchmarks.page` makes a page of the files.
"""

import shlex
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmp.results.provenance import git_commit, hardware, versions
from cmp.store import write_json

RESULTS = Path(__file__).parent / "results"


def record(name: str, module: str, notes: str, rows: Iterable[dict[str, Any]], folder: Path = RESULTS) -> Path:
    """Write a file of rows, in place of an earlier one, and return its path.

    Args:
        name: of the file, without its ending; the page's title.
        module: the benchmark's; with this process's arguments it is the command that measured.
        notes: what was measured and what it says.
        rows: one line of the table each; columns are their keys.
        folder: where the file goes.
    """
    measured = {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "machine": hardware(),
        "versions": versions(),
        "notes": notes,
    }
    path = folder / f"{name}.json"
    write_json(path, {**measured, "rows": list(rows)})
    return path
