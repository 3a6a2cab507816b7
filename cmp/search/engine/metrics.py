"""Gauges for Ray's dashboard and Prometheus: the latest numbers of every trial and the best so far."""

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Gauge

from cmp.results.folder import trial_label
from cmp.results.history import CONTROL, History, is_finite
from cmp.results.journal import Event

# Our name of a report's field or of what is worked out from it, and what the gauge says about itself.
_BY_TRIAL = {
    "val_loss": "validation loss after the last epoch, nats per token",
    "swapped_loss": "the same after the memories of other documents",
    "worth_tokens": "tokens of plain text that do as well as the memory, by the text control's curve",
    "gain": "those per position that the decoder reads: above 1 the memory beats plain text",
    "carried": "share of what the text itself is worth to the adapted model that the memory carries",
    "recovered": "share of the context's value that survives compression",
    "tokens_per_second": "training speed, tokens per second",
    "epoch": "epochs trained",
}


class RayMetrics:
    """A listener of the ledger that sets gauges; tags are the experiment and the trial's number."""

    def __init__(self, experiment: str, history: History) -> None:
        self._experiment = experiment
        self._history = history
        self._gauges = {name: Gauge(f"cmp_{name}", text, ("experiment", "trial")) for name, text in _BY_TRIAL.items()}
        self._best = Gauge("cmp_best_val_loss", "lowest validation loss so far, nats per token", ("experiment",))

    def on_event(self, event: Event) -> None:
        """Show a report's numbers; the text control's curve says what all trials are worth."""
        if event["event"] != "reported":
            return
        number, metrics = event["trial"], event["metrics"]
        self._set(number, metrics | self._worth_of(number, metrics))
        if number == CONTROL and metrics.get("text_curve"):
            for trial in self._history.trials.values():
                if trial.reports:
                    self._set(trial.number, self._worth_of(trial.number, trial.reports[-1]))
        best = self._history.best()
        if best is not None and best.val_loss is not None:
            self._best.set(best.val_loss, {"experiment": self._experiment})

    def _worth_of(self, number: int, metrics: Mapping[str, Any]) -> dict[str, float]:
        worth = None if number == CONTROL else self._history.worth_of(metrics)
        return {} if worth is None else worth.columns

    def _set(self, number: int, values: Mapping[str, Any]) -> None:
        tags = {"experiment": self._experiment, "trial": trial_label(number)}
        for name, gauge in self._gauges.items():
            value = values.get(name)
            if is_finite(value):
                gauge.set(value, tags)
