"""Plots of the search: trade-off, learning curves, best over time, timeline.

Each function returns variants of one plot: name -> plotly figure as plain data, so that a page with hundreds of
trials costs milliseconds. Colours are names such as `@accent`; page.js fills in the light or dark one,
the layout that all plots share, and for `hovertext: trial` what there is to say of the trials in `customdata`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from cmp.report import text
from cmp.report.numbers import assign_slots, pareto_front, shown_range, thinned, thinned_to
from cmp.report.view import MOST_DRAWN, OUTCOMES, SearchView, TrialView
from cmp.results.front import Point

Figure = dict[str, Any]
Variants = dict[str, Figure]

MOST_CURVE_POINTS = 30_000
"""Points of all learning curves that are drawn, at most."""
MOST_DOTS = 5_000
"""Reports that are drawn as dots over time, at most; the best so far is drawn from all."""

GROUP_NAMES = {"finished": "finished", "stopped": "stopped early", "running": "unfinished", "failed": "failed"}
COLOURS = {"finished": "@accent", "stopped": "@soft", "running": "@live", "failed": "@bad"}
SYMBOLS = {"finished": "circle", "stopped": "circle-open", "running": "circle-dot", "failed": "x-thin-open"}


def hover(trial: TrialView) -> str:
    """What a point says of its trial: outcome, result and searched settings."""
    lines = [f"<b>trial {trial.number}</b> · {trial.word}"]
    if trial.best:
        recovered = text.percent(trial.best.get("recovered"))
        lines.append(f"val_loss {text.loss(trial.loss)} · recovered {recovered} · epoch {trial.best['epoch']}")
    lines += [f"{text.escape(k)}  {text.escape(text.setting(v))}" for k, v in trial.record.settings.items()]
    return "<br>".join(lines)


def trials_in(plots: Iterable[Variants]) -> set[int]:
    """Numbers of the trials that some plot has a text for."""
    traces = (trace for variants in plots for figure in variants.values() for trace in figure["data"])
    return {number for trace in traces if trace.get("hovertext") == "trial" for number in trace["customdata"]}


def markers(group: str, trials: Sequence[TrialView], x: Iterable[Any], y: Iterable[Any]) -> Figure:
    """One point per trial of one outcome; clicking it leads to the trial's row."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": GROUP_NAMES[group],
        "x": list(x),
        "y": list(y),
        "hovertext": "trial",
        "customdata": [t.number for t in trials],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {
            "color": COLOURS[group],
            "symbol": SYMBOLS[group],
            "size": 8 if len(trials) <= 100 else 5,
            "opacity": 0.9 if len(trials) <= 100 else 0.6,
            "line": {"width": 1.5, "color": COLOURS[group]},
        },
    }


