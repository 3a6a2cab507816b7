"""The wish that trials leave, as it is stored and understood."""

import threading
import time

from cmp.search.engine.control import Control, LeaveWatch, Wish


def test_a_wish_comes_back_as_it_was_stored() -> None:
    wish = Wish(True, frozenset({"a", "b"}))

    assert Wish.from_bytes(wish.to_bytes()) == wish
    assert Wish.from_bytes(None) == Wish()


def test_a_trial_is_concerned_by_any_node_that_it_is_on() -> None:
    wish = Wish(nodes=frozenset({"b"}))

    assert wish.concerns(["a", "b"])
    assert not wish.concerns(["a", None])
    assert Wish(everybody=True).concerns([])


def test_the_driver_says_a_thing_once_and_forgets_it_at_the_end() -> None:
    written: list[bytes] = []
    stored: dict[str, bytes] = {"key": b""}
    control = Control("key", lambda key, value: written.append(value), stored.pop)
    control.ask_on(frozenset())
    control.ask_on(frozenset({"a"}))
    control.ask_on(frozenset({"a"}))
    control.ask_everybody()
    control.forget()

    assert [Wish.from_bytes(content) for content in written] == [
        Wish(nodes=frozenset({"a"})),
        Wish(True, frozenset({"a"})),
    ]
    assert stored == {}


def test_a_stop_that_comes_while_another_wish_is_written_is_not_lost() -> None:
    written: list[bytes] = []

    def write(key: str, value: bytes) -> None:
        if not written:
            threading.Thread(target=control.ask_everybody).start()
            time.sleep(0.2)
        written.append(value)

    control = Control("key", write, lambda key: None)
    control.ask_on(frozenset({"a"}))
    end = time.monotonic() + 5
    while len(written) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)

    assert Wish.from_bytes(written[-1]) == Wish(True, frozenset({"a"}))


def test_a_watch_hears_within_a_moment_and_holds_the_last_wish_while_the_store_is_away() -> None:
    answers: list[bytes | Exception] = [b"", Wish(nodes=frozenset({"a"})).to_bytes()]

    def read(key: str) -> bytes:
        answer = answers.pop(0) if answers else ConnectionError("the control store is starting again")
        if isinstance(answer, Exception):
            raise answer
        return answer

    must_leave = LeaveWatch("key", read).listener(["a"])
    end = time.monotonic() + 5
    while not must_leave():
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.6)

    assert must_leave()
