"""The card of a compressor's folder: test numbers where there are some, else those that it was selected on."""

from typing import Any

import pytest

from cmp.model.backbone import BackboneId
from cmp.model.card import model_card
from cmp.space.settings import TrialSettings

METRICS = {
    "epoch": 3, "val_loss": 1.656, "no_context_loss": 2.561, "full_context_loss": 1.557, "recovered": 0.9014,
    "positions": 8, "swapped_loss": 1.803, "nested": {"1": 1.707, "2": 1.676}, "text_curve": None,
}  # fmt: skip


def card(metrics: dict[str, Any] | None = None, *, more: dict[str, Any] | None = None, **settings: Any) -> str:
    shape = {"cmp_len": 100, "n_cmps": 4, "keep_len": 4, "exp_name": "stories", **settings}
    trial = TrialSettings(model_string="m", dataset="d", **shape)
    backbone = BackboneId(name="gpt2", revision=None, fingerprint="abc")
    return model_card(trial, backbone, 7, METRICS if metrics is None else metrics, {}, {}, **(more or {}))


def test_without_test_scores_it_names_its_numbers_as_those_that_it_was_selected_on() -> None:
    text = card()

    assert "100 context tokens become 4 memory vectors and the last 4 tokens as text that stand in for them" in text
    assert "On the validation documents that it was selected on it reaches 1.6560 nats per token" in text
    assert "It was not scored on documents that decided nothing." in text
    assert "## Numbers that it was selected on" in text
    assert "| swapped_loss | 1.8030 |" in text and "| positions | 8 |" in text
    assert "nested" not in text.split("## Settings")[0], "it has no line of its own"
    assert "It recovers" not in text


def test_with_test_scores_it_begins_with_them() -> None:
    text = card(more={"headline": "4 vectors do the work of 9.0 tokens of text.", "tests": "## On test documents\n\nx"})

    assert (
        text.index("do the work of 9.0") < text.index("## Use") < text.index("## On test") < text.index("selected on")
    )
    assert "not scored" not in text


@pytest.mark.parametrize(("n_cmps", "count"), [(2, "2 memory vectors"), (1, "1 memory vector")])
def test_a_part_of_a_nested_memory_is_called_that(n_cmps: int, count: str) -> None:
    text = card(more={"n_cmps": n_cmps}, nested=True)

    loss = METRICS["nested"][str(n_cmps)]  # type: ignore[index]
    assert f"100 context tokens become {count} and the last 4 tokens as text" in text
    assert f"it reaches {loss:.4f} nats per token" in text
    assert f"makes the first {n_cmps} of each piece's 4 vectors" in text


def test_a_compressor_that_no_search_has_trained_has_no_numbers() -> None:
    text = card({}, keep_len=0, n_cmps=1)

    assert "become 1 memory vector that stands in for them" in text
    assert "selected on" not in text
