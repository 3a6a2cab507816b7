"""The sections below the answer: plots, examples, trials, how it was made. Each returns HTML for its body."""

import difflib
import re
from collections.abc import Mapping
from typing import Any

import yaml

from cmp.report import text
from cmp.report.answer import log_link
from cmp.report.definitions import DEFINITIONS
from cmp.report.figures import best_per_vectors
from cmp.report.numbers import MIN_TRIALS, Importance
from cmp.report.text import Markup, escape
from cmp.report.view import SearchView, TrialView
from cmp.results.examples import Example, ExampleSet


def plot(key: str, height: int, *, label: str, kind: str = "") -> Markup:
    """The place of one figure; page.js draws it."""
    return f'<div class="plot {kind}" id="{key}" style="height:{height}px" role="img" aria-label="{escape(label)}"></div>'


def tradeoff(view: SearchView) -> Markup:
    """Two plots with a switch for their vertical axis, and the best trial for each number of vectors."""
    switch = (
        '<div class="switch" role="group" aria-label="vertical axis" data-plots="tradeoff-vectors tradeoff-ratio">'
        '<button data-variant="val_loss" aria-pressed="true">val_loss</button>'
        '<button data-variant="recovered" aria-pressed="false">recovered</button></div>'
    )
    rows = "".join(_front_row(view, trial, on_front) for trial, on_front in best_per_vectors(view))
    head = "<th>vectors</th><th>ratio</th><th>val_loss</th><th>recovered</th><th>trial</th>"
    head += "".join(f"<th>{escape(name)}</th>" for name in view.domains if name != "n_cmps")
    return f"""<p>Each point is a trial. The line is the Pareto front: nothing below it was found at that cost. The search
minimises val_loss alone; which point is worth its price is for the reader to say.</p>{switch}
<div class="pair">{plot("tradeoff-vectors", 360, label="quality against number of vectors")}
{plot("tradeoff-ratio", 360, label="quality against compression ratio")}</div>
<h3>Best trial for each number of vectors</h3>
<div class="scroll"><table class="front"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>
<p class="note">Bold rows are on the Pareto front: no trial with fewer vectors is better.</p>"""


def _front_row(view: SearchView, trial: TrialView, on_front: bool) -> Markup:
    best = trial.best or {}
    others = [view.of(trial, name) for name in view.domains if name != "n_cmps"]
    cells = [
        str(view.vectors(trial)),
        text.ratio(best.get("compression_ratio")),
        text.loss(trial.loss),
        text.percent(best.get("recovered")),
        f'<a href="#trial-{trial.number}">{trial.number}</a>',
        *(escape(text.setting(value)) for value in others),
    ]
    kind = ' class="on"' if on_front else ""
    return f"<tr{kind}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def curves(view: SearchView) -> Markup:
    """Learning curves with a sentence on what is drawn."""
    rungs = ", ".join(str(rung) for rung in view.rungs)
    how = f"At each rung (epoch {rungs}) a trial goes on only if it is among the best of those that came as far. " if rungs else ""
    return f"<p>{how}Dashed lines are the two bounds.</p>" + plot("curves", 420, label="learning curves")


def importance(view: SearchView, found: list[Importance]) -> Markup:
    """Importances, slices and parallel coordinates."""
    parts = [_importance_bars(found), _slices(view)]
    if len(view.domains) > 1 and len(view.scored) > 1:
        parts.append(
            "<h3>All settings together</h3><p>One line per trial, better ones in stronger colour. Drag along an axis to "
            "keep only the trials that pass there.</p>"
            '<div class="scroll">'
            + plot("parallel", 340, label="parallel coordinates", kind="wide")
            + "</div>"
        )
    return "".join(parts)


