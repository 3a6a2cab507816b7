"""What one trial occupies and how many fit at once. Pure arithmetic: `cluster` says what there is.

`--dry-run` prints the reason that is worked out here, so that nobody has to guess why a search runs two trials at
a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cmp.space.settings import ResourceSettings, SearchSettings

# Trials at once on a node without GPUs when nobody says otherwise: TPE learns little from more, and a few threads per
# trial keep the caches warm.
CPU_TRIALS_PER_NODE = 4

# Of all CPUs of a cluster without GPUs, trials should be able to use this much; then larger shares are better.
ENOUGH_OF_ALL = 0.9


@dataclass(frozen=True)
class Node:
    """One machine of the cluster.

    Args:
        cpus: cores.
        gpus: cards.
        key: Ray's id; empty for this machine, as long as Ray does not run.
        name: what people call it.
    """

    cpus: float
    gpus: float = 0.0
    key: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"{_number(self.cpus)} CPU" + (f" and {_number(self.gpus)} GPU" if self.gpus else "")


@dataclass(frozen=True)
class Footprint:
    """What one trial occupies: `workers` times (`cpus_per_worker`, `gpus_per_worker`), each worker on one node."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float

    def __str__(self) -> str:
        gpus = f" and {_number(self.gpus_per_worker)} GPU" if self.gpus_per_worker else ""
        each = "" if self.workers == 1 else " each"
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        return f"{workers} with {_number(self.cpus_per_worker)} CPU{gpus}{each}"


@dataclass(frozen=True)
class Plan:
    """How a search uses the machines it has.

    Args:
        footprint: of one trial.
        max_concurrent: trials at once; 0 when not even one fits.
        reason: one sentence for people.
    """

    footprint: Footprint
    max_concurrent: int
    reason: str


def trial_footprint(
    resources: ResourceSettings, nodes: Sequence[Node], *, multi_gpu: bool = False, model_parallel: bool = False
) -> Footprint:
    """Fill in what the space leaves open, so that it fits all nodes that could run trials.

    With GPUs a worker gets one of them and its share of the CPUs; `multi_gpu` makes as many workers as a node has
    GPUs; `model_parallel` gives one worker all of them. Without GPUs the CPUs are shared by a few trials. Where nodes
    are unlike, the smallest decides, as far as more trials run for it. Without any node, a worker is one CPU.
    """
    with_gpus = [node for node in nodes if node.gpus]
    gpus_of_a_node = min((node.gpus for node in with_gpus), default=0.0)
    workers = resources.workers or (max(1, int(gpus_of_a_node)) if multi_gpu else 1)
    gpus = resources.gpus_per_worker
    if gpus is None:
        whole = gpus_of_a_node // workers if model_parallel else min(1.0, gpus_of_a_node)
        gpus = float(whole)
    if resources.cpus_per_worker is not None:
        return Footprint(workers, float(resources.cpus_per_worker), float(gpus))
    if gpus > 0:
        return _most_gpus(workers, float(gpus), with_gpus)
    return _most_cpus(workers, [node for node in nodes if node.cpus])


def _most_gpus(workers: int, gpus: float, nodes: Sequence[Node]) -> Footprint:
    """The largest share of a node's CPUs with which the most GPUs are used."""
    shares = [float(max(1, int(node.cpus * min(1.0, gpus / node.gpus)))) for node in nodes]
    footprints = [Footprint(workers, share, gpus) for share in sorted(set(shares), reverse=True)]
    return max(footprints, key=lambda footprint: worker_slots(footprint, nodes), default=Footprint(workers, 1.0, gpus))


