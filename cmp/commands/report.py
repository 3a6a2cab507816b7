"""`python -m cmp report FOLDER`: rebuild report.html from the journal."""

import argparse

from cmp.commands.shared import run
from cmp.report.page import write_page
from cmp.results.opening import reading
from cmp.space.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Write the page and print where it is; 2 when the folder holds no search or its journal is damaged."""
    parser = argparse.ArgumentParser(prog="python -m cmp report", description="Rebuild report.html from the journal.")
    parser.add_argument("folder", help="a results folder or its URL, such as results/demo")
    place = parser.parse_args(arguments).folder
    return run(lambda: print(report(place)))


def report(place: str) -> str:
    """Write the page where the results are; returns its place.

    Raises:
        UserError: there is no search, or its journal is damaged.
    """
    with reading(place) as results:
        if not (results.has_history() and results.space.exists()):
            message = f"{place}: no journal.jsonl and space.yaml here; give a results folder, such as results/demo"
            raise UserError(None, message)
        page = write_page(results.path)
        results.home.briefly.send(page.name)
        return f"{results}/{page.name}"
