"""Which machines can run trials: who is refused, who is made ready. Without Ray: tasks on machines end at once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayError

from cmp.search.engine import readiness
from cmp.search.engine.footprint import Footprint, Node
from cmp.search.engine.probe import Findings, Needs, look, prepare
from cmp.search.engine.readiness import LOOK_TIMEOUT_SECONDS, Readiness
from cmp.search.engine.roster import Roster, Sighting
from cmp.space.errors import UserError
from cmp.space.settings import TrialSettings, Window

FINE = Findings(True, None, True)
BLIND = Findings(False, None, True)
BARE = Findings(True, "it has no model in /models/tiny", True)
UNTOKENIZED = Findings(True, None, False)
NEVER = "never answers"


@dataclass
class World:
    """Machines, what a look at each finds, and what was said.

    Args:
        found: by machine: findings, an error, or `NEVER`.
        wrong: by machine: what is wrong with the data that it prepared.
    """

    found: dict[str, Any]
    wrong: dict[str, str] = field(default_factory=dict)
    heads: tuple[str, ...] = ()
    now: float = 0.0
    lines: list[str] = field(default_factory=list)
    tasks: list[tuple[str, str]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.roster = Roster(
            Footprint(1, 1, 0), lambda: Sighting(self.nodes()), self.lines.append, clock=lambda: self.now
        )
        self.roster.look()
        self.readiness = Readiness(needs(), self.roster, self.lines.append, clock=lambda: self.now)

    def nodes(self) -> tuple[Node, ...]:
        return tuple(
            Node(0.0 if name in self.heads else 1.0, key=name, name=name) for name in (*self.found, *self.heads)
        )

    def on(self, node: Node, function: Callable[[Needs], Any], needs: Needs) -> tuple[str, str]:
        self.tasks.append((node.key, function.__name__))
        return self.tasks[-1]

    def wait(self, tasks: list[tuple[str, str]], timeout: float) -> tuple[list[Any], list[Any]]:
        node, what = tasks[0]
        self.now += 1.0
        return ([], tasks) if what == look.__name__ and self.found[node] is NEVER else (tasks, [])

    def get(self, task: tuple[str, str]) -> Any:
        node, what = task
        if what == prepare.__name__:
            return self.wrong.get(node)
        if isinstance(self.found[node], Exception):
            raise self.found[node]
        return self.found[node]

    def join(self, name: str, found: Any) -> None:
        """A machine comes while trials run."""
        self.found[name] = found
        self.roster.look(at_once=True)


def needs() -> Needs:
    return Needs(
        settings=TrialSettings(model_string="/models/tiny", dataset="text.txt"), window=Window(8, 4), directory=Path(),
        results="/results/x", sign=None, model_place=None, model_fingerprint="", start_place=None, tokens="",
        data_fingerprint="",
    )  # fmt: skip


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    def world(found: dict[str, Any], **options: Any) -> World:
        made = World(found, **options)
        ray = SimpleNamespace(wait=made.wait, get=made.get, cancel=lambda task, force: made.ended.append(task[0]))
        monkeypatch.setattr(readiness, "ray", ray)
        monkeypatch.setattr(readiness, "_on", made.on)
        monkeypatch.setattr(readiness, "PAUSE_SECONDS", 0.0)
        return made

    return world


def test_a_machine_that_does_not_see_the_results_ends_the_search_before_it_begins(world: Callable[..., World]) -> None:
    here = world({"a": FINE, "b": BLIND, "c": BLIND})
    with pytest.raises(UserError, match="save_root: /results/x here is not the same folder on b, c; mount it"):
        here.readiness.require_all()


def test_a_machine_that_lacks_something_gets_no_trials_and_the_others_go_on(world: Callable[..., World]) -> None:
    here = world({"a": FINE, "b": BARE, "c": RayError("no python\nModuleNotFoundError: torch"), "d": NEVER})
    here.readiness.require_all()

    assert here.roster.avoided == {"b", "c", "d"}
    assert here.ended == ["d"]
    assert here.lines == [
        "node b gets no more trials: it has no model in /models/tiny",
        "node c gets no more trials: nothing runs there (ModuleNotFoundError: torch)",
        f"node d gets no more trials: nothing runs there (no answer for {LOOK_TIMEOUT_SECONDS:.0f} s)",
    ]


@pytest.mark.parametrize("heads", [(), ("head",)], ids=["", "beside a head without CPUs"])
def test_where_no_machine_can_run_trials_nothing_is_waited_for(
    world: Callable[..., World], heads: tuple[str, ...]
) -> None:
    """Beside a head that runs no trials, the search waited for a machine that was there and could not be used."""
    here = world({"a": BARE, "b": BARE}, heads=heads)
    with pytest.raises(
        UserError, match=r"no machine of the cluster can run trials: node a: it has no model in .*; node b"
    ):
        here.readiness.require_all()


def test_a_head_alone_is_no_mistake_where_machines_are_still_to_come(world: Callable[..., World]) -> None:
    here = world({}, heads=("head",))
    here.readiness.require_all()

    assert here.tasks == []


def test_a_machine_that_joins_gets_trials_once_it_was_looked_at_and_has_the_data(world: Callable[..., World]) -> None:
    here = world({"a": FINE})
    here.join("b", UNTOKENIZED)
    assert here.roster.slots == 2, "not looked at yet"
    here.readiness.step()

    assert here.tasks == [("b", "look"), ("b", "prepare")]
    assert here.lines[1:] == ["Tokenizing the data on node b, which does not share data_root ..."]
    assert here.roster.avoided == frozenset()
    here.readiness.step()
    assert len(here.tasks) == 2, "once"


def test_a_machine_that_joins_without_the_results_or_with_other_data_gets_none(world: Callable[..., World]) -> None:
    here = world({"a": FINE}, wrong={"c": "its text.txt is not the one here"})
    here.join("b", BLIND)
    here.join("c", UNTOKENIZED)
    for _ in range(2):
        here.readiness.step()

    assert here.roster.avoided == {"b", "c"}
    assert "node b gets no more trials: /results/x is not shared with it" in here.lines
    assert "node c gets no more trials: its text.txt is not the one here" in here.lines


def test_a_survey_prepares_nothing_and_says_of_each_machine_what_it_would_run(world: Callable[..., World]) -> None:
    here = world({"a": FINE, "b": UNTOKENIZED, "c": BARE, "d": RayError("gone")}, heads=("head",))

    assert here.readiness.survey() == [
        "a: 1 at once (1 CPU)",
        "b: 1 at once (1 CPU), once the data have been tokenized there",
        "c: no trials: it has no model in /models/tiny",
        "d: no trials: nothing runs there (gone)",
        "head: no trials (0 CPU)",
    ]
    assert {what for _, what in here.tasks} == {"look"}
    with pytest.raises(UserError, match="is not the same folder on blind"):
        world({"blind": BLIND}).readiness.survey()
