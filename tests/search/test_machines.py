"""What is waited for is said once it lasts, and no longer than it does."""

import pytest

from cmp.search import machines
from cmp.search.engine.cluster import Cluster
from cmp.search.engine.control import Control, Wish
from cmp.search.engine.footprint import Footprint, Node
from cmp.search.engine.roster import Roster, Sighting
from cmp.search.engine.watch import HeadWatch
from cmp.search.machines import Machines

ONE = Node(1.0, key="a", name="a")
OTHER = Node(1.0, key="b", name="b")


def machines_of(*nodes: Node) -> tuple[Machines, list[Node]]:
    there = list(nodes)
    roster = Roster(Footprint(2, 1, 0), lambda: Sighting(tuple(there)))
    roster.look()
    return Machines(Cluster(None, None, HeadWatch("127.0.0.1:1")), roster, None), there


def test_a_group_without_its_machine_is_waited_for_in_words_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "WAITING_SECONDS", 0.0)
    waiting, there = machines_of(ONE, OTHER)
    said: list[str] = []
    waiting.show_waiting(0, said.append)
    assert said == []
    there.remove(OTHER)
    waiting.roster.look(at_once=True)
    waiting.show_waiting(0, said.append)
    there.append(OTHER)
    waiting.roster.look(at_once=True)
    waiting.show_waiting(0, said.append)

    assert said == ["Waiting for 1 more CPU: node b is gone", ""]


def test_nothing_is_waited_for_while_a_trial_runs_or_in_the_first_moments() -> None:
    waiting, there = machines_of(ONE)
    said: list[str] = []
    waiting.show_waiting(1, said.append)
    waiting.show_waiting(0, said.append)

    assert said == [] and there == [ONE]


def test_trials_on_machines_that_are_about_to_go_are_asked_to_leave() -> None:
    written: list[bytes] = []
    waiting, _ = machines_of(ONE)
    waiting.roster.sight = lambda: Sighting((ONE,), frozenset({"a"}))
    waiting.roster.look(at_once=True)
    control = Control("key", lambda key, value: written.append(value), lambda key: None)
    waiting.step(control)
    waiting.step(control)

    assert [Wish.from_bytes(each) for each in written] == [Wish(nodes=frozenset({"a"}))]
