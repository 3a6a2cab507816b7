"""Scores on documents that decided nothing: what they mean and how sure they are."""

from pathlib import Path

import numpy as np
import pytest

from cmp.results.scores import (
    Candidate,
    DocumentSums,
    Draws,
    Interval,
    Sums,
    interval,
    load_scores,
    save_scores,
    split_scores,
)

BEST, SECOND = Candidate(7, 3, vectors=4, kept=4), Candidate(2, 3, vectors=2, kept=0)


def sums_of(losses: np.ndarray | list[float], tokens: int = 10) -> DocumentSums:
    """Documents of equal length with these losses."""
    losses = np.asarray(losses, dtype=float)
    return DocumentSums(losses * tokens, np.full(len(losses), float(tokens)))


def made_up(documents: int = 40, spread: float = 0.3) -> Sums:
    """Texts that differ much from each other, and ways of reading that differ little: T(k) = 2 - log2(1 + k) / 10."""
    easy = np.random.default_rng(0).normal(0.0, spread, documents)
    noise = np.random.default_rng(1).normal(0.0, 0.01, (9, documents))
    curve = {kept: sums_of(2 - np.log2(1 + kept) / 10 + easy) for kept in (0, 1, 3, 7, 15, 31)}
    return Sums(
        no_context=sums_of(2.5 + easy),
        full_context=sums_of(1.4 + easy),
        plain={kept: sums_of(2.4 - np.log2(1 + kept) / 10 + easy) for kept in (0, 31)},
        text=curve,
        compressors={
            BEST: {
                "memory": sums_of(1.6 + easy + noise[0]),
                "swapped": sums_of(1.8 + easy + noise[1]),
                "mean": sums_of(1.75 + easy + noise[2]),
            },
            SECOND: {"memory": sums_of(1.65 + easy + noise[3])},
        },
    )


def test_the_numbers_are_those_of_all_documents_together() -> None:
    scores = split_scores("test", 80, made_up(spread=0.0), SECOND)
    best = scores.compressors[0]

    assert (scores.documents, scores.windows, scores.tokens) == (40, 80, 400)
    assert best.candidate == BEST
    assert best.loss.value == pytest.approx(1.6, abs=0.01)
    assert best.worth_tokens is not None and best.gain is not None and best.carried is not None
    assert best.worth_tokens.value == pytest.approx(15, rel=0.1)
    assert best.gain.value == pytest.approx(15 / 8, rel=0.1)
    assert best.carried.value == pytest.approx(0.8, abs=0.03)
    assert best.recovered is not None
    assert best.recovered.value == pytest.approx(0.9 / 1.1, abs=0.01)
    assert best.text_loss == pytest.approx(1.68, abs=0.02), "the text curve at eight positions"
    assert scores.compressors[1].swapped_loss is None
    assert scores.trained


def test_documents_that_differ_widen_the_loss_but_not_what_is_compared_on_the_same_documents() -> None:
    scores = split_scores("test", 80, made_up(), SECOND)
    best = scores.compressors[0]

    assert best.gain is not None and scores.difference is not None
    assert best.loss.high - best.loss.low > 0.1
    assert best.loss.low < best.loss.value < best.loss.high
    assert scores.difference.value == pytest.approx(-0.05, abs=0.01)
    assert scores.difference.low < scores.difference.value < scores.difference.high < 0
    assert best.gain.high - best.gain.low < 0.6
    assert scores.runner_up == 2


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(200):
        found = interval(Draws(50, 300, seed).losses(sums_of(rng.normal(2.0, 0.5, 50))))
        hits += found.low <= 2.0 <= found.high

    assert 0.88 <= hits / 200 <= 0.99


def test_without_a_control_worth_is_read_off_the_bare_model() -> None:
    sums = made_up()

    scores = split_scores("test", 80, Sums(sums.no_context, sums.full_context, sums.plain, {}, sums.compressors))

    assert not scores.trained
    assert scores.text_curve == scores.plain_curve
    assert scores.difference is None


def test_where_text_does_not_help_nothing_is_worth_anything() -> None:
    sums = made_up(spread=0.0)
    flat = {kept: sums_of(np.full(40, 2.0)) for kept in (0, 8)}

    scores = split_scores("test", 80, Sums(sums.no_context, sums.no_context, sums.plain, flat, sums.compressors))

    best = scores.compressors[0]
    assert (best.worth_tokens, best.gain, best.carried, best.recovered, best.worth) == (None,) * 5


def test_scores_come_back_from_their_file(tmp_path: Path) -> None:
    scores = split_scores("test", 80, made_up(), SECOND)

    save_scores(tmp_path / "test.json", scores)

    assert load_scores(tmp_path / "test.json") == scores
    assert load_scores(tmp_path / "none.json") is None
    (tmp_path / "torn.json").write_text('{"split": "te')
    assert load_scores(tmp_path / "torn.json") is None


def test_an_interval_of_nothing_has_no_ends(tmp_path: Path) -> None:
    assert str(Interval(1.234, 1.0, 1.5)) == "1.23 [1, 1.5]"
    found = interval([1.0, float("nan")])
    assert np.isnan(found.low)