def ring(x: Any, y: Any) -> Figure:
    """The mark around the best trial."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "best",
        "x": [x],
        "y": [y],
        "hoverinfo": "skip",
        "marker": {"symbol": "circle-open", "size": 17, "color": "@best", "line": {"width": 2.5}},
    }


def level(y: float, label: str | None = None, *, below: bool = False) -> tuple[Figure, list[Figure]]:
    """A dashed line across the plot and its label, as a plotly shape and annotations."""
    line = {"color": "@muted", "width": 1, "dash": "dash"}
    shape = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": line, "layer": "below"}
    if label is None:
        return shape, []
    place = {"xref": "paper", "x": 1, "xanchor": "right", "y": y, "yanchor": "top" if below else "bottom"}
    return shape, [{**place, "text": label, "showarrow": False, "font": {"color": "@muted", "size": 11}}]


def bounds(view: SearchView) -> tuple[list[float], list[Figure], list[Figure]]:
    """Both bounds as (their values, shapes, annotations); one line for each distinct value, one label for each kind."""
    values: list[float] = []
    shapes: list[Figure] = []
    notes: list[Figure] = []
    kinds = ((view.no_context_losses, "no context", False), (view.full_context_losses, "full context", True))
    for found, name, below in kinds:
        values += found
        label = f"{name} {'–'.join(text.loss(v) for v in sorted({min(found), max(found)}))}" if found else ""
        for y in found:
            shape, note = level(y, label if y == (min(found) if below else max(found)) else None, below=below)
            shapes.append(shape)
            notes += note
    return values, shapes, notes


def tradeoff(view: SearchView, against: str) -> Variants:
    """Quality against cost, one point per trial and the Pareto front.

    Args:
        view: the search.
        against: `positions` (fewer is cheaper) or `ratio` (more is cheaper).

    Returns:
        Variants `val_loss` and `recovered`.
    """
    values, shapes, notes = bounds(view)
    by_loss = _tradeoff(view, against, "val_loss", lower_is_better=True)
    by_loss["layout"] |= {"shapes": shapes, "annotations": notes}
    by_loss["layout"]["yaxis"] |= _axis_range([t.loss for t in view.scored], values)
    by_loss["layout"]["yaxis"]["title"] = {"text": "val_loss, nats per token"}
    by_recovered = _tradeoff(view, against, "recovered", lower_is_better=False)
    by_recovered["layout"]["shapes"] = [level(0.0)[0], level(1.0)[0]]
    by_recovered["layout"]["yaxis"] |= {"title": {"text": "recovered"}, "tickformat": ".0%"}
    return {"val_loss": by_loss, "recovered": by_recovered}


def _tradeoff(view: SearchView, against: str, quality: str, *, lower_is_better: bool) -> Figure:
    def cost(report: dict[str, Any], positions: int) -> float:
        return positions if against == "positions" else float(report.get("compression_ratio") or 0.0)

    made = [(p, cost(r, p.positions), r[quality]) for p, r in view.points if r.get(quality) is not None]
    data = [_front(made, cheaper=1 if against == "positions" else -1, lower=lower_is_better)]
    prefixes = [(p.trial, x, y) for p, x, y in made if p.is_prefix]
    if prefixes:
        data.append(_prefixes(thinned_to(prefixes, MOST_DRAWN)))
    shown = [(t, t.best) for t in view.drawn if t.best and t.best.get(quality) is not None]
    for group in OUTCOMES:
        chosen = [(t, cost(r, view.positions(t)), r[quality]) for t, r in shown if t.group == group]
        if chosen:
            data.append(markers(group, [t for t, _, _ in chosen], (x for _, x, _ in chosen), (y for *_, y in chosen)))
    best = view.best_point
    if best is not None and (report := view.best_report).get(quality) is not None:
        data.append(ring(cost(report, best.positions), report[quality]))
    title = "positions, vectors and kept tokens (fewer is cheaper)"
    title = title if against == "positions" else "compression ratio (more is cheaper)"
    axis = _cost_axis([x for _, x, _ in made] or [1.0], doubling=against == "positions")
    return {"data": data, "layout": {"xaxis": {"title": {"text": title}, **axis}, "yaxis": {}}}


def _prefixes(points: Sequence[tuple[int, float, float]]) -> Figure:
    """Nested trials with a part of their vectors; clicking one leads to the trial's row."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "part of a nested memory",
        "x": [x for _, x, _ in points],
        "y": [y for _, _, y in points],
        "customdata": [number for number, _, _ in points],
        "hovertemplate": "trial %{customdata}, its first vectors · %{x}, %{y:.3f}<extra></extra>",
        "marker": {"color": "@accent", "symbol": "diamond-open", "size": 6},
    }


def _front(made: Sequence[tuple[Point, float, float]], *, cheaper: int, lower: bool) -> Figure:
    """The Pareto front as a staircase: the best that any compressor reached at this cost or less."""
    sign = 1 if lower else -1
    front = [made[i] for i in pareto_front([cheaper * x for _, x, _ in made], [sign * y for *_, y in made])]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "Pareto front",
        "x": [x for _, x, _ in front],
        "y": [y for *_, y in front],
        "line": {"shape": "hv", "color": "@best", "width": 2},
        "hoverinfo": "skip",
    }


def _cost_axis(costs: Sequence[float], *, doubling: bool) -> Figure:
    """A log axis where the values span much, with ticks 1, 2, 4, 8 or 1, 2, 5, 10."""
    low, high = min(costs, default=1.0), max(costs, default=1.0)
    if low <= 0 or high / low < 5:
        return {"nticks": 6}
    steps = [2.0**n for n in range(-4, 20)] if doubling else [m * 10.0**n for n in range(-2, 6) for m in (1, 2, 5)]
    ticks = [step for step in steps if low * 0.95 <= step <= high * 1.05]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _axis_range(values: Sequence[float], always: Sequence[float]) -> Figure:
    shown = shown_range(values, always)
    return {} if shown is None else {"range": list(shown)}


