"""The head of the page and the answer: what a reader in a hurry takes away in ten seconds."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from cmp.report import text
from cmp.report.ladder import ladder, sentence
from cmp.report.text import Markup, escape
from cmp.report.view import SearchView, TrialView
from cmp.results.folder import trial_label

BADGES = {
    "empty": "not started",
    "running": "running",
    "lost": "stopped without a word",
    "interrupted": "interrupted",
    "completed": "final",
}


def header(view: SearchView, sections: list[tuple[str, str]]) -> Markup:
    """Name, state and the way to each section."""
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title in sections)
    return f"""<header><div class="title"><h1>{escape(view.name)}</h1>
<span class="badge {view.state}" id="badge">{BADGES[view.state]}</span></div>
<p class="sub">{_subtitle(view)}</p></header><nav aria-label="sections">{links}</nav>"""


def _subtitle(view: SearchView) -> Markup:
    what = f"Context compressors for <b>{_one(view, 'model_string')}</b> "
    what += f"on <b>{_one(view, 'dataset')}</b>"
    if view.updated is None:
        return what
    iso = datetime.fromtimestamp(view.updated, UTC).isoformat(timespec="seconds")
    when = f'<time id="updated" datetime="{iso}" data-seconds="{view.updated}">{iso[:16].replace("T", " ")} UTC</time>'
    reload = ""
    if view.state == "running":
        reload = ' · <label class="reload"><input type="checkbox" id="reload" checked> reload by itself</label>'
    return f"{what} · last event {when}{reload}"


def _one(view: SearchView, setting: str) -> Markup:
    """The value of a setting, or that it is searched."""
    return escape(view.space.fixed.get(setting, f"several ({setting} is searched)"))


def answer(view: SearchView, saved: str | None) -> Markup:
    """The best compressor between its bounds, or what there is to say before there is one.

    Args:
        view: the search.
        saved: the results folder as a reader would type it, when the best compressor is in it.
    """
    if view.best is None or view.best.best is None:
        return _no_answer(view) + (tiles(view) if view.trials else "")
    partial = {
        "running": "So far: ",
        "interrupted": "When interrupted: ",
        "lost": "When its process went away: ",
    }.get(view.state, "")
    return f"""<p class="lead">{partial}{_headline(view, view.best, view.best_report)}</p>
{ladder(view)}
<div class="two"><div><h3>Best settings</h3>{_settings(view, view.best)}</div>
<div><h3>Cost</h3>{tiles(view)}</div></div>
{_use(view, saved) if saved else ""}{_state_note(view)}"""


def _use(view: SearchView, folder: str) -> Markup:
    """How to hold the best compressor, and another one."""
    load = f'Compressor.from_pretrained("{folder}/best")'
    other = f"python -m cmp export {folder} --trial N --to FOLDER"
    return f"""<p class="note use">In Python: <code>{escape(load)}</code><br>
