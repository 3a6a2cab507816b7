"""How good a search's compressors are on documents that decided nothing, and how sure that is. Pure numbers.

Losses come in as sums by document, so that intervals can be drawn over documents: texts differ more than tokens do.
`train.scoring` makes them, the search keeps them as `test.json`, terminal, page, cards and `cmp evaluate` show them.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cmp.results.worth import TextCurve, Worth, worth_of
from cmp.store import write_text

RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class DocumentSums:
    """Summed losses of one way of reading, by document.

    Args:
        nll: (D,) nats over the document's kept target tokens.
        tokens: (D,) how many those are; 0 where this way could not be read there.
    """

    nll: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval by a bootstrap over documents."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Candidate:
    """A compressor that was scored: whose it is and what its decoder reads in the context's place."""

    trial: int
    epoch: int
    vectors: int
    kept: int

    @property
    def positions(self) -> int:
        """Vectors and kept tokens."""
        return self.vectors + self.kept


@dataclass(frozen=True)
class CompressorScores:
    """What a compressor reaches. Losses are nats per target token.

    Args:
        candidate: which one.
        loss: after its own memories.
        swapped_loss: after those of other documents.
        mean_loss: after one constant memory, the mean of a batch: no content at all.
        text_loss: the text curve at as many positions: plain text at the same price.
        recovered: share of the gap between no context and full context.
        worth_tokens: tokens of plain text that do as well.
        gain: those per position.
        carried: share of the context's own value that gets through.
    """

    candidate: Candidate
    loss: Interval
    swapped_loss: Interval | None
    mean_loss: Interval | None
    text_loss: float | None
    recovered: Interval | None
    worth_tokens: Interval | None
    gain: Interval | None
    carried: Interval | None

    @property
    def worth(self) -> Worth | None:
        """The same as one thing."""
        if self.worth_tokens is None or self.gain is None or self.carried is None:
            return None
        return Worth(self.worth_tokens.value, self.gain.value, self.carried.value)


@dataclass(frozen=True)
class SplitScores:
    """All that is known of a search's compressors on one split; the first of `compressors` is the best trial's.

    Args:
        split: "test", or what else was scored.
        documents: in it.
        windows: that were scored.
        tokens: kept target tokens in them.
        no_context_loss: of the backbone alone.
        full_context_loss: of the backbone with the whole context.
        text_curve: T by number of kept tokens.
        trained: whether the curve is the text control's; else the bare backbone's.
        plain_curve: the bare backbone's curve.
        compressors: scored ones.
        runner_up: number of the second-best trial.
        difference: loss of the best minus that of the runner-up, on the same documents.
        kinds: losses of the best by kind of target token, and by what is read; "tokens" counts them.
        costs: what a memory of the best costs beside the text; see `model.flops.Costs`.
    """

    split: str
    documents: int
    windows: int
    tokens: int
    no_context_loss: float
    full_context_loss: float
    text_curve: dict[str, float]
    trained: bool
    plain_curve: dict[str, float]
    compressors: tuple[CompressorScores, ...]
    runner_up: int | None = None
    difference: Interval | None = None
    kinds: dict[str, dict[str, float | None]] = field(default_factory=dict)
    costs: dict[str, float | None] = field(default_factory=dict)

    @property
    def curve(self) -> TextCurve | None:
        """The text curve that worth is read off."""
        return TextCurve.from_losses(self.text_curve, trained=self.trained)

    def find(self, candidate: Candidate) -> CompressorScores | None:
        """The scores of one compressor, where it was scored."""
        return next((found for found in self.compressors if found.candidate == candidate), None)


@dataclass(frozen=True)
class Sums:
    """Everything that was summed up on one split, by document.

    Args:
        no_context: of the backbone alone.
        full_context: of the backbone with the whole context.
        plain: of the backbone after its last tokens, by their number.
        text: of the text control, likewise; empty where there is none.
        compressors: by candidate: "memory", and where they could be read "swapped" and "mean".
    """

    no_context: DocumentSums
    full_context: DocumentSums
    plain: Mapping[int, DocumentSums]
    text: Mapping[int, DocumentSums]
    compressors: Mapping[Candidate, Mapping[str, DocumentSums]]


