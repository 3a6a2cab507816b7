"""Plots of the settings: which mattered, one slice for each, parallel coordinates.

Same conventions as `figures`: variants of plain plotly data with named colours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmp.report import text
from cmp.report.figures import Figure, Variants, bounds, markers, ring
from cmp.report.numbers import Importance, importances, shown_range
from cmp.report.view import OUTCOMES, SearchView, TrialView, scale
from cmp.space.domains import Choice, Domain, LogInt


def ranked_settings(view: SearchView) -> list[Importance]:
    """How much each searched setting predicts; a diverged trial counts as worse than every other."""
    trials = [t for t in view.trials if (t.best and not t.failed) or t.record.kind == "diverged"]
    losses = [math.inf if t.failed else t.loss for t in trials]
    columns = {
        name: (scale(domain), [view.of(t, name) for t in trials])
        for name, domain in view.domains.items()
        if all(view.of(t, name) is not None for t in trials)
    }
    return importances(columns, losses)


def importance_bars(found: Sequence[Importance]) -> Variants:
    """One bar per setting, most important on top, and a tick at what chance alone would reach."""
    names = [i.setting for i in found]
    scores = {
        "type": "bar",
        "orientation": "h",
        "name": "predicts on its own",
        "y": names,
        "x": [i.score for i in found],
        "marker": {"color": ["@accent" if i.score > i.chance else "@soft" for i in found]},
        "hovertemplate": "%{y}: %{x:.0%}<extra></extra>",
    }
    chance = {
        "type": "scatter",
        "mode": "markers",
        "name": "reached by chance",
        "y": names,
        "x": [i.chance for i in found],
        "marker": {"symbol": "line-ns-open", "size": 14, "color": "@ink", "line": {"width": 2}},
        "hovertemplate": "%{y}: chance reaches %{x:.0%}<extra></extra>",
    }
    axis = {"tickformat": ".0%", "rangemode": "tozero", "title": {"text": "share of variance predicted"}}
    top = max([0.1, *(max(i.score, i.chance) for i in found)])
    layout = {
        "xaxis": {**axis, "range": [0, min(1.0, top * 1.1)]},
        "yaxis": {"autorange": "reversed", "showgrid": False, "automargin": True},
        "bargap": 0.45,
    }
    return {"score": {"data": [scores, chance], "layout": layout}}


def slice_plot(view: SearchView, setting: str) -> Variants:
    """val_loss of every trial against one setting."""
    domain = view.domains[setting]
    shown = [t for t in view.drawn if view.of(t, setting) is not None]
    data = []
    for group in OUTCOMES:
        trials = [t for t in shown if t.group == group]
        if trials:
            x = [_position(domain, view, t, setting) for t in trials]
            data.append(markers(group, trials, x, [t.loss for t in trials]))
    if view.best in shown and view.best is not None:
        data.append(ring(_position(domain, view, view.best, setting), view.best.loss))
    _, shapes, _ = bounds(view)
    span = shown_range([t.loss for t in shown]) or (0.0, 1.0)
    inside = [s for s in shapes if span[0] <= s["y0"] <= span[1]]
    layout = {
        "xaxis": _setting_axis(domain),
        "yaxis": {"range": list(span), "nticks": 5},
        "shapes": inside,
        "showlegend": False,
    }
    return {"val_loss": {"data": data, "layout": layout}}


def _position(domain: Domain, view: SearchView, trial: TrialView, setting: str) -> Any:
    """The value, or for a choice its place, moved aside a little by the trial's number so that points do not cover."""
    value = view.of(trial, setting)
    if not isinstance(domain, Choice):
        return value
    return _choice_index(domain, value) + 0.36 * ((trial.number * 0.618) % 1 - 0.5)


def _choice_index(domain: Choice, value: Any) -> int:
    labels = [str(v) for v in domain.values]
    return labels.index(str(value)) if str(value) in labels else len(labels)


def _setting_axis(domain: Domain) -> Figure:
    if isinstance(domain, Choice):
        places = list(range(len(domain.values)))
        labels = [text.escape(text.setting(v)) for v in domain.values]
        return {"tickvals": places, "ticktext": labels, "range": [-0.5, len(places) - 0.5], "zeroline": False}
    low, high = (float(v) for v in domain.extremes())
    if scale(domain) != "log":
        margin = 0.04 * (high - low) or 1.0
        return {"nticks": 5, "range": [low - margin, high + margin]}
    ticks = _ticks(domain)
    low, high = math.log10(low), math.log10(high)
    margin = 0.04 * (high - low) or 0.3
    labels = [f"{tick:g}" for tick in ticks]
    return {"type": "log", "tickvals": ticks, "ticktext": labels, "range": [low - margin, high + margin]}


def _ticks(domain: Domain) -> list[float]:
    low, high = (float(v) for v in domain.extremes())
    return _doubling_ticks(low, high) if isinstance(domain, LogInt) else _log_ticks(low, high)


def _log_ticks(low: float, high: float) -> list[float]:
    """Ticks of a log axis: powers of ten, closer where fewer than two of them are in the range."""
    for steps in ((1,), (1, 2, 5), (1, 2, 3, 5, 7)):
        ticks = [step * 10.0**power for power in range(-12, 13) for step in steps]
        inside = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(inside) >= 2 and (len(steps) > 1 or len(inside) >= 3):
            return inside
    return [low, high]


def _doubling_ticks(low: float, high: float) -> list[float]:
    """Ticks of a log axis of whole numbers: powers of two."""
    return [2.0**power for power in range(0, 40) if low <= 2.0**power <= high] or [low, high]


