"""The sections of plots below the answer, in words; each returns HTML for its body."""

from cmp.report import text
from cmp.report.numbers import MIN_TRIALS, Importance
from cmp.report.text import Markup, escape
from cmp.report.view import MOST_DRAWN, SearchView, TrialView
from cmp.results.agreement import TRUSTED, is_trusted
from cmp.results.front import Point


def plot(key: str, height: int, *, label: str, kind: str = "") -> Markup:
    """The place of one figure; page.js draws it."""
    return (
        f'<div class="plot {kind}" id="{key}" style="height:{height}px" role="img" aria-label="{escape(label)}"></div>'
    )


def ratio_says_more(view: SearchView) -> bool:
    """Whether compression ratios are worth a plot of their own: contexts of one length have as many as positions."""
    return "cmp_len" in view.domains


def tradeoff(view: SearchView) -> Markup:
    """Plots with a switch for their vertical axis, and the best compressor for each number of positions."""
    plots = plot("tradeoff-positions", 420, label="quality against number of positions")
    keys = "tradeoff-positions"
    if ratio_says_more(view):
        plots = (
            f'<div class="pair">{plots}{plot("tradeoff-ratio", 420, label="quality against compression ratio")}</div>'
        )
        keys += " tradeoff-ratio"
    front = set(view.front)
    trials = {trial.number: trial for trial in view.trials}
    rows = "".join(_front_row(view, trials[point.trial], point, point in front) for point in view.prices)
    head = "".join(f"<th>{escape(name)}</th>" for name in _front_columns(view))
    some = ""
    if len(view.drawn) < len(view.scored):
        some = f" (drawn are the best {text.count(MOST_DRAWN // 2)} of {text.count(len(view.scored))} and some others)"
    return f"""<p>Each point is a trial{some}. Its price is its positions: what the decoder reads in the context's
place, vectors and kept tokens. {_line_to_beat(view)}The staircase is the Pareto front: nothing better was found at that
price. {_searched_for(view)}</p>
{_switch(view, keys)}{plots}
<h3>Best compressor for each number of positions</h3>
<div class="scroll"><table class="front"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>
<p class="note">Bold rows are on the front: nothing with fewer positions is better. Each of them is a folder in
front/.{TEST_NOTE if view.tested else ""}</p>"""


TEST_NOTE = """ All numbers are of validation documents but those called test, which have 95 % intervals; rows without
were not scored there."""


def _switch(view: SearchView, keys: str) -> Markup:
    curve = view.worth_curve
    names = ["val_loss", *(["gain"] if curve is not None and curve.text_helps else []), "recovered"]
    buttons = "".join(
        f'<button data-variant="{name}" aria-pressed="{str(name == "val_loss").lower()}">{name}</button>'
        for name in names
    )
    return f'<div class="switch" role="group" aria-label="vertical axis" data-plots="{keys}">{buttons}</div>'


def _line_to_beat(view: SearchView) -> str:
    """What the text curves in the plot are."""
    dashed = "the dashed line is the model as it is with that many of the last tokens as plain text"
    if view.trained_curve is not None:
        return (
            "The solid line is what plain text does at the same price, by the text control: points under it win. "
            f"{dashed.capitalize()}, where that is in view. "
        )
    if view.plain_curve is not None:
        return f"{dashed.capitalize()}; it does not know the text as the trials do, so points under it win too easily. "
    return ""


def _searched_for(view: SearchView) -> str:
    """What the search looked for, so that a reader knows how much the front is worth."""
    if view.space.search.objective == "front":
        return "The search looked for all of it: a trial was stopped only by others that cost no more."
    return "The search looked for the lowest val_loss alone; which point is worth its price is for the reader to say."


def _front_columns(view: SearchView) -> list[str]:
    worth = ["worth", "gain"] if view.worth_curve is not None else []
    test = ["test loss", "test gain"] if view.tested is not None else []
    others = [name for name in view.domains if name != "n_cmps"]
    return ["positions", "vectors", "ratio", "val_loss", *worth, *test, "recovered", "trial", *others]


def _front_row(view: SearchView, trial: TrialView, point: Point, on_front: bool) -> Markup:
    report = point.report(trial.best or {})
    worth = view.history.worth_of(report)
    part = f" (first {point.n_cmps})" if point.is_prefix else ""
    tested = None if view.scores is None else view.scores.find(point.candidate)
    gain = None if tested is None else tested.gain
    cells = {
        "positions": str(point.positions),
        "vectors": str(point.positions - point.kept),
        "ratio": text.ratio(report.get("compression_ratio")),
        "val_loss": text.loss(point.val_loss),
        "worth": text.fixed(None if worth is None else worth.tokens, 1),
        "gain": text.fixed(None if worth is None else worth.gain, 2),
        "test loss": text.loss(None if tested is None else tested.loss.value),
        "test gain": "–" if gain is None else f"{gain.value:.2f} <small>{gain.low:.2f} to {gain.high:.2f}</small>",
        "recovered": text.percent(report.get("recovered")),
        "trial": f'<a href="#trial-{trial.number}">{trial.number}</a>{part}',
    }
    cells |= {name: escape(text.setting(view.of(trial, name))) for name in view.domains}
    kind = ' class="on"' if on_front else ""
    return f"<tr{kind}>" + "".join(f"<td>{cells[name]}</td>" for name in _front_columns(view)) + "</tr>"