Another trial as a folder of its own: <code>{escape(other)}</code></p>"""


def _headline(view: SearchView, trial: TrialView, best: dict[str, Any]) -> Markup:
    """What the best is worth in plain text; where that cannot be told, the loss that it reaches and for what."""
    recovered, point = best.get("recovered"), view.best_point
    assert point is not None, "there is a best"
    vectors, kept = point.positions - point.kept, f" and the last {point.kept} as text" if point.kept else ""
    stands_for = f"{text.plural(vectors, 'vector')}{kept} for {_context(view, trial)} tokens"
    of = f"{text.ratio(best.get('compression_ratio'))} compression ({stands_for})"
    value = f"a val_loss of <b>{text.loss(point.val_loss)}</b>"
    link = f'<a href="#trial-{trial.number}">trial {trial.number}</a>'
    if recovered is not None and recovered <= 0:
        yet, alone = "" if view.state == "completed" else " yet", text.loss(best.get("no_context_loss"))
        above = f"{value}, above the {alone} without context"
        return f"no compressor helps{yet}. The least harmful, {link}, has {above}, at {of}."
    if (worth := sentence(view)) is not None:
        return worth
    useless = " The context itself does not help here." if recovered is None else ""
    return f"{link} reaches {value} at {of}.{useless}"


def _context(view: SearchView, trial: TrialView) -> str:
    return text.setting(view.of(trial, "seq_len" if view.space.fixed["rmb_only"] else "cmp_len"))


def _settings(view: SearchView, trial: TrialView) -> Markup:
    rows = [f"<dt>{escape(k)}</dt><dd>{escape(text.setting(v))}</dd>" for k, v in trial.record.settings.items()]
    if not rows:
        rows = ["<dt>nothing was searched</dt><dd>one trial</dd>"]
    best = trial.best or {}
    rows.append(f"<dt class='other'>trial, epoch</dt><dd>{trial.number}, {best.get('epoch', '–')}</dd>")
    if best.get("val_acc") is not None:
        rows.append(f"<dt class='other'>token accuracy</dt><dd>{text.percent(best['val_acc'])}</dd>")
    return f'<dl class="settings">{"".join(rows)}</dl>'


def tiles(view: SearchView) -> Markup:
    """Trials, time and loops spent, and what early stopping spared."""
    of = view.session.get("num_samples", view.space.search.num_samples)
    outcomes = [
        (view.count("finished"), "finished"),
        (view.count("stopped"), "stopped early"),
        (view.count("failed"), "failed"),
        (view.count("running"), "unfinished"),
    ]
    detail = ", ".join(f"{text.count(n)} {word}" for n, word in outcomes if n)
    loops, saved = sum(t.loops for t in view.trials), sum(t.saved_loops for t in view.trials)
    planned = f" of {text.count(of)}" if of and view.state != "completed" else ""
    entries = [
        (f"{text.count(len(view.trials))}{planned}", "trial" if len(view.trials) == 1 else "trials", detail),
        (text.duration(view.history.seconds), "time", _sessions(view)),
        (text.count(loops), "training loops", _pace(view)),
    ]
    if saved:
        share = text.percent(saved / (saved + loops))
        slot = text.duration(view.saved_slot_seconds)
        entries.append((share, "saved by early stopping", f"{text.count(saved)} loops not run, about {slot} on a slot"))
    cells = [f"<div><b>{value}</b><span>{label}</span><small>{note}</small></div>" for value, label, note in entries]
    return f'<div class="tiles">{"".join(cells)}</div>'


def _sessions(view: SearchView) -> str:
    number = len(view.history.sessions)
    return "in one session" if number == 1 else f"in {number} sessions, pauses not counted"


def _pace(view: SearchView) -> str:
    paces = [t.best["tokens_per_second"] for t in view.scored if t.best and t.best.get("tokens_per_second")]
    return f"{text.count(sorted(paces)[len(paces) // 2])} tokens/s in a typical trial" if paces else ""


def _state_note(view: SearchView) -> Markup:
    if view.state in ("interrupted", "lost"):
        return '<p class="note">These results are partial. The same command continues the search where it was.</p>'
    return ""


def _no_answer(view: SearchView) -> Markup:
    if view.trials and all(t.failed for t in view.trials):
        return _all_failed(view)
    if not view.trials:
        return (
            '<p class="lead">No trial yet.</p><p>The search has begun; the first trial appears here when it starts.</p>'
        )
    at_work = text.plural(len(view.trials), "trial")
    return (
        f'<p class="lead">No result yet.</p><p>{at_work} at work; the first val_loss comes after its first epoch.</p>'
    )


def _all_failed(view: SearchView) -> Markup:
    reasons = Counter((t.word, t.record.reason or "no reason given") for t in view.trials)
    items = []
    for (word, reason), number in reasons.most_common(5):
        trial = next(t for t in view.trials if (t.word, t.record.reason or "no reason given") == (word, reason))
        items.append(f"<li><b>{number} × {escape(word)}</b>: {escape(reason)} {log_link(trial)}</li>")
    more = "" if view.state == "completed" else " so far"
    return f'<p class="lead bad">No trial succeeded{more}.</p><ul class="reasons">{"".join(items)}</ul>'


def log_link(trial: TrialView) -> Markup:
    """A link to the trial's log, relative to the page."""
    path = trial.record.log or f"trials/{trial_label(trial.number)}/log.txt"
    return f'<a href="{escape(path)}">log</a>'
