import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmp.space.settings import TrialSettings, Window
from cmp.train.data import DataError, open_data, prepare_data
from tests.train.data.conftest import ByteTokenizer

Make = Callable[..., TrialSettings]
WINDOW = Window(context_len=6, target_len=4)


def write_documents(path: Path, lengths: list[int]) -> Path:
    """Documents of the given numbers of characters, so of tokens; document n is written in the n-th letter."""
    documents = [chr(ord("a") + number % 26) * length for number, length in enumerate(lengths)]
    path.write_text("\n<|endoftext|>\n".join(documents), encoding="utf-8")
    return path


def test_the_summary_counts_what_is_kept_and_dropped(tmp_path: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    text = write_documents(tmp_path / "a.txt", [25, 9, 10, 40])

    summary = prepare_data(settings(text, cmp_len=6, seq_len=4), WINDOW, tokenizer=tokenizer)

    assert (summary.documents, summary.tokens) == (4, 84)
    assert summary.train_windows + summary.validation_windows + summary.test_windows == 2 + 0 + 1 + 4
    assert summary.counts["test_windows"] == summary.test_windows > 0
    assert (summary.dropped_documents, summary.dropped_tokens) == (1, 5 + 9)
    assert summary.own_splits == ("train",) and not summary.from_cache and summary.cache.is_dir()
    assert prepare_data(settings(text, cmp_len=6, seq_len=4), WINDOW, tokenizer=tokenizer).from_cache


def test_held_out_documents_are_never_trained_on_and_test_documents_never_validated_on(
    tmp_path: Path, settings: Make, tokenizer: ByteTokenizer
) -> None:
    text = write_documents(tmp_path / "a.txt", [30] * 26)

    data = open_data(settings(text, cmp_len=6, seq_len=4), WINDOW, tokenizer=tokenizer)

    sides = [
        set(windows.batch(np.arange(len(windows))).target_ids.flatten().tolist())
        for windows in (data.train, data.validation, data.test)
    ]
    assert (len(data.train), len(data.validation), len(data.test)) == (20 * 3, 3 * 3, 3 * 3)
    assert len(set.union(*sides)) == sum(map(len, sides)) == 26


def test_a_single_document_is_split_by_position(tmp_path: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    (tmp_path / "a.txt").write_text("".join(chr(ord("!") + n // 10) for n in range(500)), encoding="utf-8")

    data = open_data(settings(tmp_path / "a.txt", cmp_len=6, seq_len=4), WINDOW, tokenizer=tokenizer)

    assert (len(data.train), len(data.validation), len(data.test)) == (40, 5, 5)
    last_trained = data.train.batch(np.array([39])).target_ids.max()
    validation, test = data.validation.batch(np.arange(5)), data.test.batch(np.arange(5))
    assert validation.context_ids.min() > last_trained and test.context_ids.min() > validation.target_ids.max()


def test_a_data_sets_own_validation_split_is_used(tmp_path: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    (tmp_path / "train.txt").write_text("t" * 50, encoding="utf-8")
    (tmp_path / "validation.txt").write_text("v" * 20, encoding="utf-8")

    data = open_data(settings(tmp_path, cmp_len=6, seq_len=4), WINDOW, tokenizer=tokenizer)

    assert (len(data.train), len(data.validation), len(data.test)) == (4, 2, 1)
    assert tokenizer.text(data.validation.batch(np.array([1])).target_ids[0]) == "vvvv"
    assert tokenizer.text(data.test.batch(np.array([0])).target_ids[0]) == "tttt"


def test_a_data_sets_own_test_split_is_used(tmp_path: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    write_documents(tmp_path / "train.txt", [30] * 20)
    (tmp_path / "test.txt").write_text("T" * 20, encoding="utf-8")

    data = open_data(settings(tmp_path, cmp_len=6, seq_len=4), WINDOW, tokenizer=tokenizer)

    assert (len(data.train), len(data.validation), len(data.test)) == (18 * 3, 2 * 3, 2)
    assert tokenizer.text(data.test.batch(np.array([1])).target_ids[0]) == "TTTT"
    assert data.summary.own_splits == ("train", "test")


def test_trials_with_different_lengths_are_scored_on_the_same_tokens(
    tmp_path: Path, settings: Make, tokenizer: ByteTokenizer, shared_data: Path
) -> None:
    text = shared_data / "tinystories" / "stories.txt"
    window = Window(100, 40)
    long, short = (
        open_data(settings(text, cmp_len=length, seq_len=40), window, tokenizer=tokenizer) for length in (100, 10)
    )

    indices = np.arange(len(long.validation))
    a, b = long.validation.batch(indices), short.validation.batch(indices)

    assert long.fingerprint == short.fingerprint
    assert (a.target_ids == b.target_ids).all() and (a.context_ids[:, -10:] == b.context_ids).all()
    story = text.read_text(encoding="utf-8")
    assert tokenizer.text([*a.context_ids[0], *a.target_ids[0]]) in story


def test_another_cut_or_text_has_another_fingerprint(tmp_path: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    text = settings(write_documents(tmp_path / "a.txt", [99, 99, 99, 99]), cmp_len=2, seq_len=2)
    other = settings(write_documents(tmp_path / "b.txt", [99, 99, 99, 98]), cmp_len=2, seq_len=2)

    prints = {
        open_data(text, WINDOW, tokenizer=tokenizer).fingerprint,
        open_data(text, Window(8, 4), tokenizer=tokenizer).fingerprint,
        open_data(other, WINDOW, tokenizer=tokenizer).fingerprint,
        open_data(replace(text, abbrev_len=3), WINDOW, tokenizer=tokenizer).fingerprint,
    }

    assert len(prints) == 4


def test_the_same_text_is_the_same_data_wherever_it_lies(
    tmp_path: Path, settings: Make, tokenizer: ByteTokenizer
) -> None:
    here = write_documents(tmp_path / "a.txt", [99, 98, 97])
    there = tmp_path / "another machine" / "b.txt"
    there.parent.mkdir()
    there.write_bytes(here.read_bytes())
    there.touch()

    prints = [
        open_data(settings(path, cmp_len=2, seq_len=2), WINDOW, tokenizer=tokenizer).fingerprint
        for path in (here, there)
    ]

    assert prints[0] == prints[1], "or a search could not go on on another machine, with a copy of its text"
    there.write_bytes(here.read_bytes().replace(b"a", b"b", 1))
    changed = open_data(settings(there, cmp_len=2, seq_len=2), WINDOW, tokenizer=tokenizer).fingerprint
    assert changed != prints[0]


def test_pairs_are_masked_and_their_cuts_counted(tmp_path: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    rows = [(f"{number}context", "target") for number in range(10)] + [(str(number), "t") for number in range(10)]
    rows += [("", "nothing before it")] * 10
    lines = [f'{{"sentence1": "{a}", "sentence2": "{b}"}}\n' for a, b in rows]
    (tmp_path / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    trial = settings(tmp_path / "pairs.jsonl", cmp_len=6, seq_len=4)

    summary = prepare_data(trial, WINDOW, tokenizer=tokenizer)
    data = open_data(trial, WINDOW, tokenizer=tokenizer)

    windows = (summary.train_windows, summary.validation_windows, summary.test_windows)
    assert summary.documents == 30 and sum(windows) == 20 and all(windows)
    assert summary.dropped_documents == 10
    assert summary.dropped_tokens == 10 * (2 + 2)  # of the first kind; without a context nothing is tokenized
    assert (summary.cut_contexts, summary.cut_answers, summary.long_prompts) == (10, 10, 0)
    batch = data.train.batch(np.arange(len(data.train)))
    assert batch.context_mask is not None and batch.target_mask is not None
    texts = {tokenizer.text(ids[mask]) for ids, mask in zip(batch.context_ids, batch.context_mask, strict=True)}
    assert texts <= {"ontext", *map(str, range(10))} and "ontext" in texts
    assert data.train.token_count(np.arange(len(data.train))) == int(batch.target_mask.sum())
    assert data.train.context_token_count(np.arange(len(data.train))) == int(batch.context_mask.sum())


def test_no_window_left_is_said_before_any_trial(tmp_path: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    text = write_documents(tmp_path / "a.txt", [9, 3])

    with pytest.raises(DataError, match=r"no window left for training: a window is 10 tokens.*has 9"):
        prepare_data(settings(text, cmp_len=6, seq_len=4), WINDOW, tokenizer=tokenizer)


def test_one_window_cannot_be_trained_and_validated_on(
    tmp_path: Path, settings: Make, tokenizer: ByteTokenizer
) -> None:
    text = write_documents(tmp_path / "a.txt", [15])

    with pytest.raises(DataError, match="no window left for training"):
        prepare_data(settings(text, cmp_len=6, seq_len=4), WINDOW, tokenizer=tokenizer)


def test_a_batch_is_gathered_fast(shared_data: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    """32 windows of 140 tokens take about 35 microseconds on one core; the bound leaves room for a busy machine."""
    data = open_data(settings(shared_data / "news", abbrev_len=200), Window(100, 40), tokenizer=tokenizer)
    indices = np.random.default_rng(0).permutation(len(data.train))[:32]
    seconds = []
    for _ in range(200):
        began = time.perf_counter()
        data.train.batch(indices)
        seconds.append(time.perf_counter() - began)

    assert min(seconds) < 200e-6
