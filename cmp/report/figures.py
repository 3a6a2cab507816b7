"""Plots of the search: trade-off, learning curves, best over time, timeline.

Each function returns variants of one plot: name -> plotly figure as plain data, so that a page with hundreds of
trials costs milliseconds. Colours are names such as `@accent`; page.js fills in the light or dark one,
the layout that all plots share, and for `hovertext: trial` what there is to say of the trials in `customdata`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from cmp.report import text
from cmp.report.numbers import assign_slots, shown_range, thinned, thinned_to
from cmp.report.view import MOST_DRAWN, OUTCOMES, SearchView, TrialView

Figure = dict[str, Any]
Variants = dict[str, Figure]

MOST_CURVE_POINTS = 30_000
"""Points of all learning curves that are drawn, at most."""
MOST_DOTS = 5_000
"""Reports that are drawn as dots over time, at most; the best so far is drawn from all."""

GROUP_NAMES = {"finished": "finished", "stopped": "stopped early", "running": "unfinished", "failed": "failed"}
COLOURS = {"finished": "@accent", "stopped": "@soft", "running": "@live", "failed": "@bad"}
SYMBOLS = {"finished": "circle", "stopped": "circle-open", "running": "circle-dot", "failed": "x-thin-open"}


def hover(view: SearchView, trial: TrialView) -> str:
    """What a point says of its trial: outcome, result and searched settings."""
    lines = [f"<b>{trial.name}</b> · {trial.word}"]
    if trial.best:
        recovered, worth = text.percent(trial.best.get("recovered")), view.worth(trial)
        lines.append(f"val_loss {text.loss(trial.loss)} · recovered {recovered} · epoch {trial.best['epoch']}")
        if worth is not None:
            price = text.plural(view.positions(trial), "position")
            lines.append(f"worth {worth.tokens:.1f} tokens of text at {price} · gain {worth.gain:.1f}")
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


def level(
    y: float, label: str | None = None, *, below: bool = False, left: bool = False, colour: str = "@muted"
) -> tuple[Figure, list[Figure]]:
    """A dashed line across the plot and its label, as a plotly shape and annotations."""
    line = {"color": colour, "width": 1, "dash": "dash"}
    shape = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": line, "layer": "below"}
    if label is None:
        return shape, []
    side = {"x": 0, "xanchor": "left"} if left else {"x": 1, "xanchor": "right"}
    place = {"xref": "paper", **side, "y": y, "yanchor": "top" if below else "bottom"}
    return shape, [{**place, "text": label, "showarrow": False, "font": {"color": colour, "size": 11}}]


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


def references(view: SearchView) -> tuple[list[float], list[Figure], list[Figure]]:
    """What a loss has to be held against, as `bounds`: those, and plain text without and at the best one's price.

    Of a trained text curve the latter are what counts; the no-context loss is then drawn, but need not be in view.
    """
    values, shapes, notes = bounds(view)
    curve = view.text_curve
    if curve is None:
        return values, shapes, notes
    levels = []
    if curve.trained:
        values = view.full_context_losses
        levels.append((curve.no_text, f"adapted, no text {text.loss(curve.no_text)}", False))
    if view.best_point is not None:
        price = view.best_point.positions
        loss = curve.loss(price)
        levels.append((loss, f"{text.plural(price, 'token')} of text {text.loss(loss)}", True))
    for loss, label, left in levels:
        shape, note = level(loss, label, colour="@ink", left=left)
        shapes.append(shape)
        notes += note
    return [*values, *(loss for loss, _, _ in levels)], shapes, notes


def axis_range(values: Sequence[float], always: Sequence[float]) -> Figure:
    """The range of an axis, as part of it; nothing without values."""
    shown = shown_range(values, always)
    return {} if shown is None else {"range": list(shown)}


def curves(view: SearchView) -> Variants:
    """val_loss after each epoch of every trial, what to hold it against, rungs, and where trials were stopped."""
    values, shapes, notes = references(view)
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
        "yaxis": {"title": {"text": "val_loss, nats per token"}, **axis_range(every, values)},
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
        "yaxis": {"title": {"text": "val_loss, nats per token"}, **axis_range(y, [])},
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
        ((a.started, t.number, t, a) for t in (*view.trials, *view.extras) for a in t.record.attempts),
        key=lambda x: x[:2],
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
        "text": [t.label for t, _, _ in rows],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "textfont": {"color": "@on-" + COLOURS[group][1:]},
        "hovertext": "trial",
        "customdata": [t.number for t, _, _ in rows],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {"color": COLOURS[group], "line": {"color": "@paper", "width": 1}},
    }
