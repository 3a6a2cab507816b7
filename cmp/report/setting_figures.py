"""Plots of the settings: which mattered, one slice for each, parallel coordinates.

Same conventions as `figures`: variants of plain plotly data with named colours.
"""

import math
from collections.abc import Sequence
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
    shown = [t for t in view.scored if view.of(t, setting) is not None]
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
    """Parallel coordinates: one axis per searched setting and val_loss, one line per trial, best in front."""
    trials = [t for t in reversed(view.scored) if all(view.of(t, name) is not None for name in view.domains)]
    losses = [t.loss for t in trials]
    dimensions = [_dimension(view, name, domain, trials) for name, domain in view.domains.items()]
    span = [min(losses), max(losses)] if losses else [0.0, 1.0]
    dimensions.append(
        {"label": "val_loss", "values": losses, "range": [span[0], span[1] if span[1] > span[0] else span[0] + 1]}
    )
    usual = float(np.quantile(losses, 0.75)) if losses else 1.0
    colour = {  # plotly draws the highest value last, in front
        "color": [-value for value in losses],
        "cmin": -(usual if usual > span[0] else span[0] + 1e-6),
        "cmax": -span[0],
        "colorscale": [[0, "@pale" if len(trials) > 60 else "@soft"], [0.75, "@accent"], [1, "@best"]],
    }
    trace = {
        "type": "parcoords",
        "line": colour,
        "dimensions": dimensions,
        "labelfont": {"size": 12, "color": "@ink"},
        "tickfont": {"size": 11, "color": "@ink"},
        "rangefont": {"size": 1, "color": "rgba(0,0,0,0)"},
        "unselected": {"line": {"color": "@line", "opacity": 0.3}},
    }
    return {"val_loss": {"data": [trace], "layout": {"margin": {"l": 56, "r": 56, "t": 48, "b": 24}}}}


def _dimension(view: SearchView, name: str, domain: Domain, trials: Sequence[TrialView]) -> Figure:
    values = [view.of(t, name) for t in trials]
    label = text.escape(name)
    if isinstance(domain, Choice):
        places = list(range(len(domain.values)))
        ticks = {"tickvals": places, "ticktext": [text.setting(v) for v in domain.values]}
        span = [-0.1, len(places) - 0.9]
        return {"label": label, "values": [_choice_index(domain, v) for v in values], "range": span, **ticks}
    low, high = (float(v) for v in domain.extremes())
    if scale(domain) != "log":
        return {"label": label, "values": values, "range": [low, high if high > low else low + 1]}
    shown = _with_ends(_ticks(domain), low, high)
    return {
        "label": label,
        "values": [math.log10(v) for v in values],
        "range": [math.log10(low), math.log10(high) if high > low else math.log10(low) + 1],
        "tickvals": [math.log10(tick) for tick in shown],
        "ticktext": [f"{tick:.3g}" for tick in shown],
    }


def _with_ends(ticks: Sequence[float], low: float, high: float) -> list[float]:
    """Ticks between the ends of a log axis and the ends themselves, none closer than a tenth of the axis to an end."""
    apart = (high / low) ** 0.1
    return [low, *(tick for tick in ticks if low * apart <= tick <= high / apart), high]