def curves(view: SearchView) -> Variants:
    """val_loss after each epoch of every trial, both bounds, rungs, and where the scheduler stopped trials."""
    values, shapes, notes = bounds(view)
    crowded = len(view.scored) > 60
    drawn = _within(view.drawn, MOST_CURVE_POINTS)
    data = [_curve_group(view, drawn, group, crowded) for group in ("failed", "stopped", "running", "finished")]
    stops = [t for t in drawn if t.record.status == "stopped"]
    if stops:
        last = [t.points[-1][1] for t in stops]
        trace = markers("stopped", stops, [r["epoch"] for r in last], [r["val_loss"] for r in last])
        look = {"symbol": "line-ew-open", "size": 9, "color": "@muted", "opacity": 0.3 if crowded else 1.0}
        trace |= {"name": "stopped here", "marker": look}
        data.append(trace)
    if view.best:
        data.append(_curve(view, [view.best], "best", "@best", 3.0, 1.0))
    every = [report["val_loss"] for t in view.scored for _, report in t.points]
    shapes += [_upright(rung, "dot") for rung in view.space.rungs]
    notes += [_top_note(rung, f"rung {rung}") for rung in view.space.rungs]
    last_epoch = max((t.record.epoch for t in view.scored), default=1)
    layout = {
        "xaxis": {"title": {"text": "epoch"}, "range": [0.5, last_epoch + 0.5], "dtick": max(1, last_epoch // 10)},
        "yaxis": {"title": {"text": "val_loss, nats per token"}, **_axis_range(every, values)},
        "shapes": shapes,
        "annotations": notes,
    }
    return {"val_loss": {"data": [trace for trace in data if trace["x"]], "layout": layout}}


def _within(trials: Sequence[TrialView], most_points: int) -> list[TrialView]:
    """Evenly spaced trials, in their order, whose curves have about so many points together."""
    points = sum(len(t.points) for t in trials)
    most = len(trials) if points <= most_points else max(1, len(trials) * most_points // points)
    return thinned_to(trials, most)


def _curve_group(view: SearchView, drawn: Sequence[TrialView], group: str, crowded: bool) -> Figure:
    trials = [t for t in drawn if t.group == group and t is not view.best]
    return _curve(view, trials, GROUP_NAMES[group], COLOURS[group], 1.0 if crowded else 1.6, 0.35 if crowded else 0.8)


def _curve(
    view: SearchView, trials: Sequence[TrialView], name: str, colour: str, width: float, opacity: float
) -> Figure:
    """All curves of a kind as one trace with gaps between trials: 500 traces would take a browser seconds."""
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int | None] = []
    for trial in trials:
        reports = [report for _, report in trial.points]
        x += [*(r["epoch"] for r in reports), None]
        y += [*(r["val_loss"] for r in reports), None]
        numbers += [trial.number] * (len(reports) + 1)
    lone = any(len(t.points) == 1 for t in trials)
    return {
        "type": "scatter",
        "mode": "lines+markers" if lone or len(trials) <= 30 else "lines",
        "name": name,
        "x": x,
        "y": y,
        "customdata": numbers,
        "hovertemplate": "trial %{customdata} · epoch %{x} · val_loss %{y:.3f}<extra></extra>",
        "line": {"color": colour, "width": width},
        "marker": {"size": 4 if len(trials) > 1 else 6, "color": colour},
        "opacity": opacity,
    }


def _upright(x: float, dash: str) -> Figure:
    line = {"color": "@soft", "width": 1, "dash": dash}
    return {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": x, "x1": x, "line": line, "layer": "below"}


def _top_note(x: float, label: str) -> Figure:
    font = {"color": "@muted", "size": 11}
    place = {"x": x, "yref": "paper", "y": 1, "yanchor": "bottom", "xanchor": "center"}
    return {**place, "text": label, "showarrow": False, "font": font}


def time_unit(seconds: float) -> tuple[float, str]:
    """The divisor and name of the unit in which a search of this length is best read."""
    if seconds > 3 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if seconds > 180 else (1.0, "seconds")


def best_over_time(view: SearchView) -> Variants:
    """Every report as a dot, the best val_loss so far as a staircase, over search time."""
    scale, unit = time_unit(view.history.seconds)
    trials = [t for t in view.scored if not t.failed]
    reports = sorted((time, r["val_loss"], t.number) for t in trials for time, r in t.points)
    x = [view.clock.at(time) / scale for time, _, _ in reports]
    y = [value for _, value, _ in reports]
    steps = _falls(y)
    some = thinned(len(reports), MOST_DOTS)
    dots = {
        "type": "scatter",
        "mode": "markers",
        "name": "every report",
        "x": [x[i] for i in some],
        "y": [y[i] for i in some],
        "customdata": [reports[i][2] for i in some],
        "hovertemplate": "trial %{customdata} · val_loss %{y:.3f}<extra></extra>",
        "marker": {"size": 4, "color": "@soft"},
    }
    end = view.history.seconds / scale
    stairs = {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": [*(x[i] for i in steps), end],
        "y": [y[i] for i in [*steps, *steps[-1:]]],
        "line": {"shape": "hv", "color": "@best", "width": 2.5},
        "hovertemplate": "best so far %{y:.3f}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": f"{unit} of search"}, "range": [0, end * 1.01 or 1]},
        "yaxis": {"title": {"text": "val_loss, nats per token"}, **_axis_range(y, [])},
        "shapes": [_upright(at / scale, "dot") for at in view.clock.resumed_at],
        "annotations": [_top_note(at / scale, "resumed") for at in view.clock.resumed_at],
    }
    return {"val_loss": {"data": [dots, stairs], "layout": layout}}


def _falls(values: Sequence[float]) -> list[int]:
    """Where a value is lower than all before it."""
    lowest, found = float("inf"), []
    for index, value in enumerate(values):
        if value < lowest:
            lowest = value
            found.append(index)
    return found


def timeline(view: SearchView) -> tuple[Variants, int]:
    """When each trial ran on which slot, over search time; and the number of slots."""
    scale, unit = time_unit(view.history.seconds)
    attempts = sorted(
        ((a.started, t.number, t, a) for t in view.trials for a in t.record.attempts), key=lambda x: x[:2]
    )
    bars = [(t, a) for *_, t, a in attempts[-MOST_DRAWN:]]
    spans = [(view.clock.at(a.started), view.clock.at(_end(view, t, a.last_seen))) for t, a in bars]
    slots = assign_slots(spans)
    data = []
    for group in OUTCOMES:
        chosen = [i for i, (t, _) in enumerate(bars) if t.group == group]
        if chosen:
            data.append(_bars(view, group, [(bars[i][0], spans[i], slots[i]) for i in chosen], scale))
    n_slots = max(slots, default=0) + 1
    begin = spans[0][0] / scale if len(bars) < len(attempts) else 0
    layout = {
        "barmode": "overlay",
        "uniformtext": {"mode": "hide", "minsize": 9},
        "bargap": 0.25,
        "xaxis": {"title": {"text": f"{unit} of search"}, "range": [begin, view.history.seconds / scale * 1.01 or 1]},
        "yaxis": {
            "tickvals": list(range(n_slots)),
            "ticktext": [f"slot {s + 1}" for s in range(n_slots)],
            "autorange": "reversed",
            "showgrid": False,
        },
        "shapes": [_upright(at / scale, "dot") for at in view.clock.resumed_at],
    }
    return {"slots": {"data": data, "layout": layout}}, n_slots


def _end(view: SearchView, trial: TrialView, last_seen: float) -> float:
    """A running trial's bar reaches to now, as far as the journal knows."""
    at_work = trial.record.status == "running" and view.state == "running"
    return max(last_seen, view.updated or 0.0) if at_work else last_seen


def _bars(
    view: SearchView, group: str, rows: Sequence[tuple[TrialView, tuple[float, float], int]], scale: float
) -> Figure:
    return {
        "type": "bar",
        "orientation": "h",
        "name": GROUP_NAMES[group],
        "y": [slot for _, _, slot in rows],
        "base": [start / scale for _, (start, _), _ in rows],
        "x": [(end - start) / scale for _, (start, end), _ in rows],
        "text": [str(t.number) for t, _, _ in rows],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "textfont": {"color": "@on-" + COLOURS[group][1:]},
        "hovertext": "trial",
        "customdata": [t.number for t, _, _ in rows],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {"color": COLOURS[group], "line": {"color": "@paper", "width": 1}},
    }
