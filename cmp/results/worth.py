"""What a compressor is worth in plain text: the text curve, and what is read off it. Pure numbers.

The text curve T(k) is the loss after the last k tokens of the context as plain text, of a *text control*: a compressor
with nothing to compress, trained as the trials are, so that it adapts the model to the text as well as they do. A
memory is worth as many tokens as T needs to reach its loss. Used by the tables, the terminal, the page and the cards.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any


@dataclass(frozen=True)
class TextCurve:
    """Losses after plain text.

    Args:
        points: (k, nats per token), k ascending from 0 to the whole context; at least two.
        trained: of the text control; False is the backbone's own, which does not know the text as the trials do, so
            that worth read off it counts adaptation as memory.
    """

    points: tuple[tuple[int, float], ...]
    trained: bool

    @classmethod
    def from_losses(cls, losses: Mapping[str, float | None], *, trained: bool) -> "TextCurve | None":
        """The curve as a report has it, by number of tokens; None where it has no two finite points."""
        points = sorted((int(kept), loss) for kept, loss in losses.items() if loss is not None and math.isfinite(loss))
        return cls(tuple(points), trained) if len(points) > 1 else None

    @property
    def longest(self) -> int:
        """The whole context, in tokens."""
        return self.points[-1][0]

    @property
    def no_text(self) -> float:
        """T(0): what the adapted model reaches without any context."""
        return self.points[0][1]

    @property
    def all_text(self) -> float:
        """T(the whole context)."""
        return self.points[-1][1]

    def loss(self, kept: float) -> float:
        """T at a number of tokens, linear in log(k) between measured ones, and in k below 1."""
        kept = min(max(kept, 0.0), float(self.longest))
        for (low, above), (high, below) in pairwise(self.points):
            if kept <= high:
                share = (_scale(kept, low) - _scale(low, low)) / (_scale(high, low) - _scale(low, low))
                return above + share * (below - above)
        return self.all_text

    def worth(self, loss: float) -> float:
        """How many tokens of plain text do as well: the smallest k with T(k) = `loss`.

        0 for a loss that is no better than without text; the whole context for one that no text reaches.
        """
        lowest = list(accumulate((value for _, value in self.points), min))  # noise may lift a later point
        if loss >= lowest[0]:
            return 0.0
        counts = [kept for kept, _ in self.points]
        for (low, above), (high, below) in pairwise(zip(counts, lowest, strict=True)):
            if loss >= below:
                share = (above - loss) / (above - below)
                return _unscale(_scale(low, low) + share * (_scale(high, low) - _scale(low, low)), low)
        return float(counts[-1])

    @property
    def text_helps(self) -> bool:
        """Whether the context is worth anything: without that nothing can be measured in it."""
        return self.all_text < self.no_text

    def carried(self, loss: float) -> float:
        """(T(0) - loss) / (T(0) - T(all)): what of the context itself gets through, where text helps."""
        return (self.no_text - loss) / (self.no_text - self.all_text)


@dataclass(frozen=True)
class Worth:
    """A loss in plain text.

    Args:
        tokens: how many last tokens of the context, kept as text, reach the same loss.
        gain: `tokens` per position that the decoder reads; above 1 it beats keeping that many of the last tokens.
        carried: share of the context's own value that gets through.
    """

    tokens: float
    gain: float
    carried: float

    @property
    def columns(self) -> dict[str, float]:
        """As tables and other views call them."""
        return {"worth_tokens": self.tokens, "gain": self.gain, "carried": self.carried}


def worth_of(curve: TextCurve, loss: float, positions: int) -> Worth | None:
    """What a compressor of `positions` positions with this loss is worth; None where text itself does not help."""
    if not curve.text_helps:
        return None
    tokens = curve.worth(loss)
    return Worth(tokens, tokens / positions, curve.carried(loss))


class TextCurves:
    """What a search knows of plain text: the text control's curve, and the backbone's own until that is there."""

    def __init__(self) -> None:
        self._trained: TextCurve | None = None
        self._own: TextCurve | None = None

    @property
    def best(self) -> TextCurve | None:
        """The curve to read worth off."""
        return self._trained or self._own

    @property
    def plain(self) -> TextCurve | None:
        """The backbone's own."""
        return self._own

    def take(self, report: Mapping[str, Any]) -> bool:
        """Keep what a report says of plain text, of the backbone's own curves that of the longest context.

        Returns:
            Whether worth is read off another curve now.
        """
        before = self.best
        trained = TextCurve.from_losses(report.get("text_curve") or {}, trained=True)
        own = TextCurve.from_losses(report.get("plain_curve") or {}, trained=False)
        self._trained = trained or self._trained
        if own is not None and (self._own is None or own.longest > self._own.longest):
            self._own = own
        return self.best != before

    def worth_of(self, report: Mapping[str, Any]) -> Worth | None:
        """What the compressor of a report is worth in plain text; None where that is not known (yet)."""
        loss, positions = report.get("val_loss"), report.get("positions")
        if self.best is None or not positions or loss is None or not math.isfinite(loss):
            return None
        return worth_of(self.best, loss, positions)


def headline(worth: Worth, vectors: int, kept: int) -> str:
    """The one sentence that a result begins with.

    >>> headline(Worth(8.7, 1.45, 0.5), vectors=6, kept=0)
    '6 vectors do the work of 8.7 tokens of text (gain 1.5)'
    """
    what = f"{vectors} vector{'' if vectors == 1 else 's'}"
    if kept:
        what += f" and the last {f'{kept} tokens' if kept > 1 else 'token'}"
    verb = "does" if vectors == 1 and not kept else "do"
    return f"{what} {verb} the work of {worth.tokens:.1f} tokens of text (gain {worth.gain:.1f})"


def _scale(kept: float, low: int) -> float:
    """The axis on which T is linear between two measured points: log(k), or k itself below 1."""
    return kept if low < 1 else math.log(kept)


def _unscale(value: float, low: int) -> float:
    return value if low < 1 else math.exp(value)
