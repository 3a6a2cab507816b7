"""The table of all trials: settings, outcome, reason, log. page.js sorts and filters it."""

from collections.abc import Mapping
from typing import Any

from cmp.report import text
from cmp.report.answer import log_link
from cmp.report.text import Markup, escape
from cmp.report.view import MOST_LISTED, SearchView, TrialView, scale
from cmp.results.finalists import Finalist

Cell = tuple[Any, Markup]
"""What a cell sorts by, and what it shows."""


def trials_table(view: SearchView) -> Markup:
    """The text control, and every trial, best first; page.js sorts and filters it."""
    columns = _columns(view)
    head = "".join(
        f'<th class="{kind}" aria-sort="none"><button>{escape(name)}</button></th>' for name, kind in columns.items()
    )
    listed = _listed(view)
    shown = [*([view.control] if view.control else []), *listed]
    seeds = {one.trial: one for one in view.finalists}
    rows = "".join(_row(view, trial, columns, seeds.get(trial.number)) for trial in shown)
    hint = "Click a heading to sort. " if len(view.trials) > 1 else ""
    if len(listed) < len(view.trials):
        hint += f"The best {text.count(len(listed))} of {text.count(len(view.trials))} trials; trials.csv has all. "
    hint += "Numbers are those of each trial's best epoch, on validation documents."
    if view.control is not None:
        hint += " <i>text</i> is the text control: its val_loss is T(0), without any text."
    return f"""<div class="tools"><p>{hint}</p>
<input type="search" id="filter" placeholder="filter, e.g. failed" aria-label="filter trials"></div>
<div class="scroll tall"><table id="trials"><thead><tr>{head}<th>log</th></tr></thead>
<tbody>{rows}</tbody></table></div>"""


def _columns(view: SearchView) -> dict[str, str]:
    """Their names, and whether numbers ("n") or text ("t") is in them; those that no trial has are left out."""
    columns = {"trial": "n", "val_loss": "n"}
    if view.worth_curve is not None and view.worth_curve.text_helps:
        columns |= {"worth": "n", "gain": "n", "carried": "n"}
    if any(t.best and t.best.get("swapped_loss") is not None for t in view.trials):
        columns["swapped"] = "n"
    columns |= {"recovered": "n", "outcome": "t", "epoch": "n", "positions": "n", "ratio": "n"}
    columns |= {name: "t" if scale(domain) == "choice" else "n" for name, domain in view.domains.items()}
    return columns | {"time": "n", "tokens/s": "n"}


def _listed(view: SearchView) -> list[TrialView]:
    """The best ones, and those that the table of the trade-off leads to."""
    linked = {point.trial for point in view.prices}
    return [t for place, t in enumerate(view.ranked) if place < MOST_LISTED or t.number in linked]


def _row(view: SearchView, trial: TrialView, columns: Mapping[str, str], seeds: Finalist | None) -> Markup:
    best, record, worth = trial.best or {}, trial.record, view.worth(trial)
    tokens, gain, carried = (None,) * 3 if worth is None else (worth.tokens, worth.gain, worth.carried)
    is_control = record.role == "control"
    positions = None if is_control else view.positions(trial)
    ratio = None if is_control else best.get("compression_ratio")
    speed = best.get("tokens_per_second")
    cells: dict[str, Cell] = {
        "trial": (trial.number, trial.label if is_control else f"{trial.number}{_mark(view, trial)}"),
        "val_loss": (best.get("val_loss"), text.loss(best.get("val_loss"))),
        "worth": (tokens, text.fixed(tokens, 1)),
        "gain": (gain, text.fixed(gain, 2)),
        "carried": (carried, text.percent(carried)),
        "swapped": (best.get("swapped_loss"), text.loss(best.get("swapped_loss"))),
        "recovered": (best.get("recovered"), text.percent(best.get("recovered"))),
        "outcome": (trial.word, _outcome(trial, seeds)),
        "epoch": (record.epoch, str(record.epoch)),
        "positions": (positions, "–" if positions is None else str(positions)),
        "ratio": (ratio, text.ratio(ratio)),
        "time": (record.seconds, text.duration(record.seconds)),
        "tokens/s": (speed, "–" if speed is None else text.count(speed)),
    }
    for name in view.domains:
        value = view.of(trial, name)
        known = name in record.own_settings
        cells[name] = (value, escape(text.setting(value))) if known else (None, "–")
    kind = "control" if is_control else "best" if view.best is not None and trial.number == view.best.number else ""
    shown = "".join(
        _cell(*cells[name], kind + (" outcome" if name == "outcome" else "")) for name, kind in columns.items()
    )
    return f'<tr id="trial-{trial.number}" class="{kind}">{shown}<td>{log_link(trial)}</td></tr>'


def _outcome(trial: TrialView, seeds: Finalist | None) -> Markup:
    """How it ended, why, and what it did under other seeds."""
    outcome = f'<i class="dot {trial.group}"></i>{escape(trial.word)}'
    if trial.record.reason:
        outcome += f"<small>{escape(trial.record.reason)} {log_link(trial)}</small>"
    if seeds is not None:
        outcome += f"<small>finalist: {seeds.mean:.3f} ± {seeds.spread:.3f} under {len(seeds.losses)} seeds</small>"
    return outcome


def _mark(view: SearchView, trial: TrialView) -> Markup:
    """A star beside the number of a trial on the front."""
    prices = [str(point.positions) for point in view.front if point.trial == trial.number]
    return f' <span class="star" title="on the front at {", ".join(prices)} positions">★</span>' if prices else ""


def _cell(value: Any, shown: Markup, kind: str) -> Markup:
    """A table cell; `data-v` is what it sorts by."""
    return f'<td class="{kind}" data-v="{escape("" if value is None else value)}">{shown}</td>'
