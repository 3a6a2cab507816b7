"""Learning curves for `simulate`: plausible ones from a formula, or those that real searches recorded.

A curve set answers one question: the val_loss of given settings after each epoch, and how long an epoch takes.
"""

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow.parquet as pq

from cmp.results.space_file import read_space_file
from cmp.space.domains import Choice, Domain, LogInt, LogUniform, Uniform
from cmp.space.space import Space

Recorded = tuple[dict[str, Any], list[float]]


class Curves(Protocol):
    """What `simulate` needs. The same settings and seed always give the same numbers."""

    space: Space

    def losses(self, settings: Mapping[str, Any], seed: int) -> list[float]:
        """val_loss after each of the space's epochs, nats per token."""

    def epoch_seconds(self, settings: Mapping[str, Any], seed: int) -> float:
        """Length of one epoch."""


@dataclass(frozen=True)
class FormulaCurves:
    """Made up after what compressors showed: a power law in the epochs towards a final loss.

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


@dataclass(frozen=True)
class PricedCurves:
    """Made up likewise, with vectors and kept tokens, which cost positions, both searched.

    Kept tokens do what the text curve of a small model on stories says; vectors carry a share of what they leave, more
    with LoRA and the right layer. More vectors want a lower learning rate and learn more slowly, so that at the first
    rungs few vectors are better than they are in the end.
    """

    space: Space

    TEXT: ClassVar = (
        (0, 1.941),
        (1, 1.837),
        (2, 1.791),
        (4, 1.748),
        (8, 1.719),
        (16, 1.671),
        (32, 1.642),
        (100, 1.551),
    )

    @classmethod
    def default(cls, n_epochs: int) -> "PricedCurves":
        """Five searched settings, 1 to 48 positions."""
        searched = {
            "lr": {"loguniform": [1e-4, 1e-1]},
            "n_cmps": {"logint": [1, 16]},
            "keep_len": {"choice": [0, 1, 2, 4, 8, 16, 32]},
            "cmp_layer": {"choice": [1, 2, 3, 4, 5]},
            "lora_rank": {"choice": [0, 4, 8, 16]},
        }
        plain = {"model_string": "none", "dataset": "none", "exp_name": "simulated", "n_epochs": n_epochs, **searched}
        return cls(Space.from_dict({**plain, "search": {"objective": "front"}}))

    def losses(self, settings: Mapping[str, Any], seed: int) -> list[float]:
        """See `Curves`."""
        rng = _rng(settings, seed)
        n_cmps, rank = settings["n_cmps"], settings["lora_rank"]
        off = math.log(settings["lr"] / (8e-3 / n_cmps**0.3 / (2.0 if rank else 1.0)))
        quality = (0.6 + 0.25 * (1 - math.exp(-rank / 6))) * (1 - 0.12 * ((settings["cmp_layer"] - 3) / 2) ** 2)
        text = float(
            np.interp(math.log1p(settings["keep_len"]), *zip(*((math.log1p(k), t) for k, t in self.TEXT), strict=True))
        )
        carried = quality * (1 - math.exp(-(n_cmps**0.7) / 2))
        final = text - carried * (text - self.TEXT[-1][1]) + 0.03 * off**2 + 0.1 * max(0.0, off - 1.0) ** 2
        final += rng.gauss(0, 0.006)
        speed = max(0.25, 0.9 - 0.1 * max(0.0, -off) - 0.02 * n_cmps)
        n_epochs = self.space.fixed["n_epochs"]
        share = [epoch**-speed - n_epochs**-speed for epoch in range(1, n_epochs + 1)]
        return [final + (0.25 + 0.02 * n_cmps) * part + rng.gauss(0, 0.002) for part in share]

    def epoch_seconds(self, settings: Mapping[str, Any], seed: int) -> float:
        """See `Curves`."""
        rng = _rng(settings, seed + 1)
        work = 1 + 0.03 * settings["n_cmps"] + 0.1 * settings["cmp_layer"] + 0.3 * (settings["lora_rank"] > 0)
        return 20.0 * work * rng.lognormvariate(0, 0.1)


class RecordedCurves:
    """What was recorded: the curve of new settings is the mean of recorded ones, near settings first.

    A trial that was stopped is continued with the mean shape of the finished ones, so that a bad trial stays bad.

    Args:
        space: of the recorded trials.
        trials: searched settings and val_loss by epoch, from the first on, of every trial.
        seconds: lengths of epochs.
    """

    def __init__(self, space: Space, trials: Sequence[Recorded], seconds: list[float]) -> None:
        self.space = space
        self._n_epochs = int(space.largest("n_epochs"))
        whole = np.array([losses for _, losses in trials if len(losses) == self._n_epochs])
        if len(whole) == 0:
            raise SystemExit(f"no trial ran all {self._n_epochs} epochs; nothing to learn a curve's shape from")
        kept = [(settings, losses) for settings, losses in trials if losses]
        self._curves = np.array([_continued(losses, whole.mean(axis=0)) for _, losses in kept])
        self._points = np.array([self._point(settings) for settings, _ in kept])
        self._seconds = seconds
        self._noise = float(np.std(np.diff(whole, n=2, axis=1))) / 3 if self._n_epochs > 2 else 0.0

    @classmethod
    def of_results(cls, folder: Path) -> "RecordedCurves":
        """From a results folder."""
        space = Space.from_dict(read_space_file(folder / "space.yaml"))
        by_trial: dict[int, list[dict[str, Any]]] = {}
        for row in pq.read_table(folder / "results.parquet").to_pylist():
            by_trial.setdefault(row["trial"], []).append(row)
        trials = [(_settings(reports[0], space), _losses(reports)) for reports in by_trial.values()]
        seconds = [float(np.median(np.diff(_times(reports)))) for reports in by_trial.values() if len(reports) > 1]
        return cls(space, trials, seconds)

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

    def _point(self, settings: Mapping[str, Any]) -> np.ndarray:
        coordinates = [place(domain, settings[name]) for name, domain in self.space.searched.items()]
        return np.array([number for numbers in coordinates for number in numbers])


class InterpolatedCurves:
    """What `tests.benchmarks.search` trained, many trials for every combination of choices and whole numbers.

    Between two trials that differ only in the one real number that is searched, val_loss after an epoch is linear in
    it (in its logarithm, as it is sampled). Trials that were stopped count up to where they were stopped. A search
    over these curves spends and finds what the same search found in real training, as long as its trials are known.

    Args:
        space: of the trials, with one searched setting that is a real number.
        trials: searched settings and val_loss by epoch, from the first on, of every trial.

    Raises:
        SystemExit: a combination of the other settings has no trial that ran all epochs.
    """

    def __init__(self, space: Space, trials: Sequence[Recorded]) -> None:
        self.space = space
        self._n_epochs = int(space.max_epochs)
        (self._real,) = [name for name, domain in space.searched.items() if isinstance(domain, LogUniform | Uniform)]
        self._trials: dict[str, list[tuple[float, list[float]]]] = {}
        for settings, losses in trials:
            self._trials.setdefault(self._others(settings), []).append((self._place(settings), losses))
        for others, known in self._trials.items():
            known.sort(key=lambda trial: trial[0])
            if all(len(losses) < self._n_epochs for _, losses in known):
                raise SystemExit(f"no trial with {others} ran all {self._n_epochs} epochs")

    @classmethod
    def of_benchmark(cls, folder: Path) -> "InterpolatedCurves":
        """From the `--cache` of `tests.benchmarks.search`."""
        space = Space.from_dict(json.loads((folder / "space.json").read_text()))
        curves = [json.loads(path.read_text()) for path in sorted(folder.glob("trials/*/curve.json"))]
        return cls(space, [(curve["settings"], curve["losses"]) for curve in curves])

    def losses(self, settings: Mapping[str, Any], seed: int) -> list[float]:
        """See `Curves`; the same for every seed, as training is."""
        known = self._trials[self._others(settings)]
        at = self._place(settings)
        return [_interpolated(at, known, epoch) for epoch in range(self._n_epochs)]

    def epoch_seconds(self, settings: Mapping[str, Any], seed: int) -> float:
        """See `Curves`: all the same, but no two alike, so that trials do not end their epochs in step."""
        return _rng(settings, seed).uniform(0.9, 1.1)

    def _place(self, settings: Mapping[str, Any]) -> float:
        return place(self.space.searched[self._real], settings[self._real])[0]

    def _others(self, settings: Mapping[str, Any]) -> str:
        return json.dumps([settings[name] for name in self.space.searched if name != self._real])


def _interpolated(at: float, known: Sequence[tuple[float, list[float]]], epoch: int) -> float:
    points = [(place, losses[epoch]) for place, losses in known if len(losses) > epoch]
    return float(np.interp(at, *zip(*points, strict=True)))


def place(domain: Domain, value: Any) -> list[float]:
    """Where a value lies in its domain, as coordinates from 0 to 1; a choice has one per value."""
    if isinstance(domain, Choice):
        return [float(value == choice) / math.sqrt(2) for choice in domain.values]
    low, high = domain.extremes()
    if isinstance(domain, LogUniform | LogInt):
        low, high, value = math.log(low), math.log(high), math.log(value)
    return [(value - low) / (high - low) if high > low else 0.0]


def _continued(losses: list[float], shape: np.ndarray) -> np.ndarray:
    return np.concatenate([losses, losses[-1] + shape[len(losses) :] - shape[len(losses) - 1]])


def _losses(reports: list[dict[str, Any]]) -> list[float]:
    """Of the epochs 1, 2, ...; up to the first that is missing or has no loss."""
    by_epoch = {report["epoch"]: report["val_loss"] for report in reports}
    losses = (by_epoch.get(epoch) for epoch in range(1, len(by_epoch) + 1))
    return list(itertools.takewhile(lambda loss: loss is not None, losses))


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
