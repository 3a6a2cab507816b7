"""Numbers, durations and texts as the page prints them; everything that reaches HTML passes `escape`."""

import html
from typing import Any

Markup = str
"""Text that is HTML already."""


def escape(value: Any) -> Markup:
    """Any value as HTML text, safe in elements and in quoted attributes."""
    return html.escape(str(value), quote=True)


def loss(value: float | None) -> str:
    """Nats with three decimals: 1.803."""
    return "–" if value is None else f"{value:.3f}"


def fixed(value: float | None, digits: int) -> str:
    """A number with so many decimals."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share as whole percent, with a true minus; one decimal below 10 %."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 0.1 else 1
    return f"{100 * value:.{digits}f} %".replace("-", "−")


def ratio(value: float | None) -> str:
    """A compression ratio: 25×, 12.5×."""
    return "–" if value is None else f"{value:.3g}×"


def count(value: int | float) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{round(value):,}".replace(",", "\u202f")


def setting(value: Any) -> str:
    """A setting's value: numbers with three significant digits, words as they are."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def duration(seconds: float) -> str:
    """The two largest units, never broken over lines: 1 h 12 min, 3 min 20 s, 48 s."""
    seconds = round(seconds)
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    first = next((i for i, (amount, _) in enumerate(parts) if amount), 3)
    shown = [f"{amount} {unit}" for amount, unit in parts[first : first + 2] if amount]
    return "\u00a0".join(shown).replace(" ", "\u00a0") or "0\u00a0s"


def plural(number: int, noun: str) -> str:
    """`1 trial`, `12 trials`."""
    return f"{count(number)} {noun}" + ("" if number == 1 else "s")
