"""Real searches, real Ray, real SIGKILLs: a search that is killed anywhere ends like one that never was.

Few and chained, because every start of Ray takes seconds. The long chain is one of the slow tests, and
`python -m tests.whole_program.crash` kills a hundred times.
"""

from pathlib import Path

import pytest

from tests.search.check_journal import trajectory, violations
from tests.whole_program.harness import ONE_AT_A_TIME, Search

# Where each start of the chained search dies, and at which time that this point is reached. The last one kills a
# trial's process: that start goes on to the end by itself.
CHAIN = [
    ("during-tokenization", 1),
    ("torn-reported", 3),
    ("during-best", 1),
    ("torn-checkpoint", 2),
]
LONG_CHAIN = [
    ("after-suggested", 1),
    ("before-finished", 1),
    ("after-reported", 2),
    *CHAIN[1:],
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("chain", [CHAIN, pytest.param(LONG_CHAIN, marks=pytest.mark.slow)], ids=["short", "long"])
def test_a_search_killed_at_one_point_after_the_other_ends_like_an_unbroken_one(
    tmp_path: Path, unbroken: Search, chain: list[tuple[str, int]]
) -> None:
    broken = Search(tmp_path, ONE_AT_A_TIME)
    for point, count in chain:
        run = broken.start(point=point, count=count)
        code = run.wait(150)
        assert run.mark.exists(), f"{point} was not reached; exit code {code}:\n{run.text()}"
        assert code == (0 if point == "torn-checkpoint" else -9), run.text()

    assert violations(broken.journal, ended=True) == []
    assert trajectory(broken.journal) == trajectory(unbroken.journal)
