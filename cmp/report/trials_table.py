"""The table of all trials: settings, outcome, reason, log. page.js sorts and filters it."""

from typing import Any

from cmp.report import text
from cmp.report.answer import log_link
from cmp.report.text import Markup, escape
from cmp.report.view import MOST_LISTED, SearchView, TrialView, scale


def trials_table(view: SearchView) -> Markup:
    """Every trial, best first; page.js sorts and filters it."""
    columns = [("trial", "n"), ("val_loss", "n"), ("recovered", "n"), ("outcome", "t"), ("epoch", "n"), ("ratio", "n")]
    columns += [(name, "t" if scale(domain) == "choice" else "n") for name, domain in view.domains.items()]
    columns += [("time", "n"), ("tokens/s", "n")]
    head = "".join(
        f'<th class="{kind}" aria-sort="none"><button>{escape(name)}</button></th>' for name, kind in columns
    )
    listed = _listed(view)
    rows = "".join(_trial_row(view, trial) for trial in listed)
    hint = "Click a heading to sort. " if len(view.trials) > 1 else ""
    if len(listed) < len(view.trials):
        hint += f"The best {text.count(len(listed))} of {text.count(len(view.trials))} trials; trials.csv has all. "
    return f"""<div class="tools"><p>{hint}val_loss is each trial's best epoch.</p>
<input type="search" id="filter" placeholder="filter, e.g. failed" aria-label="filter trials"></div>
<div class="scroll tall"><table id="trials"><thead><tr>{head}<th>log</th></tr></thead>
<tbody>{rows}</tbody></table></div>"""


def _listed(view: SearchView) -> list[TrialView]:
    """The best ones, and those that the table of the trade-off leads to."""
    linked = {point.trial for point in view.prices}
    return [t for place, t in enumerate(view.ranked) if place < MOST_LISTED or t.number in linked]


def _trial_row(view: SearchView, trial: TrialView) -> Markup:
    best, record = trial.best or {}, trial.record
    outcome = f'<i class="dot {trial.group}"></i>{escape(trial.word)}'
    if record.reason:
        outcome += f"<small>{escape(record.reason)} {log_link(trial)}</small>"
    speed = best.get("tokens_per_second")
    cells = [
        _cell(trial.number, f"{trial.number}{_mark(view, trial)}", "n"),
        _cell(best.get("val_loss"), text.loss(best.get("val_loss")), "n"),
        _cell(best.get("recovered"), text.percent(best.get("recovered")), "n"),
        _cell(trial.word, outcome, "t outcome"),
        _cell(record.epoch, str(record.epoch), "n"),
        _cell(best.get("compression_ratio"), text.ratio(best.get("compression_ratio")), "n"),
    ]
    for name, domain in view.domains.items():
        value = view.of(trial, name)
        cells.append(_cell(value, escape(text.setting(value)), "t" if scale(domain) == "choice" else "n"))
    cells += [
        _cell(record.seconds, text.duration(record.seconds), "n"),
        _cell(speed, text.count(speed) if speed is not None else "–", "n"),
        f"<td>{log_link(trial)}</td>",
    ]
    kind = ' class="best"' if view.best is not None and trial.number == view.best.number else ""
    return f'<tr id="trial-{trial.number}"{kind}>' + "".join(cells) + "</tr>"


def _mark(view: SearchView, trial: TrialView) -> Markup:
    """A star beside the number of a trial on the front."""
    prices = [str(point.positions) for point in view.front if point.trial == trial.number]
    return f' <span class="star" title="on the front at {", ".join(prices)} positions">★</span>' if prices else ""


def _cell(value: Any, shown: Markup, kind: str) -> Markup:
    """A table cell; `data-v` is what it sorts by."""
    return f'<td class="{kind}" data-v="{escape("" if value is None else value)}">{shown}</td>'
