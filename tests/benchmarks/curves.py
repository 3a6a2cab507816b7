"""Learning curves for `simulate`: plausible ones from a formula, or those that a real search recorded.

A curve set answers one question: the val_loss of given settings after each epoch, and how long an epoch takes.
"""

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq

from cmp.results.space_file import read_space_file
from cmp.space.domains import Choice, Domain, LogInt, LogUniform
from cmp.space.space import Space


class Curves(Protocol):
    """What `simulate` needs. The same settings and seed always give the same numbers."""

    space: Space

    def losses(self, settings: Mapping[str, Any], seed: int) -> list[float]:
        """val_loss after each of the space's epochs, nats per token."""

    def epoch_seconds(self, settings: Mapping[str, Any], seed: int) -> float:
        """Length of one epoch."""


@dataclass(frozen=True)
class FormulaCurves:
    """Made up after what compressors showed (prior-work.md): a power law in the epochs towards a final loss.

    The best learning rate depends on how much is trained; a low one learns slowly, so that curves cross; too high a
    one is noisy and ends badly. Trials differ by a seeded noise of 0.01 nats, reports by 0.003.
    """

    space: Space

    @classmethod
    def default(cls, n_epochs: int) -> "FormulaCurves":
        """Five searched settings, as in the shipped spaces."""
        searched = {
            "lr": {"loguniform": [1e-4, 1e-1]},
            "n_cmps": {"int": [1, 10]},
            "cmp_layer": {"choice": [1, 2, 3, 4, 5]},
            "kl_scale": {"uniform": [0.0, 1.0]},
            "lora_rank": {"choice": [0, 4, 8, 16]},
        }
        plain = {"model_string": "none", "dataset": "none", "exp_name": "simulated", "n_epochs": n_epochs, **searched}
        return cls(Space.from_dict(plain))

    def losses(self, settings: Mapping[str, Any], seed: int) -> list[float]:
        """See `Curves`."""
        rng = _rng(settings, seed)
        best_lr = 1e-2 if settings["lora_rank"] == 0 else 4e-3
        off = math.log(settings["lr"] / best_lr)
        layer = 0.04 * ((settings["cmp_layer"] - 3) / 2) ** 2
        capacity = 0.12 / math.sqrt(1 + settings["n_cmps"]) + 0.06 / (1 + settings["lora_rank"] / 4)
        kl = 0.03 * (settings["kl_scale"] - 0.5) ** 2
        final = 1.70 + 0.035 * off**2 + (0.1 * max(0.0, off - 1.0) ** 2) + layer + capacity + kl + rng.gauss(0, 0.01)
        speed = 0.9 - 0.12 * max(0.0, -off)
        start = 2.6 - final
        n_epochs = self.space.fixed["n_epochs"]
        share = [(epoch ** -max(speed, 0.2) - n_epochs ** -max(speed, 0.2)) for epoch in range(1, n_epochs + 1)]
        return [final + max(start, 0.05) * 0.6 * part + rng.gauss(0, 0.003) for part in share]

    def epoch_seconds(self, settings: Mapping[str, Any], seed: int) -> float:
        """See `Curves`: more vectors, deeper layers and LoRA cost time."""
        rng = _rng(settings, seed + 1)
        work = 1 + 0.03 * settings["n_cmps"] + 0.1 * settings["cmp_layer"] + 0.3 * (settings["lora_rank"] > 0)
        return 20.0 * work * rng.lognormvariate(0, 0.1)


class RecordedCurves:
    """What a results folder recorded: the curve of new settings is the mean of recorded ones, near settings first.

    A trial that was stopped is continued with the mean shape of the finished ones, so that a bad trial stays bad.
    """

    def __init__(self, folder: Path) -> None:
        self.space = Space.from_dict(read_space_file(folder / "space.yaml"))
        rows = pq.read_table(folder / "results.parquet").to_pylist()
        by_trial: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            by_trial.setdefault(row["trial"], []).append(row)
        self._n_epochs = int(self.space.largest("n_epochs"))
        curves = {trial: self._curve(reports) for trial, reports in by_trial.items()}
        whole = np.array([curve for curve in curves.values() if not np.isnan(curve).any()])
        if len(whole) == 0:
            raise SystemExit(
                f"{folder}: no trial ran all {self._n_epochs} epochs; nothing to learn a curve's shape from"
            )
        kept = [trial for trial, curve in curves.items() if not np.isnan(curve[0])]
        self._curves = np.array([_continued(curves[trial], whole.mean(axis=0)) for trial in kept])
        self._points = np.array([self._point(_settings(by_trial[trial][0], self.space)) for trial in kept])
        self._seconds = [
            float(np.median(np.diff(_times(by_trial[trial])))) for trial in kept if len(by_trial[trial]) > 1
        ]
        self._noise = float(np.std(np.diff(whole, n=2, axis=1))) / 3 if self._n_epochs > 2 else 0.0

    def losses(self, settings: Mapping[str, Any], seed: int) -> list[float]:
        """See `Curves`."""
        distances = np.linalg.norm(self._points - self._point(settings), axis=1)
        nearest = np.argsort(distances)[:5]
        weights = 1.0 / (distances[nearest] + 0.05) ** 2
        curve = weights @ self._curves[nearest] / weights.sum()
        rng = _rng(settings, seed)
        return [float(loss) + rng.gauss(0, self._noise) for loss in curve]

    def epoch_seconds(self, settings: Mapping[str, Any], seed: int) -> float:
        """See `Curves`: as long as those recorded, whatever the settings."""
        return _rng(settings, seed + 1).choice(self._seconds or [1.0])

    def _curve(self, reports: list[dict[str, Any]]) -> np.ndarray:
        curve = np.full(self._n_epochs, np.nan)
        for report in reports:
            if report["val_loss"] is not None:
                curve[report["epoch"] - 1] = report["val_loss"]
        return curve

    def _point(self, settings: Mapping[str, Any]) -> np.ndarray:
        coordinates = [place(domain, settings[name]) for name, domain in self.space.searched.items()]
        return np.array([number for numbers in coordinates for number in numbers])


def place(domain: Domain, value: Any) -> list[float]:
    """Where a value lies in its domain, as coordinates from 0 to 1; a choice has one per value."""
    if isinstance(domain, Choice):
        return [float(value == choice) / math.sqrt(2) for choice in domain.values]
    low, high = domain.extremes()
    if isinstance(domain, LogUniform | LogInt):
        low, high, value = math.log(low), math.log(high), math.log(value)
    return [(value - low) / (high - low) if high > low else 0.0]


def _continued(curve: np.ndarray, shape: np.ndarray) -> np.ndarray:
    last = int(np.flatnonzero(~np.isnan(curve))[-1])
    continued = curve.copy()
    continued[last + 1 :] = curve[last] + shape[last + 1 :] - shape[last]
    return continued


def _settings(row: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """The searched settings of a row; a column of choices of mixed types holds their text."""
    settings = {name: row[f"setting.{name}"] for name in space.searched}
    for name, domain in space.searched.items():
        if isinstance(domain, Choice):
            settings[name] = next(value for value in domain.values if str(value) == str(settings[name]))
    return settings


def _times(reports: list[dict[str, Any]]) -> list[float]:
    return [report["time"].timestamp() for report in reports]


def _rng(settings: Mapping[str, Any], seed: int) -> random.Random:
    return random.Random(json.dumps([seed, dict(settings)], sort_keys=True))
