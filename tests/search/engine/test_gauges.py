"""What Ray's dashboard and a Prometheus are told of a search."""

from collections import defaultdict
from typing import Any

import pytest

from cmp.results.history import CONTROL, History
from cmp.search.engine import metrics

PLAIN = {"0": 4.0, "4": 3.5, "8": 3.0}
TRAINED = {"0": 3.4, "4": 3.2, "8": 3.0}


@pytest.fixture
def gauges(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, float]]:
    """The last value of every gauge, by trial."""
    values: dict[str, dict[str, float]] = defaultdict(dict)

    class Gauge:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            self.name = name

        def set(self, value: float, tags: dict[str, str]) -> None:
            values[self.name][tags.get("trial", "")] = value

    monkeypatch.setattr(metrics, "Gauge", Gauge)
    return values


def report(number: int, **values: Any) -> dict[str, Any]:
    return {"event": "reported", "trial": number, "epoch": 1, "time": 1.0, "metrics": {"epoch": 1, **values}}


def test_worth_is_shown_for_all_trials_once_the_text_control_has_its_curve(
    gauges: dict[str, dict[str, float]],
) -> None:
    history = History()
    shown = metrics.RayMetrics("fake", history)

    def tell(*events: dict[str, Any]) -> None:
        for event in events:
            history.apply(event)
            shown.on_event(event)

    tell(
        {"event": "suggested", "trial": CONTROL, "role": "control", "settings": {}, "time": 0.0},
        {"event": "suggested", "trial": 0, "settings": {}, "time": 0.0},
        report(0, val_loss=3.2, swapped_loss=3.6, positions=2, plain_curve=PLAIN),
    )
    assert gauges["cmp_val_loss"] == {"0000": 3.2} == {"0000": gauges["cmp_best_val_loss"][""]}
    assert gauges["cmp_swapped_loss"] == {"0000": 3.6}
    assert not gauges["cmp_gain"], "by the bare model's text it would seem to be worth more than 4 tokens"

    tell(report(CONTROL, val_loss=3.4, text_curve=TRAINED))

    assert gauges["cmp_worth_tokens"] == {"0000": pytest.approx(4.0)}
    assert gauges["cmp_gain"] == {"0000": pytest.approx(2.0)}
    assert gauges["cmp_carried"] == {"0000": pytest.approx(0.5)}
    assert gauges["cmp_val_loss"]["text"] == 3.4
