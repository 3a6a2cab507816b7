"""The machines of a search, as they come, go, fail and come back."""

from dataclasses import dataclass, field

from cmp.search.engine.footprint import Footprint, Node
from cmp.search.engine.roster import Roster, Sighting, nodes_of

PAIR = Footprint(2, 1, 0)


def node(name: str, cpus: float = 1.0, key: str = "") -> Node:
    return Node(cpus, key=key or name * 8, name=name)


@dataclass
class World:
    """What Ray says, and what people see."""

    nodes: list[Node]
    leaving: frozenset[str] = frozenset()
    lines: list[str] = field(default_factory=list)
    now: float = 0.0

    def roster(self, footprint: Footprint = PAIR) -> Roster:
        roster = Roster(
            footprint, lambda: Sighting(tuple(self.nodes), self.leaving), self.lines.append, clock=lambda: self.now
        )
        roster.look()
        return roster

    def later(self, roster: Roster) -> bool:
        self.now += 1.0
        return roster.look()


def test_a_group_that_cannot_be_placed_says_what_is_missing_and_who_went() -> None:
    world = World([node("a"), node("b")])
    roster = world.roster()
    assert roster.wanting() is None and roster.slots == 1

    world.nodes = [node("a")]
    assert world.later(roster)

    assert roster.wanting() == "waiting for 1 more CPU: node b is gone"
    assert roster.slots == 0


def test_a_node_that_comes_back_is_greeted_and_nobody_is_waited_for() -> None:
    world = World([node("a"), node("b")])
    roster = world.roster()
    world.nodes = [node("a")]
    world.later(roster)
    world.nodes = [node("a"), node("b", key="new-id-of-b")]
    world.later(roster)

    assert roster.wanting() is None
    assert world.lines == ["node b is gone", "node b is back: 1 CPU"]
    assert [each.key for each in roster.take_joined()] == ["new-id-of-b"]
    assert roster.take_joined() == []


def test_a_node_that_is_avoided_is_named_once_and_counts_no_more() -> None:
    world = World([node("a"), node("b"), node("c")])
    roster = world.roster(Footprint(1, 1, 0))
    roster.avoid("b" * 8, "no model folder")
    roster.avoid("b" * 8, "no model folder")

    assert world.lines == ["node b gets no more trials: no model folder"]
    assert roster.slots == 2
    assert roster.avoided == {"b" * 8}
    roster.acquit(["b" * 8])
    assert roster.slots == 3


def test_there_is_nobody_else_to_ask_when_all_others_are_avoided() -> None:
    roster = World([node("a"), node("b")]).roster(Footprint(1, 1, 0))
    assert roster.has_other("a" * 8)
    roster.avoid("b" * 8, "broken")

    assert not roster.has_other("a" * 8)


def test_a_node_that_is_about_to_go_gets_no_trials() -> None:
    world = World([node("a"), node("b")])
    roster = world.roster(Footprint(1, 1, 0))
    world.leaving = frozenset({"a" * 8})
    world.later(roster)

    assert [each.name for each in roster.usable] == ["b"]
    assert world.lines == ["node a is about to go: its trials write checkpoints and move"]


def test_ray_is_asked_once_a_second_at_most() -> None:
    world = World([node("a")])
    roster = world.roster()
    world.nodes = []

    assert not roster.look()
    assert world.later(roster)


def test_nodes_are_called_as_people_call_them_and_told_apart_where_they_share_a_name() -> None:
    row = {"Alive": True, "NodeManagerAddress": "10.0.0.1", "NodeManagerHostname": "box", "Resources": {"CPU": 2.0}}
    rows = [
        {**row, "NodeID": "1111111122", "NodeName": "10.0.0.1"},
        {**row, "NodeID": "3333333344", "NodeName": "10.0.0.1"},
        {**row, "NodeID": "5555555566", "NodeName": "gpu-7", "Resources": {"CPU": 2.0, "GPU": 1.0}},
        {**row, "NodeID": "dead", "NodeName": "dead", "Alive": False},
    ]
    roster = Roster(PAIR, lambda: Sighting(nodes_of(rows)))
    roster.look()

    assert [roster.name(key) for key in roster.nodes] == [
        "box (10.0.0.1) (11111111)",
        "box (10.0.0.1) (33333333)",
        "gpu-7",
    ]
    assert str(roster.nodes["5555555566"]) == "2 CPU and 1 GPU"
