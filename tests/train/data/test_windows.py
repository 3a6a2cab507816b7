import numpy as np
import pytest
import torch

from cmp.train.data.errors import DataError
from cmp.train.data.windows import (
    Cut,
    Part,
    TextWindows,
    require_windows,
    split_documents,
    windows_per_document,
)

ALL = slice(None)


def text_windows(lengths: list[int], cut: Cut, window_len: int) -> TextWindows:
    """Documents whose tokens are 0, 1, 2, ... through all of them."""
    offsets = np.cumsum([0, *lengths])
    counts = windows_per_document(np.array(lengths), window_len)
    return TextWindows(np.arange(offsets[-1], dtype=np.uint16), offsets[:-1], counts, window_len, cut)


def test_windows_are_consecutive_and_never_cross_documents() -> None:
    windows = text_windows([7, 2, 3], Cut(boundary=2, context_len=2, target_len=1), window_len=3)

    batch = windows.batch(np.arange(3))

    assert len(windows) == 3  # 7 tokens hold two windows, 2 none, 3 one
    assert batch.context_ids.tolist() == [[0, 1], [3, 4], [9, 10]]
    assert batch.target_ids.tolist() == [[2], [5], [11]]
    assert batch.context_ids.dtype == torch.int64 and batch.context_mask is None and batch.target_mask is None


def test_a_shorter_context_ends_where_the_longest_ends_so_targets_match() -> None:
    long = text_windows([12], Cut(boundary=4, context_len=4, target_len=2), window_len=6).batch(np.arange(2))
    short = text_windows([12], Cut(boundary=4, context_len=1, target_len=2), window_len=6).batch(np.arange(2))

    assert torch.equal(short.target_ids, long.target_ids)
    assert torch.equal(short.context_ids, long.context_ids[:, -1:])


def test_a_shorter_target_is_the_beginning_of_the_longest() -> None:
    batch = text_windows([10], Cut(boundary=2, context_len=2, target_len=1), window_len=5).batch(np.arange(2))

    assert batch.target_ids.tolist() == [[2], [7]]


def test_reconstruction_takes_the_beginning_of_the_window_as_context_and_target() -> None:
    windows = text_windows([8], Cut(boundary=0, context_len=0, target_len=3), window_len=4)

    batch = windows.batch(np.arange(2))

    assert batch.context_ids.tolist() == batch.target_ids.tolist() == [[0, 1, 2], [4, 5, 6]]
    assert windows.token_count(np.arange(2)) == windows.context_token_count(np.arange(2)) == 6


def test_gathering_agrees_with_slicing_one_document_at_a_time() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 40, 50).tolist()
    windows = text_windows(lengths, Cut(boundary=5, context_len=3, target_len=4), window_len=9)
    expected, start = [], 0
    for length in lengths:
        for first in range(start, start + length - 8, 9):
            expected.append(list(range(first + 2, first + 9)))
        start += length

    order = rng.permutation(len(windows))
    batch = windows.batch(order)

    assert torch.cat([batch.context_ids, batch.target_ids], 1).tolist() == [expected[i] for i in order]


def test_counts_of_tokens_follow_from_the_lengths() -> None:
    windows = text_windows([30], Cut(boundary=5, context_len=3, target_len=4), window_len=10)

    assert windows.token_count(np.arange(3)) == 12
    assert windows.context_token_count(np.arange(3)) == 9


BOTH = ("validation", "test")


def documents_of(parts: dict[str, Part]) -> dict[str, list[int]]:
    return {name: part.documents.tolist() for name, part in parts.items()}


def test_a_tenth_of_the_documents_is_for_validation_and_a_tenth_for_test_and_every_document_has_one_side() -> None:
    sides = documents_of(split_documents(np.ones(200, np.int64), BOTH))

    assert {name: len(documents) for name, documents in sides.items()} == {"train": 160, "validation": 20, "test": 20}
    assert sorted(document for some in sides.values() for document in some) == list(range(200))


def test_the_same_documents_are_held_out_whatever_the_windows_length() -> None:
    lengths = np.random.default_rng(0).integers(50, 400, 300)

    sides = [documents_of(split_documents(lengths // window_len, BOTH)) for window_len in (20, 40)]

    assert sides[0] == sides[1]


@pytest.mark.parametrize("useful", [(0, 1, 2), (3, 17, 4), (5, 11, 19)])
def test_three_documents_long_enough_are_one_on_each_side(useful: tuple[int, ...]) -> None:
    windows = np.zeros(20, np.int64)
    windows[list(useful)] = 1

    parts = split_documents(windows, BOTH)

    assert [len(part) for part in parts.values()] == [1, 1, 1]


def test_what_the_data_set_holds_out_itself_is_not_held_out_again() -> None:
    windows = np.ones(50, np.int64)

    assert set(split_documents(windows, ())) == {"train"}
    only_test = documents_of(split_documents(windows, ("test",)))
    assert (len(only_test["train"]), len(only_test["test"])) == (45, 5)


def test_two_documents_are_split_by_position_from_the_end_of_the_second() -> None:
    parts = split_documents(np.array([0, 15, 5]), BOTH)

    spans = {name: list(zip(part.documents, part.first, part.counts, strict=True)) for name, part in parts.items()}
    assert spans == {
        "train": [(1, 0, 15), (2, 0, 1)],
        "validation": [(1, 15, 0), (2, 1, 2)],
        "test": [(1, 15, 0), (2, 3, 2)],
    }


def test_no_window_left_says_how_long_a_document_must_be() -> None:
    with pytest.raises(DataError, match=r"140 tokens.*longest document has 90") as caught:
        require_windows({"train": 0, "validation": 3, "test": 3}, longest=90, window_len=140)

    assert caught.value.setting == "dataset"
    with pytest.raises(DataError, match="no window left for testing"):
        require_windows({"train": 3, "validation": 3, "test": 0}, longest=90, window_len=140)
