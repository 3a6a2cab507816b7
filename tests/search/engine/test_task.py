"""Work outside any trial, in real Ray: what becomes of it when its process dies, fails, or nobody wants it any more."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import ray

from cmp.search.engine.environment import set_environment
from cmp.search.engine.footprint import Footprint
from cmp.search.engine.task import TaskError, run_task
from tests.search.engine.broken import answer_after_deaths, raise_error, wait_for_ever

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def connected() -> Iterator[None]:
    set_environment()
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def run(work: partial[str], must_leave: bool = False) -> str | None:
    return run_task(work, Footprint(1, 1, 0), must_leave=lambda: must_leave, timeout_seconds=200.0)


def test_work_whose_process_dies_is_done_again_and_not_for_ever(tmp_path: Path) -> None:
    """A machine that went while the best compressors were scored cost the search its scores."""
    assert run(partial(answer_after_deaths, 2, tmp_path)) == "cpu"
    with pytest.raises(TaskError):
        run(partial(answer_after_deaths, 99, tmp_path))


def test_an_error_of_the_work_is_told_in_a_line_and_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"^ValueError: no such layer$"):
        run(partial(raise_error, tmp_path))
    assert len(list(tmp_path.iterdir())) == 1


def test_work_that_nobody_wants_any_more_is_ended(tmp_path: Path) -> None:
    assert run(partial(wait_for_ever), must_leave=True) is None
    assert run(partial(answer_after_deaths, 0, tmp_path)) == "cpu", "the place is free again"
