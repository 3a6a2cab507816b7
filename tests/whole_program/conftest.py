"""What whole searches share: each start of Ray takes half a minute of a core."""

import os

import pytest
from filelock import FileLock

from tests.whole_program.harness import ONE_AT_A_TIME, Search


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """A search that nothing happened to, one trial after the other; made once, also for several workers of xdist."""
    base = tmp_path_factory.getbasetemp()
    search = Search((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "unbroken", ONE_AT_A_TIME)
    done = search.root / "done"
    with FileLock(search.root / "lock"):
        if not done.exists():
            run = search.start()
            assert run.wait(200) == 0, run.text()
            done.touch()
    return search
