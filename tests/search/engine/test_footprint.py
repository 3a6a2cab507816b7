"""What a trial occupies and how many fit, worked out by hand."""

import pytest

from cmp.search.engine.footprint import (
    Footprint,
    Node,
    concurrency,
    missing_resources,
    plan_search,
    trial_footprint,
    worker_slots,
)
from cmp.space.settings import ResourceSettings, SearchSettings

LAPTOP = [Node(cpus=2)]
SERVER = [Node(cpus=64)]
GPU_BOX = [Node(cpus=32, gpus=8)]
CLUSTER = [Node(4, key="a"), Node(32, 4, key="b"), Node(32, 4, key="c")]
UNEVEN = [Node(cpus=16, gpus=1), *[Node(cpus=4, gpus=1)] * 3]
HEAD = Node(cpus=0, key="head", name="head")


@pytest.mark.parametrize(
    ("nodes", "resources", "flags", "expected"),
    [
        (LAPTOP, ResourceSettings(), {}, Footprint(1, 1, 0)),
        (SERVER, ResourceSettings(), {}, Footprint(1, 16, 0)),
        (LAPTOP, ResourceSettings(workers=2), {}, Footprint(2, 1, 0)),
        (GPU_BOX, ResourceSettings(), {}, Footprint(1, 4, 1)),
        (GPU_BOX, ResourceSettings(gpus_per_worker=0.5), {}, Footprint(1, 2, 0.5)),
        (GPU_BOX, ResourceSettings(), {"multi_gpu": True}, Footprint(8, 4, 1)),
        (GPU_BOX, ResourceSettings(workers=2), {"multi_gpu": True}, Footprint(2, 4, 1)),
        (GPU_BOX, ResourceSettings(), {"model_parallel": True}, Footprint(1, 32, 8)),
        (GPU_BOX, ResourceSettings(gpus_per_worker=0), {}, Footprint(1, 8, 0)),
        (CLUSTER, ResourceSettings(), {"multi_gpu": True}, Footprint(4, 8, 1)),
        (UNEVEN, ResourceSettings(), {}, Footprint(1, 4, 1)),
        ([Node(8, 8), Node(8, 4)], ResourceSettings(), {"multi_gpu": True}, Footprint(4, 1, 1)),
        ([Node(16), Node(4), Node(4), Node(4)], ResourceSettings(), {}, Footprint(1, 4, 0)),
        ([Node(64), Node(1)], ResourceSettings(), {}, Footprint(1, 16, 0)),
        ([Node(32), *[Node(2)] * 3], ResourceSettings(), {}, Footprint(1, 2, 0)),
        ([HEAD], ResourceSettings(), {}, Footprint(1, 1, 0)),
        ([HEAD], ResourceSettings(gpus_per_worker=1, cpus_per_worker=4), {}, Footprint(1, 4, 1)),
    ],
)
def test_what_the_space_leaves_open_fits_all_nodes(
    nodes: list[Node], resources: ResourceSettings, flags: dict[str, bool], expected: Footprint
) -> None:
    assert trial_footprint(resources, nodes, **flags) == expected


@pytest.mark.parametrize(
    ("nodes", "footprint", "slots"),
    [
        (LAPTOP, Footprint(1, 1, 0), 2),
        (LAPTOP, Footprint(1, 0.5, 0), 4),
        (GPU_BOX, Footprint(1, 4, 1), 8),
        (GPU_BOX, Footprint(1, 2, 0.5), 16),
        (GPU_BOX, Footprint(1, 1, 0.4), 16),
        (GPU_BOX, Footprint(1, 16, 1), 2),
        (CLUSTER, Footprint(1, 8, 1), 8),
        (CLUSTER, Footprint(1, 8, 4), 2),
        (CLUSTER, Footprint(1, 8, 8), 0),
    ],
)
def test_a_worker_never_spans_two_nodes_and_a_share_never_two_gpus(
    nodes: list[Node], footprint: Footprint, slots: int
) -> None:
    assert worker_slots(footprint, nodes) == slots


def test_the_reason_says_what_limits_the_number_of_trials_at_once() -> None:
    free = plan_search(SearchSettings(), ResourceSettings(), LAPTOP)
    asked = plan_search(SearchSettings(max_concurrent=1), ResourceSettings(), LAPTOP)
    few = plan_search(SearchSettings(num_samples=1), ResourceSettings(), LAPTOP)
    none = plan_search(SearchSettings(), ResourceSettings(workers=4, cpus_per_worker=1), LAPTOP)

    assert (free.max_concurrent, asked.max_concurrent, few.max_concurrent, none.max_concurrent) == (2, 1, 1, 0)
    assert free.reason == "a trial takes 1 worker with 1 CPU; this machine has 2 CPU and no GPU: 2 at once"
    assert asked.reason.endswith("2 would fit, search.max_concurrent allows 1")
    assert few.reason.endswith("2 would fit, search.num_samples is 1")
    assert none.reason.endswith("not even one trial fits")


def test_gpus_of_several_nodes_are_counted_together() -> None:
    plan = plan_search(SearchSettings(num_samples=100), ResourceSettings(), CLUSTER)

    assert plan.max_concurrent == 8
    assert plan.reason.startswith("a trial takes 1 worker with 8 CPU and 1 GPU; the 3 nodes have 68 CPU and 8 GPU")


def test_a_large_node_beside_small_ones_leaves_no_gpu_idle() -> None:
    """A share of the largest node's CPUs fitted it alone: one of four GPUs was used."""
    assert plan_search(SearchSettings(num_samples=100), ResourceSettings(), UNEVEN).max_concurrent == 4


def test_what_a_single_trial_lacks_is_said_in_its_own_units() -> None:
    assert missing_resources(Footprint(2, 1, 0), [Node(1)]) == "1 more CPU"
    assert missing_resources(Footprint(4, 2, 0), [Node(2)]) == "6 more CPU"
    assert missing_resources(Footprint(2, 4, 1), [Node(8, 1)]) == "1 more GPU"
    assert missing_resources(Footprint(1, 1, 0), [Node(1)]) is None


@pytest.mark.parametrize(
    ("max_concurrent", "slots", "can_grow", "expected"),
    [
        (None, 4, False, 4),
        (2, 4, False, 2),
        (16, 4, False, 4),
        (None, 0, False, 1),
        (16, 4, True, 16),
        (None, 4, True, 5),
        (None, 0, True, 1),
    ],
)
def test_how_many_trials_run_or_wait_follows_the_cluster(
    max_concurrent: int | None, slots: int, can_grow: bool, expected: int
) -> None:
    """What waits asks for what it needs; only where somebody reads that, more than one trial waits."""
    search = SearchSettings(num_samples=100, max_concurrent=max_concurrent)

    assert concurrency(search, slots, can_grow=can_grow) == expected


@pytest.mark.parametrize(
    ("max_concurrent", "slots", "can_grow", "expected"),
    [(None, 0, False, 0), (None, 0, True, 0), (None, 4, True, 4), (16, 4, True, 4), (2, 4, False, 2)],
)
def test_no_trial_waits_while_a_machine_is_made_ready_that_it_would_avoid_for_good(
    max_concurrent: int | None, slots: int, can_grow: bool, expected: int
) -> None:
    search = SearchSettings(num_samples=100, max_concurrent=max_concurrent)

    assert concurrency(search, slots, can_grow=can_grow, being_readied=True) == expected
