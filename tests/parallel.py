"""Which tests run side by side under `pytest -n 2`: one worker runs searches on Ray, the other everything else.

A search starts a dozen processes, and two at once on two cores would time their Ctrl-C and their leave against each
other; once nothing else is left, both workers run searches. What a new test is follows from where it lies.
"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

SEARCHES = "tests/whole_program/"
ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The order of xdist's own scheduler by file, with the two kinds of tests apart."""
    from xdist.scheduler import LoadScopeScheduling

    class Apart(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

        def _assign_work_unit(self, node: Any) -> None:
            others = [unit for other in self.nodes if other is not node for unit in pending(self.assigned_work[other])]
            self.workqueue.move_to_end(next_unit(list(self.workqueue), others), last=False)
            super()._assign_work_unit(node)

        def _reschedule(self, node: Any) -> None:
            # One that runs and one that comes next: whoever is free takes what is left, also of a few long tests.
            if node.shutting_down or not self.workqueue or self._pending_of(self.assigned_work[node]) < 2:
                super()._reschedule(node)

    config.option.loadscopereorder = False  # the order of files, not the most tests first
    return Apart(config, log)


def unit_of(nodeid: str) -> str:
    """What goes to one worker as a whole: a file; a search by itself, unless its file's tests share something."""
    path = nodeid.split("::")[0]
    return nodeid if path.startswith(SEARCHES) and not _shares_fixtures(path) else path


@cache
def _shares_fixtures(path: str) -> bool:
    return 'scope="module"' in (ROOT / path).read_text(encoding="utf-8")


def pending(assigned: dict[str, dict[str, bool]]) -> list[str]:
    """Units that a worker has not finished."""
    return [unit for unit, tests in assigned.items() if not all(tests.values())]


def next_unit(waiting: list[str], others: list[str]) -> str:
    """The first search, or, while another worker has searches, the first of the rest; whatever is left at the end."""
    searches = not any(unit.startswith(SEARCHES) for unit in others)
    return next((unit for unit in waiting if unit.startswith(SEARCHES) == searches), waiting[0])
