"""Texts that stand in two splits are counted and said: a loss on a text that was trained on tells little."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cmp.search.preparation import data_line
from cmp.space.settings import TrialSettings, Window
from cmp.train.data import open_data, prepare_data
from cmp.train.data.repeats import count_repeats, text_hash
from cmp.train.data.windows import Part, split_documents
from tests.train.data.conftest import ByteTokenizer

Make = Callable[..., TrialSettings]
WINDOW = Window(context_len=6, target_len=4)


def write(path: Path, documents: list[str]) -> Path:
    path.write_text("\n<|endoftext|>\n".join(documents), encoding="utf-8")
    return path


def test_a_text_is_known_again_whatever_its_case_and_spaces() -> None:
    assert text_hash("The  old cat\nsees") == text_hash(" the old CAT sees\n")
    assert text_hash("the old cat") != text_hash("the old cats")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_documents_that_were_trained_on_are_counted_and_said(
    tmp_path: Path, settings: Make, tokenizer: ByteTokenizer, split: str
) -> None:
    """Nobody noticed: a loss on them looked like a loss on a new text."""
    write(tmp_path / "train.txt", ["the first of all texts", *(f"text number {n} of many" for n in range(30))])
    write(tmp_path / f"{split}.txt", ["The  FIRST of all texts", "another that is new", "text\nnumber 7 of many"])
    trial = settings(tmp_path, cmp_len=6, seq_len=4)

    summary = prepare_data(trial, WINDOW, tokenizer=tokenizer)

    assert summary.repeated_documents == summary.counts["repeated_documents"] == 2
    assert "; 2 that are held out stand in another split too, word for word" in data_line(summary)
    assert open_data(trial, WINDOW, tokenizer=tokenizer).summary.repeated_documents == 2


def test_of_documents_that_are_split_here_the_repeats_are_those_that_the_split_tears_apart(
    tmp_path: Path, settings: Make, tokenizer: ByteTokenizer
) -> None:
    text = write(tmp_path / "a.txt", [f"every text stands here twice: {n // 2:03}" for n in range(60)])
    parts = split_documents(np.full(60, 3), ("validation", "test"))
    side = {int(document): name for name, part in parts.items() for document in part.documents}
    order = ("train", "validation", "test")
    torn = [sorted((side[2 * n], side[2 * n + 1]), key=order.index) for n in range(30)]
    expected = sum(first != second for first, second in torn)

    summary = prepare_data(settings(text, cmp_len=6, seq_len=4), WINDOW, tokenizer=tokenizer)

    assert summary.repeated_documents == expected > 0


def test_documents_without_a_window_and_parts_of_one_document_are_no_repeats(
    tmp_path: Path, settings: Make, tokenizer: ByteTokenizer
) -> None:
    write(tmp_path / "train.txt", ["short", "a text that fills two windows of ten", *("x" * 30 for _ in range(3))])
    write(tmp_path / "validation.txt", ["short", "another text that is long enough"])
    assert prepare_data(settings(tmp_path, cmp_len=6, seq_len=4), WINDOW, tokenizer=tokenizer).repeated_documents == 1

    one = write(tmp_path / "one.txt", ["".join(chr(ord("!") + n % 90) for n in range(500))])
    summary = prepare_data(settings(one, cmp_len=6, seq_len=4), WINDOW, tokenizer=tokenizer)
    assert summary.repeated_documents == 0 and "word for word" not in data_line(summary)


def test_a_document_counts_once_however_often_it_stands_elsewhere() -> None:
    ones = np.ones(2, np.int64)
    part = Part(np.arange(2), np.zeros(2, np.int64), ones)
    hashes = {"train": np.array([7, 7], np.uint64), "validation": np.array([7, 8], np.uint64)}
    hashes["test"] = np.array([8, 7], np.uint64)

    assert count_repeats({name: (name, part) for name in hashes}, hashes) == 1 + 2