def _most_cpus(workers: int, nodes: Sequence[Node]) -> Footprint:
    """The largest share of a node's CPUs with which nearly all CPUs are used."""
    parts = workers if workers > 1 else CPU_TRIALS_PER_NODE
    parts_of_nodes = {max(1.0, node.cpus // parts) for node in nodes}
    whole_nodes = {max(1.0, node.cpus // 1) for node in nodes}
    shares = {share for share in parts_of_nodes | whole_nodes if share <= max(parts_of_nodes)}
    footprints = [Footprint(workers, share, 0.0) for share in sorted(shares, reverse=True)]
    used = {each: worker_slots(each, nodes) * each.cpus_per_worker for each in footprints}
    enough = ENOUGH_OF_ALL * max(used.values(), default=0.0)
    return next((each for each in footprints if used[each] >= enough), Footprint(workers, 1.0, 0.0))


def missing_resources(footprint: Footprint, nodes: Sequence[Node]) -> str | None:
    """What the nodes lack for a single trial, in words; None where it fits."""
    workers = footprint.workers - worker_slots(footprint, nodes)
    if workers <= 0:
        return None
    if footprint.gpus_per_worker:
        count, noun = workers * footprint.gpus_per_worker, "GPU"
    else:
        count, noun = workers * footprint.cpus_per_worker, "CPU"
    return f"{_number(count)} more {noun}"


def worker_slots(footprint: Footprint, nodes: Sequence[Node]) -> int:
    """How many workers fit on all nodes together; a worker never spans two nodes."""
    return sum(_slots_on(footprint, node) for node in nodes)


def _slots_on(footprint: Footprint, node: Node) -> int:
    fits = [int(node.cpus / footprint.cpus_per_worker + 1e-6)] if footprint.cpus_per_worker else []
    if footprint.gpus_per_worker >= 1:
        fits.append(int(node.gpus / footprint.gpus_per_worker + 1e-6))
    elif footprint.gpus_per_worker > 0:
        fits.append(int(node.gpus) * int(1 / footprint.gpus_per_worker + 1e-6))
    return min(fits, default=1)


def plan_search(
    search: SearchSettings,
    resources: ResourceSettings,
    nodes: Sequence[Node],
    *,
    multi_gpu: bool = False,
    model_parallel: bool = False,
) -> Plan:
    """The footprint of a trial, how many run at once, and why."""
    footprint = trial_footprint(resources, nodes, multi_gpu=multi_gpu, model_parallel=model_parallel)
    fit = worker_slots(footprint, nodes) // footprint.workers
    asked = min([search.num_samples] + ([search.max_concurrent] if search.max_concurrent else []))
    return Plan(footprint, min(fit, asked), _reason(footprint, nodes, fit, search))


def concurrency(search: SearchSettings, slots: int, *, can_grow: bool, being_readied: bool = False) -> int:
    """How many trials may be running or waiting for their place, now that so many fit.

    One may always wait: it says what is needed. Where an autoscaler reads that, as many wait as the user asked for, or
    one more than fits. While a machine is being made ready none waits: where a trial may not go is fixed when it begins
    to wait, and it would avoid that machine for good.
    """
    if being_readied:
        return min(slots, search.max_concurrent or slots)
    if can_grow:
        return search.max_concurrent or slots + 1
    return max(1, min(slots, search.max_concurrent or slots))


def _reason(footprint: Footprint, nodes: Sequence[Node], fit: int, search: SearchSettings) -> str:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    able = [node for node in nodes if node.cpus]
    where = f"the {len(able)} nodes have" if len(able) != 1 else f"node {able[0].name} has"
    where = where if any(node.key for node in nodes) else "this machine has"
    if not able:
        return f"a trial takes {footprint}; no machine for it is there yet"
    have = f"{where} {_number(cpus)} CPU" + (f" and {_number(gpus)} GPU" if gpus else " and no GPU")
    needs = f"a trial takes {footprint}; {have}"
    if fit == 0:
        return f"{needs}: not even one trial fits"
    if search.max_concurrent is not None and search.max_concurrent < fit:
        return f"{needs}: {fit} would fit, search.max_concurrent allows {search.max_concurrent}"
    if search.num_samples < fit:
        return f"{needs}: {fit} would fit, search.num_samples is {search.num_samples}"
    return f"{needs}: {fit} at once"


def _number(value: float) -> str:
    return f"{value:g}"
