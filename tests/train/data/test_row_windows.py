import numpy as np
import pytest

from cmp.train.data import RowWindows
from cmp.train.data.windows import Cut, Dropped
from tests.train.rows import row_tokens

ROWS = [([1, 2, 3], [10], [4]), ([5], [11, 12], [6, 7, 8])]
BOTH = np.array([0, 1])


def test_contexts_and_prompts_are_padded_on_the_left_and_answers_on_the_right() -> None:
    windows = RowWindows(row_tokens(ROWS), BOTH, Cut(boundary=2, context_len=2, target_len=2, prompt_len=5))

    batch = windows.batch(BOTH)

    assert batch.context_ids.tolist() == [[2, 3], [0, 5]]
    assert batch.target_ids.tolist() == [[4, 0], [6, 7]]
    assert batch.prompt_ids is not None and batch.prompt_ids.tolist() == [[0, 10], [11, 12]]
    assert batch.context_mask is not None and batch.context_mask.tolist() == [[True, True], [False, True]]
    assert batch.target_mask is not None and batch.target_mask.tolist() == [[True, False], [True, True]]
    assert batch.prompt_mask is not None and batch.prompt_mask.tolist() == [[False, True], [True, True]]
    assert windows.token_count(BOTH) == 3
    assert windows.context_token_count(np.array([1])) == 1
    assert windows.context_token_count(BOTH, but_last=1) == 1
    assert windows.costs.tolist() == [2 + 1 + 1, 1 + 2 + 2]
    assert windows.dropped() == Dropped(documents=0, tokens=2, cut_contexts=1, cut_answers=1)


def test_the_end_of_a_context_is_cut_off_where_the_start_is_kept() -> None:
    cut = Cut(boundary=2, context_len=2, target_len=2, prompt_len=5, keeps_end=False)

    assert RowWindows(row_tokens(ROWS), BOTH, cut).batch(BOTH).context_ids.tolist() == [[1, 2], [0, 5]]


def test_a_batch_is_as_wide_as_its_longest_row() -> None:
    windows = RowWindows(row_tokens(ROWS), BOTH, Cut(boundary=9, context_len=9, target_len=9, prompt_len=9))

    batch = windows.batch(np.array([0]))

    assert batch.prompt_ids is not None
    widths = [batch.context_ids.shape[1], batch.prompt_ids.shape[1], batch.target_ids.shape[1]]
    assert widths == [3, 1, 1]
    assert windows.batch(BOTH).target_ids.shape[1] == 3


def test_without_any_prompt_there_are_none() -> None:
    windows = RowWindows(row_tokens([([1], [], [2])]), np.array([0]), Cut(3, 3, 3))

    batch = windows.batch(np.array([0]))

    assert batch.prompt_ids is None and batch.prompt_mask is None


def test_a_row_is_reconstructed_from_the_beginning_of_its_context_and_nothing_is_asked() -> None:
    windows = RowWindows(row_tokens(ROWS), BOTH, Cut(boundary=0, context_len=0, target_len=2, prompt_len=5))

    batch = windows.batch(BOTH)

    assert batch.context_ids.tolist() == [[1, 2], [0, 5]]
    assert batch.target_ids.tolist() == [[1, 2], [5, 0]]
    assert batch.prompt_ids is None
    assert windows.dropped().tokens == 1 + 1 + 1 + 2 + 3


def test_rows_with_one_context_are_one_document() -> None:
    rows = row_tokens([([1], [], [2])] * 4, groups=[7, 7, 8, 7])

    windows = RowWindows(rows, np.array([1, 2, 3]), Cut(3, 3, 3))

    assert windows.documents(np.array([2, 0, 1])).tolist() == [7, 7, 8]


def test_a_written_answer_may_be_as_long_as_the_data_or_else_the_settings_say() -> None:
    rows = row_tokens([([1], [], [2])] * 2, limits=[50, 0], golds=[["a", "b"], ["c"]])

    windows = RowWindows(rows, BOTH, Cut(3, 3, target_len=4))

    assert windows.max_new_tokens(BOTH).tolist() == [50, 4]
    assert windows.golds(0) == ["a", "b"]


@pytest.mark.parametrize("prompt_len", [1, 2])
def test_a_row_is_of_use_with_a_context_an_answer_and_a_prompt_that_is_short_enough(prompt_len: int) -> None:
    rows = row_tokens([*ROWS, ([], [1], [2]), ([1], [1], [])])

    assert rows.useful(prompt_len).tolist() == [True, prompt_len == 2, False, False]
