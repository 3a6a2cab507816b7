"""`--dry-run`: everything that a search would check and do before its first trial, as text; nothing is trained.

Called by `search.py`. The parts are ordered from cheap to dear, and each is printed as soon as it is known, so that a
wrong layer shows before the data is tokenized.
"""

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmp.objects import is_url
from cmp.results.history import History
from cmp.results.journal import read_events
from cmp.results.opening import reading, require_usable
from cmp.search.decide.sampler import Sampler
from cmp.search.engine.address import cluster_address
from cmp.search.engine.cluster import Cluster, connected, local_nodes
from cmp.search.engine.footprint import Plan
from cmp.search.engine.roster import Roster, Sighting
from cmp.search.model_check import checked_model_facts, saved_start
from cmp.search.planning import plan_for
from cmp.search.preparation import Preparation, check_with_data, model_fingerprint
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
from cmp.space.errors import Problem, require
from cmp.space.space import Space

if TYPE_CHECKING:
    from cmp.train.data import DataSummary

_SAMPLED_TRIALS = 3


def dry_run(space: Space, *, address: str | None = None, fresh: bool = False) -> None:
    """Check `space` against machines, model and data, and print what a search of it would do.

    Args:
        space: what would be searched.
        address: of a running Ray cluster; None is what RAY_ADDRESS says, and without that this machine.
        fresh: a search that is there already would be moved aside.

    Raises:
        UserError: something would keep the search from starting.
    """
    for lines in _parts(space, cluster_address(address), fresh):
        print("\n".join(lines), flush=True)


def _parts(space: Space, address: str | None, fresh: bool) -> Iterator[list[str]]:
    """The text, part by part; a check that fails ends it."""
    yield describe_space(space)
    trials = _first_trials(space)
    yield ["", f"First {count(len(trials), 'trial')} of {space.search.num_samples}:", *describe_trials(trials)]
    yield describe_extras(space)
    yield ["", *describe_rungs(space)]
    yield _describe_results(space, fresh=fresh)
    with ExitStack() as stack:
        cluster = None if address is None else stack.enter_context(connected(address, job_name="dry run"))
        sighting = Sighting(local_nodes()) if cluster is None else cluster.sight()
        plan = plan_for(space, sighting)
        yield describe_plan(plan)
        model = checked_model_facts(space)
        saved_start(space, model)
        yield describe_model(space, model)
        summary = _data_summary(space, trials[0])
        require(check_with_data(space, model, summary))
        yield describe_data(space, summary)
        yield describe_epoch(space, summary.train_windows)
        if cluster is not None:
            settings = space.trial_settings(trials[0])
            found = {"model": model_fingerprint(settings.model_string)}
            ready = Preparation(found, summary, settings, model)
            yield ["", "Machines:", *(f"  {line}" for line in _survey(space, ready, plan, cluster))]


def _survey(space: Space, ready: Preparation, plan: Plan, cluster: Cluster) -> list[str]:
    """What each machine of the cluster would run, and what it lacks.

    Raises:
        UserError: one of them does not see the results folder.
    """
    from cmp.search.engine.readiness import Readiness, sign_in

    roster = Roster(plan.footprint, cluster.sight)
    roster.look()
    place = space.results_place
    with nullcontext(None) if is_url(place) else sign_in(Path(place).parent.absolute()) as sign:
        return Readiness(ready.needs(space.window, place, sign), roster, print).survey()


def _data_summary(space: Space, sampled: dict[str, Any]) -> "DataSummary":
    from cmp.train.data import prepare_data

    return prepare_data(space.trial_settings(sampled), space.window, progress=True)


def _first_trials(space: Space) -> list[dict[str, Any]]:
    """What the sampler would suggest first, if these trials were started together."""
    events: list[dict[str, Any]] = []
    for number in range(min(_SAMPLED_TRIALS, space.search.num_samples)):
        events.append({**Sampler(space).event(number, History.from_events(events)), "time": 0.0})
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