def curves(view: SearchView) -> Markup:
    """Learning curves with a sentence on what is drawn."""
    rungs = ", ".join(str(rung) for rung in view.space.rungs)
    rule = f"At each rung (epoch {rungs}) a trial goes on only if it is among the best of those that came as far. "
    words = f"{rule if rungs else ''}{_agreements(view)}{_levels(view)}"
    return f"<p>{words}</p>" + plot("curves", 420, label="learning curves")


def _levels(view: SearchView) -> str:
    """What the dashed lines are."""
    if view.text_curve is None:
        return "Dashed lines are the two bounds."
    at = (
        ""
        if view.best_point is None
        else f", and the last {text.plural(view.best_point.positions, 'token')} as plain text"
    )
    if view.trained_curve is None:
        return f"Dashed lines are the model as it is, without and with the context{at}."
    return f"Dashed lines are the model without and with the context, and adapted to the text: without any{at}."


def _agreements(view: SearchView) -> str:
    """Whether early losses told late ones, the reason why a rung stopped nobody."""
    if not view.agreements:
        return ""
    parts = [
        f"{text.percent(share)} of pairs at epochs {rung} and {later}"
        for (rung, later), share in view.agreements.items()
    ]
    idle = [str(rung) for (rung, _), share in view.agreements.items() if not is_trusted(share)]
    sentence = (
        f"Of two trials that came so far the same one was better in {', '.join(parts)}; chance is {text.percent(0.5)}. "
    )
    if idle:
        sentence += f"Below {text.percent(TRUSTED)} a rung stops nobody: now at epoch {' and '.join(idle)}. "
    return sentence


def importance(view: SearchView, found: list[Importance]) -> Markup:
    """Importances, slices and parallel coordinates."""
    parts = [_importance_bars(found), _slices(view)]
    if len(view.domains) > 1 and len(view.scored) > 1:
        parts.append(
            "<h3>All settings together</h3><p>One line per trial, better ones in stronger colour. Drag a box over "
            "an axis to keep only the trials that pass there, with Shift a further one; a double click clears.</p>"
            '<div class="scroll">' + plot("parallel", 340, label="parallel coordinates", kind="wide") + "</div>"
        )
    return "".join(parts)


def _importance_bars(found: list[Importance]) -> Markup:
    if not found:
        return f"<p>Importances need at least {MIN_TRIALS} trials with a result.</p>"
    return f"""<p>How much of the differences between trials one setting predicts on its own, for a trial that was left
out. A bar that does not pass its tick is no more than chance would reach.</p>
{plot("importance", 60 + 34 * len(found), label="importance of each setting")}
<details><summary>How this is computed</summary><p>{IMPORTANCE_METHOD}</p></details>"""


IMPORTANCE_METHOD = """\
Trials are ranked by their best val_loss (a diverged one last). For each setting the rank of every trial is predicted
from the other trials: by a parabola in the value (in its logarithm where it is searched on a log scale), or by the
mean of the trials with the same choice. The bar is 1 − PRESS/PRESS₀, the share of squared error that this removes
compared with the mean of the other trials (predicted R², Allen 1974, on ranks); negative shares are shown as 0. The
tick is what 95 of 100 random reorderings of the trials stay below. Effects that appear only when two settings change
together are not seen. A trial that was stopped early counts with the epochs it had. And since the search samples
promising regions more often, this is association, not proof of cause."""


def _slices(view: SearchView) -> Markup:
    if not view.domains:
        return "<p>Nothing was searched: every setting had one value.</p>"
    cells = [
        f"<div><h4>{escape(name)}</h4>{plot(f'slice-{i}', 200, label=f'val_loss against {name}')}</div>"
        for i, name in enumerate(view.domains)
    ]
    intro = "<h3>Each setting on its own</h3><p>val_loss of every trial against one setting.</p>"
    return f'{intro}<div class="grid">{"".join(cells)}</div>'


def course(view: SearchView, n_slots: int) -> Markup:
    """Best value over time and the timeline."""
    attempts = sum(len(t.record.attempts) for t in view.trials)
    last = f", of the last {text.count(MOST_DRAWN)}" if attempts > MOST_DRAWN else ""
    return f"""<h3>Best so far</h3>{plot("best-over-time", 320, label="best val_loss over time")}
<h3>Who ran when</h3><p>One bar per trial and attempt{last}; gaps are time in which a slot did nothing.</p>
{plot("timeline", 110 + 30 * min(n_slots, 24), label="trials on slots over time")}"""
