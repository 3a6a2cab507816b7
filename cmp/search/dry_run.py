"""`--dry-run`: everything that a search would check and do before its first trial, as text; nothing is trained.

Called by `search.py`. The parts are ordered from cheap to dear, and each is printed as soon as it is known, so that a
wrong layer shows before the data is tokenized.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cmp.objects import is_url
from cmp.results.history import History
from cmp.results.journal import read_events
from cmp.results.opening import reading, require_usable
from cmp.search.decide.sampler import suggest
from cmp.search.engine.cluster import cluster_nodes
from cmp.search.engine.footprint import Node, Plan, plan_search
from cmp.search.model_check import checked_model_facts
from cmp.search.terminal.plan_text import (
    count,
    describe_data,
    describe_epoch,
    describe_extras,
    describe_model,
    describe_plan,
    describe_rungs,
    describe_space,
    describe_trials,
)
from cmp.space.checks import check_against_cluster
from cmp.space.errors import Problem, require
from cmp.space.space import Space

if TYPE_CHECKING:
    from cmp.train.data import DataSummary

_SAMPLED_TRIALS = 3


def dry_run(space: Space, *, address: str | None = None, fresh: bool = False) -> None:
    """Check `space` against machines, model and data, and print what a search of it would do.

    Args:
        space: what would be searched.
        address: of a running Ray cluster; None for this machine.
        fresh: a search that is there already would be moved aside.

    Raises:
        UserError: something would keep the search from starting.
    """
    for lines in _parts(space, address, fresh):
        print("\n".join(lines), flush=True)


def _parts(space: Space, address: str | None, fresh: bool) -> Iterator[list[str]]:
    """The text, part by part; a check that fails ends it."""
    yield describe_space(space)
    trials = _first_trials(space)
    yield ["", f"First {count(len(trials), 'trial')} of {space.search.num_samples}:", *describe_trials(trials)]
    yield describe_extras(space)
    yield ["", *describe_rungs(space)]
    yield _describe_results(space, fresh=fresh)
    nodes = cluster_nodes(address)
    plan = _plan(space, nodes)
    totals = sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
    require(check_against_cluster(space, *totals, workers=plan.footprint.workers))
    yield describe_plan(plan)
    yield describe_model(space, checked_model_facts(space))
    summary = _data_summary(space, trials[0])
    yield describe_data(space, summary)
    yield describe_epoch(space, summary.train_windows)


def _data_summary(space: Space, sampled: dict[str, Any]) -> "DataSummary":
    from cmp.train.data import prepare_data

    return prepare_data(space.trial_settings(sampled), space.window, progress=True)


def _plan(space: Space, nodes: Sequence[Node]) -> Plan:
    fixed = space.fixed
    return plan_search(
        space.search,
        space.resources,
        nodes,
        multi_gpu=fixed["multi_gpu"],
        model_parallel=fixed["model_parallel"],
    )


def _first_trials(space: Space) -> list[dict[str, Any]]:
    """What the sampler would suggest first, if these trials were started together."""
    events: list[dict[str, Any]] = []
    for number in range(min(_SAMPLED_TRIALS, space.search.num_samples)):
        sampled = suggest(space, number, History.from_events(events))
        events.append({"event": "suggested", "trial": number, "settings": sampled, "time": 0.0})
    return [event["settings"] for event in events]


def _describe_results(space: Space, *, fresh: bool) -> list[str]:
    """Where everything goes, and what becomes of a search that is there already.

    Raises:
        SpaceError: the folder holds a search with other settings.
    """
    place = space.results_place
    if is_url(place):
        require_usable(place)
    with reading(place) as folder:
        history = History.from_events(read_events(folder.journal))
    if not history.trials:
        return [f"Results: {place} (new)"]
    if fresh:
        return [f"Results: {place} (the search that is there is moved aside)"]
    differences = space.differences(Space.from_dict(history.sessions[0].event["space"]))
    advice = ["it holds another search; start over with --fresh, or use another exp_name"] if differences else []
    require([Problem(place, None, None, line) for line in (*differences, *advice)])
    return [f"Results: {place} (goes on with the search that is there, of {count(len(history.trials), 'trial')})"]
