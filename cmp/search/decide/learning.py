"""Trials of earlier searches that suggestions learn from: which may be told, and as what. Called by the ledger.

What is told goes into the journal, so that a search can be replayed without the other one. Only suggestions look at it:
ASHA, the tables and the best are those of this search alone.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from cmp.results.history import History, TrialRecord
from cmp.results.journal import Event, each_event
from cmp.results.opening import reading
from cmp.search.decide.evidence import ranking_report
from cmp.search.decide.identity import noted_facts
from cmp.space.errors import UserError
from cmp.space.rules import show
from cmp.space.space import Space

_FACTS = {"model": "another model", "data": "another data set, or another text in it"}
_VALIDATION = ("rmb_only", "val_batch_size", "max_val_loops")
"""Settings that choose which windows are validated on, beside the window itself."""
_MAY_DIFFER = ("seed", *_VALIDATION)
"""What two trials may differ in and still tell the same of a setting; the others must be searched, or the same."""


def learned_event(space: Space, place: str, facts: Mapping[str, str]) -> Event:
    """The event that tells a search what an earlier one found.

    Args:
        space: of the search that learns.
        place: the earlier one's results folder, or its URL.
        facts: fingerprints of the model and the data.

    Raises:
        UserError: there is no search, or its losses do not compare; every difference is named.
    """
    with reading(place) as folder:
        if not folder.has_history():
            raise UserError("search.learn_from", f"{place}: not a results folder, it has no {folder.journal.name}")
        history = History.from_events(each_event(folder.journal))
    if not history.sessions:
        return {"event": "learned", "from": place, "trials": [], "skipped": 0}
    earlier = Space.from_dict(history.sessions[0].event["space"])
    if differences := list(_differences(space, earlier, facts, noted_facts(history))):
        message = f"{place}: its losses do not compare with those of this search: {'; '.join(differences)}"
        raise UserError("search.learn_from", message)
    told = [_told(space, earlier, trial) for trial in history.trials.values()]
    known = [trial for trial in told if trial is not None]
    return {"event": "learned", "from": place, "trials": known, "skipped": len(told) - len(known)}


def _differences(space: Space, earlier: Space, now: Mapping[str, str], before: Mapping[str, str]) -> Iterator[str]:
    for name, words in _FACTS.items():
        if name in now and name in before and now[name] != before[name]:
            yield f"{words} ({name} {now[name]} here, {before[name]} there)"
    for name in _VALIDATION:
        if space.fixed[name] != earlier.fixed[name]:
            yield f"{name} is {show(space.fixed[name])} here and {show(earlier.fixed[name])} there"
    for name, here in dataclasses.asdict(space.window).items():
        if here != (there := getattr(earlier.window, name)):
            yield f"windows have {here} tokens of {name.removesuffix('_len')} here and {there} there"


def _told(space: Space, earlier: Space, trial: TrialRecord) -> dict[str, Any] | None:
    """What is told of a trial; None where another setting differs, a value is outside its domain, or nothing is known.

    One that had not ended counts as stopped where it was.
    """
    report = ranking_report(trial)
    settings = {**earlier.fixed, **trial.settings}
    inside = all(name in settings and domain.contains(settings[name]) for name, domain in space.searched.items())
    if not inside or not _is_alike(space, settings) or (report is None and trial.status != "failed"):
        return None
    known = None if report is None else {name: report.get(name) for name in ("epoch", "val_loss", "nested")}
    status = trial.status if trial.has_ended else "stopped"
    searched = {name: settings[name] for name in space.searched}
    return {"trial": trial.number, "settings": searched, "status": status, "kind": trial.kind, "report": known}


def _is_alike(space: Space, settings: Mapping[str, Any]) -> bool:
    """True when what is fixed here was the same there."""
    names = [name for name in space.identity() if name in space.fixed and name not in _MAY_DIFFER]
    return all(settings.get(name) == space.fixed[name] for name in names)
