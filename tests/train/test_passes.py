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
    assert set(seen[:, 0]) == set(seen[:, 1]) == set(range(9)), "anywhere in the document"
    assert (seen[:, 0] != seen[:, 1]).all(), "windows of one document are never the same in one pass"
    assert set(seen[:, 2]) == {17}
    assert set(seen[:, 3]) == {22, 23, 24, 25, 26}


def test_training_on_a_single_document_never_reaches_its_validation_part(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    text = tmp_path / "one.txt"
    trained, held_out = "abcdefghij" * 81, "0123456789" * 20  # 101 windows of 10: 81 to train on, 20 held out
    text.write_text(trained + held_out, encoding="utf-8")
    settings = TrialSettings(
        model_string=str(tiny_model_folder), dataset=str(text), data_root=str(tmp_path), cmp_len=6, seq_len=4
    )
    data = open_data(settings, Window(6, 4))
    everything = np.arange(len(data.train))
    held = data.validation.batch(np.arange(len(data.validation)))
    digits = {*held.context_ids.flatten().tolist(), *held.target_ids.flatten().tolist()}
    passes = [data.train.batch(everything, np.full(len(everything), number)) for number in range(30)]

    assert len(digits) == 10
    assert len({tuple(batch.context_ids[:, 0].tolist()) for batch in passes}) > 20, "passes differ"
    for batch in passes:
        assert digits.isdisjoint(batch.context_ids.flatten().tolist())
        assert digits.isdisjoint(batch.target_ids.flatten().tolist())
