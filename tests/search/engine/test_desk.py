"""What becomes of trials that fail, die or fall silent on a cluster: the desk with a real ledger, without Ray."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cmp.results.folder import ResultsFolder
from cmp.results.history import TrialRecord
from cmp.search.decide.ledger import Ledger, Suggested
from cmp.search.engine.desk import Desk, HopelessError
from cmp.search.engine.faults import EARLY_FAILURES_IN_A_ROW
from cmp.search.engine.footprint import Footprint, Node
from cmp.search.engine.roster import Roster, Sighting
from tests.search.fake_search import make_space

NO_MODEL = "OSError: /models/tiny has no file named config.json"


@dataclass
class Office:
    """A desk with some machines and a clock, and what it said."""

    folder: Path
    names: tuple[str, ...] = ("a", "b", "c")
    num_samples: int = 20
    now: float = 0.0
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger(make_space(num_samples=self.num_samples), ResultsFolder(self.folder), views=False)
        nodes = tuple(Node(1.0, key=name, name=name) for name in self.names)
        self.roster = Roster(Footprint(1, 1, 0), lambda: Sighting(nodes), self.lines.append)
        self.roster.look()
        self.desk = Desk(
            self.ledger,
            job=lambda suggested: suggested,  # type: ignore[arg-type, return-value]
            roster=self.roster,
            limit=lambda: 3,
            on_step=lambda: None,
            must_end=lambda: False,
            say=self.lines.append,
            clock=lambda: self.now,
        )
        self.ids = 0

    def start(self, node: str) -> str:
        """The next trial, at work on a machine; gives Tune's id of it."""
        self.ids += 1
        trial_id = f"tune-{self.ids}"
        assert self.desk.suggest(trial_id) is not None
        self.desk.receive(trial_id, {"event": "started", "node": node, "node_id": node, "pid": 1})
        return trial_id

    def report(self, trial_id: str, epoch: int) -> bool:
        return self.desk.receive(trial_id, {"event": "reported", "epoch": epoch, "val_loss": 3.0 - epoch / 10})

    def fail(self, trial_id: str, reason: str = NO_MODEL) -> None:
        outcome = {"event": "outcome", "status": "failed", "epoch": 0, "reason": reason}
        self.desk.close(trial_id, outcome)

    def trial(self, number: int) -> TrialRecord:
        return self.ledger.history.trials[number]

    def next(self) -> Suggested:
        self.ids += 1
        config: Any = self.desk.suggest(f"tune-{self.ids}")
        return config["job"]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path)
    yield office
    office.ledger.close()


def test_a_trial_that_fails_before_its_first_epoch_is_released_and_its_machine_avoided(office: Office) -> None:
    """A machine without the model is always free first: it failed 15 of 16 trials in a third of a second each."""
    office.fail(office.start("a"))

    assert not office.trial(0).has_ended
    assert office.roster.avoided == {"a"}
    assert f"node a gets no more trials: {NO_MODEL}" in office.lines
    assert office.next().number == 0, "the same trial is tried elsewhere first"


def test_the_same_error_on_two_machines_is_the_trials_own_as_soon_as_others_do_better(office: Office) -> None:
    office.fail(office.start("a"))
    office.fail(office.start("b"))

    assert office.roster.avoided == frozenset(), "both machines are acquitted"
    assert not office.trial(0).has_ended, "held until others do better"
    better = office.start("a")
    office.report(better, 1)

    assert (office.trial(0).status, office.trial(0).reason) == ("failed", NO_MODEL)
    assert office.trial(1).status == "running"


def test_a_row_of_failures_stops_the_search_and_fails_no_trial(office: Office) -> None:
    """What they all lack can be put right, and the same command goes on with all of them."""
    for _ in range(EARLY_FAILURES_IN_A_ROW):
        assert office.desk.error is None
        office.fail(office.start("a" if "a" not in office.roster.avoided else "b"))

    assert isinstance(office.desk.error, HopelessError)
    assert f"6 times in a row a trial failed before its first epoch, the last one with: {NO_MODEL}" in str(
        office.desk.error
    )
    assert office.ledger.history.count("failed") == 0


def test_many_trials_that_meet_one_bad_machine_at_once_are_one_failure(tmp_path: Path) -> None:
    """Eight GPUs of a machine without the model fail eight trials before anybody has done an epoch."""
    office = Office(tmp_path)
    for trial_id in [office.start("a") for _ in range(EARLY_FAILURES_IN_A_ROW + 2)]:
        office.fail(trial_id)

    assert office.desk.error is None
    assert office.roster.avoided == {"a"}
    assert office.ledger.history.count("failed") == 0


def test_on_a_single_machine_failures_are_held_until_the_end_or_the_first_epoch(tmp_path: Path) -> None:
    office = Office(tmp_path, names=("only",), num_samples=3)
    for _ in range(3):
        office.fail(office.start("only"))
    assert office.ledger.exhausted
    assert office.ledger.history.count("failed") == 0
    office.desk.fail_held()

    assert office.ledger.history.count("failed") == 3
    assert office.roster.avoided == frozenset()


def test_a_failure_after_the_first_epoch_is_the_trials_own(office: Office) -> None:
    trial = office.start("a")
    office.report(trial, 1)
    office.fail(trial)

    assert office.trial(0).status == "failed"
    assert office.roster.avoided == frozenset()


def test_more_than_three_deaths_within_an_epoch_fail_a_trial(office: Office) -> None:
    for _ in range(3):
        trial = office.start("a")
        office.report(trial, 1)
        office.desk.lose(trial, "its process died")
        assert not office.trial(0).has_ended
    office.desk.lose(office.start("a"), "its process died")

    assert office.trial(0).kind == "worker_died"
    assert office.trial(0).reason == "its process died, 4 times within one epoch"


def test_deaths_with_epochs_between_them_do_not_fail_a_trial(tmp_path: Path) -> None:
    """A long trial on spot machines loses its machine again and again."""
    office = Office(tmp_path)
    for epoch in range(1, 4):
        for _ in range(3):
            trial = office.start("a")
            office.report(trial, epoch)
            office.desk.lose(trial, "its machine is gone")

    assert not office.trial(0).has_ended
    assert office.next().epoch == 3


def test_two_processes_that_die_at_once_on_a_machine_put_the_blame_on_it(office: Office) -> None:
    first, second = office.start("a"), office.start("a")
    office.desk.lose(first, "its process died", blames_node=True)
    assert office.roster.avoided == frozenset()
    office.desk.lose(second, "its process died", blames_node=True)

    assert office.roster.avoided == {"a"}


def test_a_silent_trial_is_ended_and_tried_once_more(office: Office) -> None:
    office.report(office.start("a"), 1)
    for times in (1, 2):
        trial = "tune-1" if times == 1 else office.start("b")
        for _ in range(31):
            assert office.desk.silent() == []
            office.now += 20.0
        assert office.desk.silent() == [trial]
        office.desk.end_silent(trial)
        office.desk.lose(trial, "its process died")
        assert office.trial(0).has_ended == (times == 2)

    assert "trial 0: no sign of it for 10 minutes; starting it again from its last checkpoint" in office.lines
    assert office.trial(0).reason == "gave no sign for 10 minutes, and was started again before"
