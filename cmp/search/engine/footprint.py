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


@dataclass(frozen=True)
class Node:
    """One machine of the cluster."""

    cpus: float
    gpus: float = 0.0


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
    """Fill in what the space leaves open, from the largest node.

    With GPUs a worker gets one of them and its share of the CPUs; `multi_gpu` makes as many workers as the node has
    GPUs; `model_parallel` gives one worker all of them. Without GPUs the CPUs are shared by a few trials.
    """
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus))
    workers = resources.workers or (max(1, int(largest.gpus)) if multi_gpu else 1)
    gpus = resources.gpus_per_worker
    if gpus is None:
        whole = largest.gpus // workers if model_parallel else min(1.0, largest.gpus)
        gpus = float(whole)
    cpus = resources.cpus_per_worker
    if cpus is None:
        cpus = _cpu_share(largest, workers, gpus)
    return Footprint(workers, float(cpus), float(gpus))


def _cpu_share(node: Node, workers: int, gpus_per_worker: float) -> float:
    if gpus_per_worker > 0:
        return float(max(1, int(node.cpus * min(1.0, gpus_per_worker / node.gpus)))) if node.gpus else 1.0
    if workers > 1:
        return float(max(1, int(node.cpus // workers)))
    return float(max(1, int(node.cpus // CPU_TRIALS_PER_NODE)))


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


def _reason(footprint: Footprint, nodes: Sequence[Node], fit: int, search: SearchSettings) -> str:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    where = "this machine has" if len(nodes) == 1 else f"the {len(nodes)} nodes have"
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
