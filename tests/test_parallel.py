"""One worker runs searches on Ray, the other everything else, and at the end both run what is left."""

import pytest

from tests.parallel import next_unit, pending, unit_of

PLAIN, SEARCH, OTHER_SEARCH = "tests/space/test_a.py", "tests/whole_program/test_b.py::one", "tests/whole_program/x.py"


@pytest.mark.parametrize(
    ("waiting", "others", "expected"),
    [
        ([PLAIN, SEARCH, OTHER_SEARCH], [], SEARCH),
        ([PLAIN, OTHER_SEARCH], [SEARCH], PLAIN),
        ([SEARCH, PLAIN], [PLAIN], SEARCH),
        ([SEARCH], [OTHER_SEARCH], SEARCH),
        ([PLAIN], [], PLAIN),
    ],
    ids=["the first gets a search", "the second does not", "searches come first", "none is kept waiting", "the rest"],
)
def test_searches_run_one_at_a_time_while_there_is_anything_else(
    waiting: list[str], others: list[str], expected: str
) -> None:
    assert next_unit(waiting, others) == expected


def test_a_search_is_a_unit_by_itself_where_its_file_shares_nothing() -> None:
    crash, pages = "tests/whole_program/test_crash.py::test_x[1]", "tests/whole_program/test_pages.py::test_y"

    assert unit_of(crash) == crash
    assert unit_of(pages) == "tests/whole_program/test_pages.py"
    assert unit_of("tests/space/test_space.py::test_z") == "tests/space/test_space.py"


def test_what_a_worker_has_finished_is_not_pending() -> None:
    assert pending({"a": {"a::1": True, "a::2": True}, "b": {"b::1": True, "b::2": False}}) == ["b"]
