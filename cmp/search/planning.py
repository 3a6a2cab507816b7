"""How a search uses the machines that it finds: worked out before its first trial, by `run` and by `dry_run`."""

from cmp.search.engine.footprint import Plan, plan_search
from cmp.search.engine.roster import Sighting
from cmp.space.checks import check_against_cluster
from cmp.space.errors import UserError, require
from cmp.space.space import Space


def plan_for(space: Space, sighting: Sighting) -> Plan:
    """The plan for these machines. One without room for a trial is none, except where machines are still to come.

    Raises:
        UserError: a trial asks for more than there is.
    """
    fixed, nodes = space.fixed, sighting.nodes
    plan = plan_search(
        space.search,
        space.resources,
        nodes,
        multi_gpu=fixed["multi_gpu"],
        model_parallel=fixed["model_parallel"],
    )
    if sighting.can_grow or not any(node.cpus for node in nodes):
        return plan
    totals = sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
    require(check_against_cluster(space, *totals, workers=plan.footprint.workers))
    if plan.max_concurrent == 0:
        raise UserError("resources", plan.reason)
    return plan
