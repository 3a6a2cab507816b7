"""The page of measured numbers, from the files that the benchmarks wrote: `python -m tests.benchmarks.page` writes it.

A test holds `README.md` beside this to `results/*.json`, so that no number stands there without its file.
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
UNSHOWN = {"text", "base", "nested"}  # too long for a table; they are in the file
INTRODUCTION = """# Results as data

Every table here is made from a file in `results/` by `python -m tests.benchmarks.page`; each file has the command,
commit, date and machine that it was measured with. Machines are noisy: compare ratios and medians, not seconds of one
run. What did not help stays here as rows, while its code was deleted.
"""


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join([INTRODUCTION, *(_section(path) for path in sorted((HERE / "results").glob("*.json")))])


def _section(path: Path) -> str:
    measured = json.loads(path.read_text(encoding="utf-8"))
    machine, rows = measured["machine"], measured["rows"]
    where = ", ".join(str(machine[name]) for name in ("processor", "cores", "memory") if machine.get(name))
    commit = (measured["commit"] or "unknown")[:9]
    facts = f"`{measured['command']}`, commit {commit}, {measured['date'][:10]}; {where}"
    title = path.stem.replace("-", " ").capitalize()
    return f"## {title}\n\n{measured['notes']}\n\n{_table(rows)}\n\n{facts} ([data](results/{path.name})).\n"


def _table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in UNSHOWN))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(name)) for name in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.5g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return "" if value is None else str(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