def _importance_bars(found: list[Importance]) -> Markup:
    if not found:
        return f"<p>Importances need at least {MIN_TRIALS} trials with a result.</p>"
    return f"""<p>How much of the differences between trials one setting predicts on its own, for a trial that was left out. A bar
that does not pass its tick is no more than chance would reach.</p>
{plot("importance", 60 + 34 * len(found), label="importance of each setting")}
<details><summary>How this is computed</summary><p>Trials are ranked by their best val_loss (a diverged one last). For each
setting the rank of every trial is predicted from the other trials: by a parabola in the value (in its logarithm where it is
searched on a log scale), or by the mean of the trials with the same choice. The bar is 1 − PRESS/PRESS₀, the share of squared
error that this removes compared with the mean of the other trials (predicted R², Allen 1974, on ranks); negative shares are
shown as 0. The tick is what 95 of 100 random reorderings of the trials stay below. Effects that appear only when two settings
change together are not seen, and since the search samples promising regions more often, this is association, not proof of
cause.</p></details>"""


def _slices(view: SearchView) -> Markup:
    if not view.domains:
        return "<p>Nothing was searched: every setting had one value.</p>"
    cells = [
        f"<div><h4>{escape(name)}</h4>{plot(f'slice-{i}', 230, label=f'val_loss against {name}')}</div>"
        for i, name in enumerate(view.domains)
    ]
    return f'<h3>Each setting on its own</h3><p>val_loss of every trial against one setting.</p><div class="grid">{"".join(cells)}</div>'


def course(view: SearchView, n_slots: int) -> Markup:
    """Best value over time and the timeline."""
    return f"""<h3>Best so far</h3>{plot("best-over-time", 320, label="best val_loss over time")}
<h3>Who ran when</h3><p>One bar per trial and attempt; gaps are time in which a slot did nothing.</p>
{plot("timeline", 110 + 30 * min(n_slots, 24), label="trials on slots over time")}"""


def examples(found: ExampleSet) -> Markup:
    """Validation windows side by side, least lost first, worst last."""
    cards = "".join(_card(example, found.scored) for example in found.examples)
    return f"""<p>Greedy continuations from <a href="#trial-{found.trial}">trial {found.trial}</a>, epoch {found.epoch}, on texts it was not
trained on. {text.count(found.scored)} were scored and ranked by what the memory loses against the full context; shown are the
best, some in between, and the worst. Losses are on the true continuation, nats per token.</p>{cards}"""


def _card(example: Example, scored: int) -> Markup:
    losses, written = example.losses, example.continuations
    gap = losses.no_context - losses.full_context
    recovered = f"recovered {text.percent((losses.no_context - losses.memory) / gap)}" if gap > 0 else "the context does not help"
    rank = "the worst" if example.place == scored and scored > 1 else f"place {text.count(example.place)}"
    columns = [
        ("no context", written.no_context, losses.no_context, ""),
        ("memory", written.memory, losses.memory, " memory"),
        ("full context", written.full_context, losses.full_context, ""),
    ]
    cells = "".join(
        f'<div class="text{kind}"><h4>{name}<span>{text.loss(value)}</span></h4><p>{escape(body)}</p></div>'
        for name, body, value, kind in columns
    )
    return f"""<article class="example"><h3>{rank} of {text.count(scored)} <small>{recovered}</small></h3>
<div class="texts source"><div class="text"><h4>context</h4><p>{escape(example.context)}</p></div>
{_reconstruction(example)}<div class="text"><h4>what really follows</h4><p>{escape(example.target)}</p></div></div>
<div class="texts three">{cells}</div></article>"""


def _reconstruction(example: Example) -> Markup:
    if example.reconstruction is None:
        return ""
    value = example.losses.reconstruction
    shown = f"<span>{text.loss(value)}</span>" if value is not None else ""
    body = marked_differences(example.context, example.reconstruction)
    return f'<div class="text"><h4>reconstruction{shown}</h4><p>{body}</p></div>'


def marked_differences(original: str, copy: str) -> Markup:
    """`copy` as HTML with every word that differs from `original` marked."""
    old, new = re.findall(r"\s+|\S+", original), re.findall(r"\s+|\S+", copy)
    parts = []
    for kind, _, _, start, end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        body = escape("".join(new[start:end]))
        parts.append(body if kind == "equal" or not body.strip() else f"<mark>{body}</mark>")
    return "".join(parts)


