"""The measures of written answers, against what their makers published."""

import pytest

from cmp.results.written import AnswerScores
from cmp.train.answers import answer_scores


@pytest.mark.parametrize(
    ("answer", "golds", "exact_match", "f1"),
    [
        # The example of the SQuAD metric's card (evaluate, torchmetrics).
        ("1976", ["1976"], 1.0, 1.0),
        # The card of `evaluate`'s SQuAD metric: half of the answers right gives 50.
        ("Hello", ["1976"], 0.0, 0.0),
        # From the paper (Rajpurkar et al. 2016, 6.1): articles and punctuation are ignored.
        ("The Denver Broncos!", ["Denver Broncos"], 1.0, 1.0),
        # Two of three words, and both of the two: 2 (2/3 x 1) / (2/3 + 1).
        ("in Santa Clara", ["Santa Clara", "California"], 0.0, 0.8),
        ("", ["x"], 0.0, 0.0),
    ],
)
def test_exact_match_and_f1_are_squads(answer: str, golds: list[str], exact_match: float, f1: float) -> None:
    found = answer_scores(answer, golds)

    assert found.exact_match == exact_match
    assert found.f1 == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        # Lin 2004, section 3: S2 and S3 against S1, beta = 1.
        ("police kill the gunman", "police killed the gunman", 1.0),  # stemmed; 3/4 without
        ("the gunman kill police", "police killed the gunman", 0.5),
        # The README of google-research's rouge_score; and torchmetrics' example.
        ("The quick brown dog jumps on the log.", "The quick brown fox jumps over the lazy dog", 2 * 5 / (8 + 9)),
        ("My name is John", "Is your name John", 0.5),
    ],
)
def test_rouge_l_is_the_longest_common_subsequence_of_stemmed_words(answer: str, gold: str, expected: float) -> None:
    assert answer_scores(answer, [gold]).rouge_l == pytest.approx(expected, abs=1e-6)


def test_of_several_right_answers_the_best_counts_for_each_measure() -> None:
    found = answer_scores("the small red house", ["house red", "a small house", "blue"], accuracy=1.0)

    assert found == AnswerScores(0.0, pytest.approx(0.8), pytest.approx(4 / 7), 1.0)
