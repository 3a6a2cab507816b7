"""The best compressor beside its controls, in the words of terminal, page and card."""

import re
from dataclasses import replace
from typing import Any

import pytest

from cmp.results.controls import (
    card_words,
    readings_on_test,
    readings_on_validation,
    runner_up_words,
    worth_caveat,
)
from cmp.results.history import CONTROL, History
from cmp.results.scores import Candidate, Interval
from cmp.space.space import Space
from tests.report.honest import FULL_CONTEXT, NO_CONTEXT, scores_for, text_loss

BEST = Candidate(3, 2, vectors=4, kept=4)
CURVE = {"0": 2.0, "4": 1.9, "8": 1.8, "16": 1.7}


def reported(number: int, **metrics: Any) -> list[dict[str, Any]]:
    role = {"role": "control"} if number == CONTROL else {}
    return [
        {"event": "suggested", "trial": number, "settings": {}, "time": 0.0, **role},
        {"event": "reported", "trial": number, "epoch": 1, "time": 1.0, "metrics": {"epoch": 1, **metrics}},
    ]


def space(**changes: Any) -> Space:
    plain = {"model_string": "m", "dataset": "d", "exp_name": "e", **changes}
    return Space.from_dict(plain)


def test_every_way_of_reading_has_its_row_from_no_context_to_all_of_it() -> None:
    scores = scores_for("tested", BEST, 1.7, runner_up=1)

    rows = readings_on_test(scores, scores.compressors[0])

    assert [(row.read, row.loss) for row in rows] == [
        ("the model without the context", NO_CONTEXT + 0.02),
        ("the adapted model with the last 4 tokens, without any memory", text_loss(4) + 0.01),
        ("with the memory of another document", 1.80),
        ("with one constant memory, the mean", 1.77),
        ("plain text at the same price, the last 8 tokens", text_loss(8) + 0.01),
        ("its own memory", 1.7),
        ("the model with the whole context", FULL_CONTEXT + 0.01),
    ]
    assert [row.kind for row in rows[4:]] == ["text", "own", "full context"]
    assert rows[5].interval == scores.compressors[0].loss


def test_a_bare_models_curve_has_no_adapted_model_and_says_whose_text_it_is() -> None:
    scores = replace(scores_for("tested", BEST, 1.7, runner_up=1), trained=False)

    words = [row.read for row in readings_on_test(scores, scores.compressors[0])]

    assert not any("adapted" in line for line in words)
    assert "plain text at the same price, the last 8 tokens, the model untrained" in words


def test_of_validation_there_is_what_the_report_has() -> None:
    metrics = {"val_loss": 1.75, "swapped_loss": 1.95, "positions": 1, "no_context_loss": 2.5, "full_context_loss": 1.6}
    events = [*reported(CONTROL, val_loss=2.0, text_curve=CURVE), *reported(3, **metrics)]
    history = History.from_events(events)

    rows = readings_on_validation(history, metrics, Candidate(3, 1, vectors=1, kept=0))

    assert [row.loss for row in rows] == pytest.approx([2.5, 2.0, 1.95, 1.975, 1.75, 1.6])
    assert rows[1].read == "the adapted model without the context"
    assert rows[3].read == "plain text at the same price, the last token"
    old = readings_on_validation(History(), {"val_loss": 1.75, "no_context_loss": 2.5, "full_context_loss": 1.6}, BEST)
    assert [row.loss for row in old] == [2.5, 1.75, 1.6]


@pytest.mark.parametrize(
    ("events", "changes", "says"),
    [
        (reported(CONTROL, text_curve=CURVE), {}, None),
        (reported(CONTROL, text_curve={"0": 2.0, "4": 2.1}), {}, "the context itself does not help on this text"),
        (reported(0, plain_curve=CURVE), {}, "is not known before the text control is done"),
        (reported(0, plain_curve=CURVE), {"search": {"control": False}}, r"no text control \(search.control: false\)"),
        (
            [
                *reported(0, plain_curve=CURVE),
                *reported(CONTROL),
                {"event": "failed", "trial": CONTROL, "kind": "diverged", "reason": "nan", "time": 2.0},
            ],
            {},
            "the text control failed",
        ),
        ([], {}, "no report has a text curve"),
        (reported(0, plain_curve=None), {"rmb_only": True}, "no text that could stand in for it"),
    ],
)
def test_what_is_wrong_with_worth_is_said(
    events: list[dict[str, Any]], changes: dict[str, Any], says: str | None
) -> None:
    caveat = worth_caveat(space(**changes), History.from_events(events))

    assert (caveat is None) == (says is None)
    assert re.search(says or "", caveat or "")


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (
            Interval(-0.02, -0.03, -0.01),
            "0.0200 nats worse on the same documents (+0.0100 to +0.0300), more than chance",
        ),
        (Interval(-0.02, -0.05, 0.01), "0.0200 nats worse on the same documents (-0.0100 to +0.0500), within chance"),
        (Interval(0.02, 0.01, 0.03), "0.0200 nats better on the same documents (-0.0300 to -0.0100), more than chance"),
    ],
)
def test_the_runner_up_is_compared_on_the_same_documents(difference: Interval, words: str) -> None:
    assert runner_up_words(difference) == words


def test_a_card_begins_with_worth_on_test_and_has_every_control() -> None:
    scores = scores_for("tested", BEST, 1.7, runner_up=1)

    words = card_words(scores, scores.compressors[0])

    assert re.match(r"4 vectors and the last 4 tokens do the work of \d+\.\d tokens of text \(gain", words.headline)
    assert words.headline.endswith("on 41 test documents, which decided nothing in its search.")
    assert "| with the memory of another document | 1.8000 (1.770 to 1.830) |" in words.section
    assert "| its own memory | 1.7000 (1.670 to 1.730) |" in words.section
    assert "| gain, worth per position | " in words.section


def test_a_card_says_so_where_worth_cannot_be_told_or_counts_adaptation() -> None:
    useless = scores_for("useless-text", BEST, 1.7, runner_up=1)
    bare = scores_for("no-control", BEST, 1.7, runner_up=1)

    assert (
        "the context itself does not help on 41 test documents" in card_words(useless, useless.compressors[0]).headline
    )
    assert "gain" not in card_words(useless, useless.compressors[0]).section
    assert "for want of a text control: adaptation counts" in card_words(bare, bare.compressors[0]).headline