def parallel(view: SearchView) -> Variants:
    """Parallel coordinates: one axis per searched setting and val_loss, one line per trial, better ones in front.

    Lines of a scatter plot over axes of length 1, so that a dragged box keeps the lines that pass it (page.js does so
    where `layout.dragmode` is `select`) without the WebGL and the megabytes of plotly's own parallel coordinates.
    """
    trials = [t for t in reversed(view.drawn) if all(view.of(t, name) is not None for name in view.domains)]
    losses = [t.loss for t in trials]
    axes = {name: _coordinate(view, name, domain, trials) for name, domain in view.domains.items()}
    low, high = min(losses, default=0.0), max(losses, default=0.0)
    high = high if high > low else low + 1
    axes["val_loss"] = _Coordinate(losses, low, high, {tick: text.loss(tick) for tick in np.linspace(low, high, 5)})
    places = np.array([axis.places() for axis in axes.values()]).T.round(4)  # (trials, axes)
    return {"val_loss": {"data": _lines(trials, places), "layout": _parallel_layout(axes)}}


@dataclass(frozen=True)
class _Coordinate:
    """One upright axis of the parallel coordinates.

    Args:
        values: of every trial, as they are placed (logarithms on a log scale).
        low: the value at its foot.
        high: the value at its head.
        ticks: what is written at which value.
    """

    values: Sequence[float]
    low: float
    high: float
    ticks: dict[float, str]

    def place(self, value: float) -> float:
        """0.0 at the foot, 1.0 at the head."""
        return (value - self.low) / (self.high - self.low)

    def places(self) -> list[float]:
        return [self.place(value) for value in self.values]


QUALITIES = ((0.4, "@soft", 0.6), (0.85, "@accent", 0.4), (1.0, "@accent", 1.0))
"""From the worst trial on: up to which share of them, colour and opacity of their lines."""


def _lines(trials: Sequence[TrialView], places: np.ndarray) -> list[Figure]:
    """A trace for each quality with gaps between trials, the best trial last."""
    others = max(0, len(trials) - 1)
    ends = [0, *(round(share * others) for share, _, _ in QUALITIES), len(trials)]
    looks = [*((colour, opacity, 1.2) for _, colour, opacity in QUALITIES), ("@best", 1.0, 3.0)]
    thin = 0.5 if len(trials) > 60 else 1.0
    traces = []
    for begin, end, (colour, opacity, width) in zip(ends, ends[1:], looks, strict=False):
        chosen = range(begin, end)
        if not chosen:
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [x for _ in chosen for x in [*range(places.shape[1]), None]],
                "y": [y for i in chosen for y in [*places[i].tolist(), None]],
                "customdata": [trials[i].number for i in chosen for _ in range(places.shape[1] + 1)],
                "hovertext": "trial",
                "hovertemplate": "%{hovertext}<extra></extra>",
                "line": {"color": colour, "width": width},
                "opacity": opacity if opacity == 1.0 else opacity * thin,
            }
        )
    return traces


def _parallel_layout(axes: dict[str, _Coordinate]) -> Figure:
    labels = [
        {"x": index, "y": axis.place(value), "text": text.escape(label), "xanchor": "right", "xshift": -4}
        for index, axis in enumerate(axes.values())
        for value, label in axis.ticks.items()
    ]
    look = {
        "showarrow": False,
        "font": {"size": 11, "color": "@ink"},
        "bgcolor": "@paper",
        "opacity": 0.85,
        "borderpad": 1,
    }
    names = [text.escape(name) for name in axes]
    return {
        "dragmode": "select",
        "showlegend": False,
        "margin": {"l": 56, "r": 24, "t": 40, "b": 16},
        "xaxis": {
            "tickvals": list(range(len(axes))),
            "ticktext": names,
            "side": "top",
            "range": [-0.05, len(axes) - 0.95],
            "gridcolor": "@muted",
            "tickfont": {"size": 12, "color": "@ink"},
            "fixedrange": True,
        },
        "yaxis": {"visible": False, "range": [-0.04, 1.04], "fixedrange": True},
        "annotations": [label | look for label in labels],
    }


def _coordinate(view: SearchView, name: str, domain: Domain, trials: Sequence[TrialView]) -> _Coordinate:
    values = [view.of(t, name) for t in trials]
    if isinstance(domain, Choice):
        ticks = {float(place): text.setting(value) for place, value in enumerate(domain.values)}
        return _Coordinate([_choice_index(domain, v) for v in values], -0.1, len(domain.values) - 0.9, ticks)
    low, high = (float(v) for v in domain.extremes())
    if scale(domain) != "log":
        high = high if high > low else low + 1
        whole = all(isinstance(value, int) for value in values)
        ticks = {float(round(tick) if whole else tick): "" for tick in np.linspace(low, high, 5)}
        return _Coordinate(values, low, high, {tick: f"{tick:.3g}" for tick in ticks})
    shown = _with_ends(_ticks(domain), low, high)
    low, high = math.log10(low), math.log10(high) if high > low else math.log10(low) + 1
    return _Coordinate([math.log10(v) for v in values], low, high, {math.log10(tick): f"{tick:.3g}" for tick in shown})


def _with_ends(ticks: Sequence[float], low: float, high: float) -> list[float]:
    """Ticks between the ends of a log axis and the ends themselves, none closer than a tenth of the axis to an end."""
    apart = (high / low) ** 0.1
    return [low, *(tick for tick in ticks if low * apart <= tick <= high / apart), high]
