"""What passes between a trial and its search never makes the trial wait for good."""

import threading
import time

from cmp.search.engine.mailbox import Mailbox


def message(epoch: int) -> dict[str, object]:
    return {"event": "reported", "epoch": epoch}


def outcome(status: str) -> dict[str, object]:
    return {"event": "outcome", "status": status}


def test_messages_come_out_in_the_order_they_were_put_in() -> None:
    post = Mailbox()
    for epoch in range(1, 1001):
        post.put(message(epoch))

    assert [post.next()["epoch"] for _ in range(1000)] == list(range(1, 1001))  # type: ignore[index]


def test_a_trial_that_nobody_listens_to_never_waits() -> None:
    post = Mailbox()
    began = time.monotonic()
    for epoch in range(1, 1001):
        post.put(message(epoch))
    post.wait_for_answer(1000, timeout_seconds=0.05)

    assert time.monotonic() - began < 2


def test_next_waits_for_a_message() -> None:
    post = Mailbox()
    threading.Timer(0.05, lambda: post.put(message(1))).start()

    assert post.next(timeout_seconds=5) == message(1)
    assert post.next(timeout_seconds=0.01) is None


def test_an_answer_releases_the_trial_at_a_rung() -> None:
    post = Mailbox()
    threading.Timer(0.05, lambda: post.answer(3)).start()
    began = time.monotonic()
    post.wait_for_answer(3, timeout_seconds=30)

    assert time.monotonic() - began < 10
    post.wait_for_answer(2, timeout_seconds=30)
    assert time.monotonic() - began < 10, "an answer to a later epoch answers the earlier ones"


def test_a_trial_that_is_stopped_at_a_rung_does_not_wait_for_an_answer() -> None:
    post = Mailbox()
    threading.Timer(0.05, post.stop).start()
    began = time.monotonic()
    post.wait_for_answer(1, timeout_seconds=30)

    assert time.monotonic() - began < 10
    assert post.stopped()


def test_only_the_first_outcome_counts() -> None:
    """A worker that fails alone speaks first; rank 0, torn down with it, must not speak again."""
    post = Mailbox()
    post.put(outcome("out_of_memory"))
    post.put(outcome("failed"))

    assert post.wait_for_outcome(0.0)
    assert post.next() == outcome("out_of_memory")
    assert post.next(timeout_seconds=0.01) is None


def test_who_waits_for_an_outcome_is_told_or_goes_on() -> None:
    post = Mailbox()
    assert not post.wait_for_outcome(0.01)
    threading.Timer(0.05, lambda: post.put(outcome("finished"))).start()

    assert post.wait_for_outcome(5)