def trials_table(view: SearchView) -> Markup:
    """Every trial, best first; page.js sorts and filters it."""
    columns = [("trial", "n"), ("outcome", "t"), ("epoch", "n"), ("val_loss", "n"), ("recovered", "n"), ("ratio", "n")]
    columns += [(name, "t" if view.domains[name].is_choice else "n") for name in view.domains]
    columns += [("time", "n"), ("tokens/s", "n"), ("reason", "t")]
    head = "".join(
        f'<th class="{kind}" aria-sort="none"><button>{escape(name)}</button></th>' for name, kind in columns
    )
    rows = "".join(_trial_row(view, trial) for trial in view.ranked)
    hint = "Click a heading to sort. " if len(view.trials) > 1 else ""
    return f"""<div class="tools"><p>{hint}val_loss is each trial's best epoch.</p>
<input type="search" id="filter" placeholder="filter, e.g. failed" aria-label="filter trials"></div>
<div class="scroll tall"><table id="trials"><thead><tr>{head}<th>log</th></tr></thead><tbody>{rows}</tbody></table></div>"""


def _trial_row(view: SearchView, trial: TrialView) -> Markup:
    best, record = trial.best or {}, trial.record
    dot = f'<i class="dot {trial.group}"></i>'
    speed = best.get("tokens_per_second")
    cells = [
        _cell(trial.number, str(trial.number), "n"),
        _cell(trial.word, dot + escape(trial.word), "t"),
        _cell(record.epoch, str(record.epoch), "n"),
        _cell(best.get("val_loss"), text.loss(best.get("val_loss")), "n"),
        _cell(best.get("recovered"), text.percent(best.get("recovered")), "n"),
        _cell(best.get("compression_ratio"), text.ratio(best.get("compression_ratio")), "n"),
    ]
    for name, domain in view.domains.items():
        value = view.of(trial, name)
        cells.append(_cell(value, escape(text.setting(value)), "t" if domain.is_choice else "n"))
    cells += [
        _cell(record.seconds, text.duration(record.seconds), "n"),
        _cell(speed, text.count(speed) if speed is not None else "–", "n"),
        _cell(record.reason or "", escape(record.reason or ""), "t reason"),
        f"<td>{log_link(trial)}</td>",
    ]
    kind = ' class="best"' if view.best is not None and trial.number == view.best.number else ""
    return f'<tr id="trial-{trial.number}"{kind}>' + "".join(cells) + "</tr>"


def _cell(value: Any, shown: Markup, kind: str) -> Markup:
    """A table cell; `data-v` is what it sorts by."""
    return f'<td class="{kind}" data-v="{escape("" if value is None else value)}">{shown}</td>'


def method(view: SearchView, space: Mapping[str, Any]) -> Markup:
    """Where the numbers come from: run, software, hardware, data, definitions, the resolved space."""
    session = view.session
    seeds = f"trials {view.fixed.get('seed', '–')}, search {view.search.get('seed', '–')}"
    facts: dict[str, Any] = {"seed": seeds}
    skipped = ("event", "time", "run", "num_samples")
    facts |= {key: value for key, value in session.items() if key not in skipped}
    facts |= {key: space[key] for key in ("versions", "commit", "data") if key in space}
    rows = "".join(f"<dt>{escape(k.replace('_', ' '))}</dt><dd>{_fact(v)}</dd>" for k, v in facts.items())
    words = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in DEFINITIONS)
    resolved = yaml.safe_dump(dict(space), sort_keys=False, allow_unicode=True)
    return f"""<div class="two"><div><h3>This run</h3><dl class="facts">{rows}</dl></div>
<div><h3>What the numbers mean</h3><dl class="words">{words}</dl></div></div>
<details><summary>The resolved space: every setting, defaults filled in</summary><pre>{escape(resolved)}</pre></details>
<p class="note">Everything on this page comes from <a href="journal.jsonl">journal.jsonl</a> and
<a href="space.yaml">space.yaml</a>. Also here: <a href="trials.csv">trials.csv</a>, <a href="best/">best/</a>, the best
compressor.</p>"""


def _fact(value: Any) -> Markup:
    if isinstance(value, Mapping):
        return ", ".join(f"{escape(k)} {_fact(v)}" for k, v in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(_fact(v) for v in value) or "–"
    return escape(text.count(value) if isinstance(value, int) and abs(value) >= 100_000 else text.setting(value))
