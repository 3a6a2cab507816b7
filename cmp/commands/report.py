"""`python -m cmp report FOLDER`: rebuild report.html from the journal."""

import argparse
import sys
from pathlib import Path

from cmp.report.page import write_page
from cmp.results.folder import ResultsFolder
from cmp.space.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Write the page and print where it is; 2 when the folder holds no search or its journal is damaged."""
    parser = argparse.ArgumentParser(prog="python -m cmp report", description="Rebuild report.html from the journal.")
    parser.add_argument("folder", type=Path, help="a results folder, such as results/demo")
    folder = parser.parse_args(arguments).folder
    results = ResultsFolder(folder)
    if not (results.has_history() and results.space.exists()):
        print(
            f"{folder}: no journal.jsonl and space.yaml here; give a results folder, such as results/demo",
            file=sys.stderr,
        )
        return 2
    try:
        print(write_page(folder))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
