"""space.yaml in a results folder: the space with every default filled in, and what it was run with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cmp.store import write_text


def write_space_file(path: Path, space: Mapping[str, Any], versions: Mapping[str, str], commit: str | None) -> None:
    """Write the resolved space (plain values) in one step, the versions and the git commit as comments above it.

    The result is a space file itself: `python search.py results/demo/space.yaml` means the same search.
    """
    header = [
        "# Written by the search: the space with every default filled in.",
        "# versions: " + ", ".join(f"{package} {number}" for package, number in versions.items()),
        f"# commit: {commit or 'unknown'}",
    ]
    body = yaml.safe_dump(dict(space), sort_keys=False, allow_unicode=True)
    write_text(path, "\n".join(header) + "\n" + body)


def read_space_file(path: Path) -> dict[str, Any]:
    """The resolved space, for `Space.from_dict`. Versions and commit are in the journal's session events."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))