def split_scores(split: str, windows: int, sums: Sums, runner_up: Candidate | None = None) -> SplitScores:
    """Losses, worth and their intervals.

    Args:
        split: its name.
        windows: how many were scored.
        sums: of all ways; the first compressor is the best trial's.
        runner_up: one of the compressors, to compare the best with.
    """
    draws = Draws(len(sums.no_context.tokens))
    curve_sums, trained = (sums.text, True) if sums.text else (sums.plain, False)
    curves = draws.of_curve(curve_sums, trained=trained)
    bounds = draws.losses(sums.no_context), draws.losses(sums.full_context)
    scored = tuple(_compressor_scores(draws, curves, bounds, *item) for item in sums.compressors.items())
    best = next(iter(sums.compressors), None)
    difference = None
    if best is not None and runner_up is not None:
        pair = [draws.losses(sums.compressors[one]["memory"]) for one in (best, runner_up)]
        difference = interval(pair[0] - pair[1])
    return SplitScores(
        split=split,
        documents=int((sums.no_context.tokens > 0).sum()),
        windows=windows,
        tokens=int(sums.no_context.tokens.sum()),
        no_context_loss=float(bounds[0][0]),
        full_context_loss=float(bounds[1][0]),
        text_curve={str(kept): float(draws.losses(one)[0]) for kept, one in sorted(curve_sums.items())},
        trained=trained,
        plain_curve={str(kept): float(draws.losses(one)[0]) for kept, one in sorted(sums.plain.items())},
        compressors=scored,
        runner_up=None if runner_up is None else runner_up.trial,
        difference=difference,
    )


class Draws:
    """The documents as they are, and resampled with replacement: row 0 is the former, the others the latter."""

    def __init__(self, documents: int, resamples: int = RESAMPLES, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(documents, np.full(documents, 1 / documents), size=resamples)
        self._weights = np.concatenate([np.ones((1, documents)), drawn])

    def losses(self, sums: DocumentSums) -> np.ndarray:
        """(1 + resamples,) nats per token; NaN where a draw has no token."""
        tokens = self._weights @ sums.tokens
        return np.divide(self._weights @ sums.nll, tokens, out=np.full(len(tokens), np.nan), where=tokens > 0)

    def of_curve(self, sums: Mapping[int, DocumentSums], *, trained: bool) -> list[TextCurve | None]:
        """A text curve for every draw."""
        columns = {str(kept): self.losses(one).tolist() for kept, one in sums.items()}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [TextCurve.from_losses(row, trained=trained) for row in rows]


def interval(values: np.ndarray | Sequence[float]) -> Interval:
    """The first value with the middle 95 % of the others."""
    numbers = np.asarray(values, dtype=float)
    known = numbers[1:][np.isfinite(numbers[1:])]
    if len(known) == 0:
        return Interval(float(numbers[0]), math.nan, math.nan)
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(numbers[0]), float(low), float(high))


def _compressor_scores(
    draws: Draws,
    curves: Sequence[TextCurve | None],
    bounds: tuple[np.ndarray, np.ndarray],
    candidate: Candidate,
    sums: Mapping[str, DocumentSums],
) -> CompressorScores:
    losses = draws.losses(sums["memory"])
    controls = {name: interval(draws.losses(sums[name])) for name in ("swapped", "mean") if name in sums}
    gap = bounds[0] - bounds[1]
    recovered = interval(np.divide(bounds[0] - losses, gap, out=np.full(len(gap), np.nan), where=gap > 0))
    worths = [
        None if curve is None else worth_of(curve, loss, candidate.positions)
        for curve, loss in zip(curves, losses.tolist(), strict=True)
    ]
    first = curves[0]
    return CompressorScores(
        candidate=candidate,
        loss=interval(losses),
        swapped_loss=controls.get("swapped"),
        mean_loss=controls.get("mean"),
        text_loss=None if first is None else first.loss(candidate.positions),
        recovered=recovered if math.isfinite(recovered.value) else None,
        worth_tokens=_interval_of(worths, lambda worth: worth.tokens),
        gain=_interval_of(worths, lambda worth: worth.gain),
        carried=_interval_of(worths, lambda worth: worth.carried),
    )


def _interval_of(worths: Sequence[Worth | None], pick: Callable[[Worth], float]) -> Interval | None:
    """None where text does not help; resamples in which it does not are left out."""
    return None if worths[0] is None else interval([math.nan if worth is None else pick(worth) for worth in worths])


def save_scores(path: Path, scores: SplitScores) -> None:
    """Write them as JSON, atomically; NaN becomes null."""
    write_text(path, json.dumps(_plain(dataclasses.asdict(scores)), indent=1) + "\n")


def load_scores(path: Path) -> SplitScores | None:
    """The scores in `path`; None where there are none that can be read."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        compressors = tuple(_compressor(row) for row in raw.pop("compressors"))
        difference = _interval(raw.pop("difference"))
        return SplitScores(**raw, compressors=compressors, difference=difference)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _compressor(raw: dict[str, Any]) -> CompressorScores:
    candidate, text_loss = Candidate(**raw.pop("candidate")), raw.pop("text_loss")
    intervals: dict[str, Any] = {name: _interval(value) for name, value in raw.items()}
    return CompressorScores(candidate=candidate, text_loss=text_loss, **intervals)


def _interval(raw: dict[str, float | None] | None) -> Interval | None:
    return None if raw is None else Interval(**{k: math.nan if v is None else v for k, v in raw.items()})


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
