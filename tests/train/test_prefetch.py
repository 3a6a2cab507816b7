import threading
import time
from functools import partial

import pytest

from cmp.train.prefetch import prefetched


def test_items_come_in_order_and_are_made_ahead_in_another_thread() -> None:
    made: list[tuple[int, int]] = []

    def make(number: int) -> int:
        made.append((number, threading.get_ident()))
        return number

    with prefetched(partial(make, number) for number in range(20)) as items:
        assert next(items) == 0
        deadline = time.monotonic() + 5
        while len(made) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(made) >= 3
        assert list(items) == list(range(1, 20))
    assert {thread for _, thread in made}.isdisjoint({threading.get_ident()})


def test_an_error_in_the_thread_reaches_the_reader_after_the_items_before_it() -> None:
    with prefetched([lambda: 1, lambda: 1 // 0, lambda: 3]) as items:
        assert next(items) == 1
        with pytest.raises(ZeroDivisionError):
            next(items)


def test_leaving_early_ends_the_thread() -> None:
    before = threading.active_count()
    with prefetched(partial(int, number) for number in range(10**6)) as items:
        assert next(items) == 0
    assert threading.active_count() == before
