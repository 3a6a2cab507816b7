"""The trade-off: what a compressor's price buys, beside what plain text buys for as many positions.

Same conventions as `figures`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cmp.report.figures import Figure, Variants, axis_range, bounds, level, markers, ring
from cmp.report.numbers import pareto_front, thinned_to
from cmp.report.view import MOST_DRAWN, OUTCOMES, SearchView
from cmp.results.front import Point
from cmp.results.recovered import recovered_fraction
from cmp.results.worth import TextCurve

Report = dict[str, Any]
Quality = Callable[[Report], float | None]
"""What a compressor is good for, from its numbers; None where it is not known."""

ADAPTED, BARE = "text, adapted model", "text, bare model"
"""The lines to beat: the text control's curve, and the untrained model's."""


@dataclass(frozen=True)
class _Axis:
    """What a compressor costs.

    Args:
        title: of the axis.
        cost: of a number of positions and the report that has them.
        fewer_is_cheaper: else more is, and what text costs cannot be told.
    """

    title: str
    cost: Callable[[int, Report], float]
    fewer_is_cheaper: bool


_AXES = {
    "positions": _Axis("positions (fewer is cheaper)", lambda positions, _: positions, True),
    "ratio": _Axis("compression ratio (more is cheaper)", lambda _, r: float(r.get("compression_ratio") or 0.0), False),
}


def tradeoff(view: SearchView, against: str) -> Variants:
    """Quality against cost: one point per trial and prefix, the Pareto front, and plain text as the line to beat.

    Args:
        view: the search.
        against: `positions` (fewer is cheaper) or `ratio` (more is cheaper).

    Returns:
        Variants `val_loss`, `gain` where it is known, and `recovered`.
    """
    axis = _AXES[against]
    found = {"val_loss": _by_loss(view, axis)}
    if view.worth_curve is not None and view.worth_curve.text_helps:
        found["gain"] = _by_gain(view, axis)
    found["recovered"] = _by_recovered(view, axis)
    return found


def _by_loss(view: SearchView, axis: _Axis) -> Figure:
    values, shapes, notes = bounds(view)
    figure = _figure(view, axis, lambda report: report["val_loss"], lambda loss: loss, lower_is_better=True)
    losses, always = [t.loss for t in view.scored], values
    if view.trained_curve is not None and axis.fewer_is_cheaper:  # what counts is how trials lie to it
        text = next(trace["y"] for trace in reversed(figure["data"]) if trace["name"] == ADAPTED)
        always = [*text, *view.full_context_losses]
    figure["layout"] |= {"shapes": shapes, "annotations": notes}
    shown = axis_range(losses, always)
    figure["layout"]["yaxis"] = {"title": {"text": "val_loss, nats per token"}, **shown}
    if "range" in shown:  # the bare model's text may lie far above all trials
        top = max(shown["range"])
        figure["data"] = [trace for trace in figure["data"] if trace["name"] != BARE or min(trace["y"]) < top]
    return figure


def _by_gain(view: SearchView, axis: _Axis) -> Figure:
    def gain(report: Report) -> float | None:
        worth = view.history.worth_of(report)
        return None if worth is None else worth.gain

    figure = _figure(view, axis, gain, None, lower_is_better=False)
    shape, note = level(1.0, "plain text", colour="@ink")
    figure["layout"] |= {"shapes": [shape], "annotations": note}
    figure["layout"]["yaxis"] = {"title": {"text": "gain: worth per position"}, "rangemode": "tozero"}
    return figure


def _by_recovered(view: SearchView, axis: _Axis) -> Figure:
    no_context, full_context = (
        min(found, default=None) for found in (view.no_context_losses, view.full_context_losses)
    )

    def of_text(loss: float) -> float | None:
        return recovered_fraction(no_context, full_context, loss)

    figure = _figure(view, axis, lambda report: report.get("recovered"), of_text, lower_is_better=False)
    figure["layout"]["shapes"] = [level(0.0)[0], level(1.0)[0]]
    figure["layout"]["yaxis"] = {"title": {"text": "recovered"}, "tickformat": ".0%"}
    return figure


def _figure(
    view: SearchView,
    axis: _Axis,
    quality: Quality,
    of_text: Callable[[float], float | None] | None,
    *,
    lower_is_better: bool,
) -> Figure:
    """All traces: text, front, nested trials, trials, the best.

    Args:
        view: the search.
        axis: the cost.
        quality: of a report.
        of_text: the same of a loss of plain text; None leaves the text curves out.
        lower_is_better: of the quality.
    """
    made = [(p, axis.cost(p.positions, r), q) for p, r in view.points if (q := quality(r)) is not None]
    costs = [x for _, x, _ in made]
    data = _text_lines(view, of_text, costs) if of_text is not None and axis.fewer_is_cheaper else []
    data.append(_front(made, cheaper=1 if axis.fewer_is_cheaper else -1, lower=lower_is_better))
    if nested := _nested(view, made):
        data.append(nested)
    shown = [(t, t.best, q) for t in view.drawn if t.best and (q := quality(t.best)) is not None]
    for group in OUTCOMES:
        chosen = [(t, axis.cost(view.positions(t), r), q) for t, r, q in shown if t.group == group]
        if chosen:
            data.append(markers(group, [t for t, _, _ in chosen], (x for _, x, _ in chosen), (y for *_, y in chosen)))
    best = view.best_point
    if best is not None and (of_best := quality(view.best_report)) is not None:
        data.append(ring(axis.cost(best.positions, view.best_report), of_best))
    scale = _doubling_axis(costs) if axis.fewer_is_cheaper else _ratio_axis(costs)
    return {"data": data, "layout": {"xaxis": {"title": {"text": axis.title}, **scale}, "yaxis": {}}}


def _text_lines(view: SearchView, of_text: Callable[[float], float | None], costs: Sequence[float]) -> list[Figure]:
    """The text control's curve, and dashed the bare model's, over the prices of the compressors."""
    found = []
    looks = (
        (view.plain_curve, BARE, {"color": "@muted", "width": 1.5, "dash": "dash"}),
        (view.trained_curve, ADAPTED, {"color": "@ink", "width": 2}),
    )
    for curve, name, line in looks:
        lengths = [] if curve is None else _lengths(curve, costs)
        points = [(k, y) for k in lengths if curve is not None and (y := of_text(curve.loss(k))) is not None]
        if points:
            words = "the last %{x:.3~g} tokens as plain text: %{y:.3f}<extra></extra>"
            trace = {"type": "scatter", "mode": "lines", "name": name, "hovertemplate": words, "line": line}
            found.append({**trace, "x": [k for k, _ in points], "y": [y for _, y in points]})
    return found


def _lengths(curve: TextCurve, costs: Sequence[float]) -> list[float]:
    """Numbers of tokens between which the curve is a straight line over log(positions); wider than a single price."""
    first, last = min(costs, default=1.0), max(costs, default=1.0)
    first, last = (first, last) if first < last else (max(1.0, first / 2), 2 * last)
    inside = {float(k) for k, _ in curve.points if first < k < last}
    return sorted({first, *inside, min(last, float(curve.longest))})


def _nested(view: SearchView, made: Sequence[tuple[Point, float, float]]) -> Figure | None:
    """Nested trials as thin lines through all their numbers of vectors; clicking one leads to the trial's row."""
    by_trial: dict[int, list[tuple[float, float]]] = {}
    for point, x, y in made:
        by_trial.setdefault(point.trial, []).append((x, y))
    nested = [number for number, points in by_trial.items() if len(points) > 1]
    on_front = {point.trial for point in view.front}
    others = [number for number in nested if number not in on_front]
    longest = max((len(by_trial[number]) for number in others), default=1)
    chosen = [number for number in nested if number in on_front] + thinned_to(others, MOST_DRAWN // longest)
    if not chosen:
        return None
    rows = [(number, *point) for number in chosen for point in [*sorted(by_trial[number]), (None, None)]]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "nested, in part",
        "x": [x for _, x, _ in rows],
        "y": [y for _, _, y in rows],
        "customdata": [number for number, _, _ in rows],
        "hovertemplate": "trial %{customdata}, its first vectors · %{x}, %{y:.3f}<extra></extra>",
        "line": {"color": "@accent", "width": 1},
        "marker": {"color": "@accent", "symbol": "diamond-open", "size": 6},
        "opacity": 0.7 if len(chosen) <= 60 else 0.35,
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


def _doubling_axis(costs: Sequence[float]) -> Figure:
    """A log axis with ticks at powers of two, or at its ends where there is no more than one of them."""
    low, high = min(costs, default=1.0), max(costs, default=1.0)
    ticks = [2.0**n for n in range(20) if low <= 2**n <= high]
    return _log_axis(ticks if len(ticks) > 1 else sorted({low, high}))


def _ratio_axis(costs: Sequence[float]) -> Figure:
    """A log axis with ticks 1, 2, 5, 10 where the values span much."""
    low, high = min(costs, default=1.0), max(costs, default=1.0)
    if low <= 0 or high / low < 5:
        return {"nticks": 6}
    steps = [m * 10.0**n for n in range(-2, 6) for m in (1, 2, 5)]
    return _log_axis([step for step in steps if low * 0.95 <= step <= high * 1.05])


def _log_axis(ticks: Sequence[float]) -> Figure:
    return {"type": "log", "tickvals": list(ticks), "ticktext": [f"{tick:g}" for tick in ticks]}
