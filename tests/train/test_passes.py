"""Later passes over a text cut it elsewhere, so that a small text is not learned by heart."""

from pathlib import Path

import numpy as np

from cmp.space.settings import TrialSettings, Window
from cmp.train.data import open_data
from cmp.train.data.windows import Cut, TextWindows

CUT = Cut(boundary=3, context_len=3, target_len=2)


def test_later_passes_move_windows_inside_their_document_and_the_first_does_not() -> None:
    lengths = np.array([13, 4, 5, 9])  # two windows of 5 with 3 tokens to spare, none, one with 0, one with 4
    counts, starts = lengths // 5, np.cumsum(lengths) - lengths
    windows = TextWindows(np.arange(31, dtype=np.uint16), starts, counts, 5, CUT, slack=lengths - counts * 5)
    indices = np.arange(4)

    def first_tokens(passes: int | None) -> list[int]:
        batch = windows.batch(indices, None if passes is None else np.full(4, passes))
        return batch.context_ids[:, 0].tolist()

    assert first_tokens(None) == first_tokens(0) == [0, 5, 17, 22]
    seen = np.array([first_tokens(passes) for passes in range(20)])
    assert (seen[:, 1] == seen[:, 0] + 5).all(), "windows of one document never overlap in one pass"
    assert set(seen[:, 0]) == {0, 1, 2, 3}
    assert set(seen[:, 2]) == {17}
    assert set(seen[:, 3]) == {22, 23, 24, 25, 26}


def test_training_on_a_single_document_never_reaches_its_validation_part(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    text = tmp_path / "one.txt"
    text.write_text("".join(chr(ord(" ") + number % 90) for number in range(1007)), encoding="utf-8")
    settings = TrialSettings(
        model_string=str(tiny_model_folder), dataset=str(text), data_root=str(tmp_path), cmp_len=6, seq_len=4
    )
    data = open_data(settings, Window(6, 4))
    everything = np.arange(len(data.train))
    tokens = [data.train.batch(everything, np.full(len(everything), passes)).context_ids for passes in range(30)]

    # A token's id goes up by one, so the last training window's first token says how far training reached.
    first_validation = data.validation.batch(np.arange(1)).context_ids[0, 0].item()
    reached = max((ids[-1, 0].item() - tokens[0][-1, 0].item()) % 90 for ids in tokens)
    room = (first_validation - tokens[0][-1, 0].item()) % 90 - 10
    assert 0 < reached <= room
