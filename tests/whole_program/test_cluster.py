"""Searches on clusters that misbehave: nodes that come, go, lack something, or hold trials up.

Each is a real search on several Ray nodes; the rules behind them are tested without Ray in `tests/search/engine`.
"""

from collections import Counter
from pathlib import Path

import pytest

from tests.search.check_journal import violations
from tests.whole_program.harness import Search
from tests.whole_program.machines import machines, needs_root, wait_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SHORT = {"n_epochs": 3, "search": {"control": False, "num_samples": 6, "min_peers": 6}}


def places(search: Search) -> Counter[str]:
    """How many trials were put to work on each node."""
    return Counter(event["node"] for event in search.events("started"))


def works_on(search: Search, node: str) -> bool:
    """Has a trial that was put to work there reported an epoch?"""
    there = {event["trial"] for event in search.events("started") if event["node"] == node}
    return any(event["trial"] in there for event in search.events("reported"))


def test_a_search_uses_the_nodes_of_a_cluster_and_survives_the_loss_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(tmp_path, {"n_epochs": 6, "search": {"control": False, "num_samples": 4, "min_peers": 4}})
    with machines(tmp_path, monkeypatch, epoch_seconds=1.0) as cluster:
        cluster.add("first")
        cluster.add("second")
        run = cluster.start(search, epoch_seconds=1.0)
        wait_in(run, lambda: works_on(search, "second"))
        cluster.remove("second")
        code = run.wait(250)

    assert code == 0, run.text()
    assert "the 2 nodes have 2 CPU" in run.text()
    assert "node second is gone" in run.text()
    assert "starting it again from its last checkpoint (1 of 3)" in run.text()
    assert "state-dump" not in run.text(), "what Ray's node manager says when it dies is for nobody"
    assert violations(search.journal, ended=True) == []
    assert len(search.events("finished")) == 4


@needs_root
def test_a_node_without_the_model_gets_no_trials_and_eats_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It failed 15 of 16 trials in 0.3 s each, being always free first; exit code 0, and a "best"."""
    search = Search(tmp_path, SHORT)
    with machines(tmp_path, monkeypatch) as cluster:
        cluster.add("good")
        cluster.add_hiding("bad", tmp_path / "model")
        run = cluster.start(search)
        code = run.wait(250)

    assert code == 0, run.text()
    assert run.text().count("node bad gets no more trials: it has no model in") == 1
    assert places(search) == {"good": 6}
    assert violations(search.journal, ended=True) == []
    assert len(search.events("finished")) == 6


@needs_root
def test_a_node_that_fails_trials_before_their_first_epoch_is_avoided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a look at the machine does not find: here the folder in which trials keep what they have measured."""
    search = Search(tmp_path, SHORT)
    with machines(tmp_path, monkeypatch) as cluster:
        cluster.add("good")
        cluster.add_hiding("bad", tmp_path / "nowhere", variables={"CRASH_FAILS": "1"})
        run = cluster.start(search)
        code = run.wait(250)

    assert code == 0, run.text()
    assert run.text().count("node bad gets no more trials: RuntimeError: this machine is broken") == 1
    assert places(search)["bad"] <= 2, "one more may have been on its way there"
    assert violations(search.journal, ended=True) == []
    assert len(search.events("finished")) == 6


def test_a_search_whose_trials_all_fail_before_their_first_epoch_stops_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(tmp_path, {"n_epochs": 2, "search": {"control": False, "num_samples": 12, "min_peers": 12}})
    monkeypatch.setenv("CRASH_FAILS", "1")
    with machines(tmp_path, monkeypatch) as cluster:
        cluster.add("one")
        cluster.add("two")
        run = cluster.start(search)
        assert run.wait(250) == 1, run.text()
        assert "6 times in a row a trial failed before its first epoch" in run.text()
        assert "this machine is broken" in run.text()
        assert "To go on from here" in run.text()
        assert not search.events("failed")
        cluster.remove("one")
        cluster.remove("two")
        monkeypatch.delenv("CRASH_FAILS")
        cluster.environment.pop("CRASH_FAILS")
        cluster.add("three")
        again = cluster.start(search)
        assert again.wait(250) == 0, again.text()

    assert violations(search.journal, ended=True) == []
    assert len(search.events("finished")) == 12


def test_a_group_that_loses_a_node_waits_for_it_and_costs_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`workers: 2` on two nodes of one CPU: trials 0, 1, 2 failed one after the other with a ControllerError."""
    settings = {"n_epochs": 4, "search": {"control": False, "num_samples": 3, "min_peers": 3}}
    search = Search(tmp_path, {**settings, "resources": {"workers": 2, "cpus_per_worker": 1}})
    with machines(tmp_path, monkeypatch, epoch_seconds=1.0) as cluster:
        cluster.add("left")
        cluster.add("right")
        run = cluster.start(search, epoch_seconds=1.0)
        wait_in(run, lambda: len(search.events("reported")) >= 2)
        cluster.remove("right")
        wait_in(run, lambda: "Waiting for 1 more CPU: node right is gone" in run.text())
        cluster.add("right")
        code = run.wait(300)

    assert code == 0, run.text()
    assert "node right is back: 1 CPU" in run.text()
    assert violations(search.journal, ended=True) == []
    assert not search.events("failed")
    assert len(search.events("finished")) == 3


@needs_root
def test_a_results_folder_that_is_not_shared_is_refused_before_any_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(tmp_path, SHORT)
    (tmp_path / "results").mkdir()
    with machines(tmp_path, monkeypatch) as cluster:
        cluster.add("good")
        cluster.add_hiding("apart", tmp_path / "results")
        run = cluster.start(search)
        code = run.wait(200)

    assert code == 2, run.text()
    assert f"save_root: {search.results} here is not the same folder on apart" in run.text()
    assert not search.events("suggested")


@needs_root
def test_a_node_that_joins_without_the_results_folder_gets_no_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(tmp_path, SHORT)
    (tmp_path / "results").mkdir()
    with machines(tmp_path, monkeypatch) as cluster:
        cluster.add("good")
        with search.held():
            run = cluster.start(search)
            wait_in(run, lambda: search.events("started"))
            cluster.add_hiding("apart", tmp_path / "results")
            wait_in(run, lambda: "node apart gets no more trials" in run.text())
        code = run.wait(250)

    assert code == 0, run.text()
    assert f"node apart gets no more trials: {search.results} is not shared with it" in run.text()
    assert "No trial" not in run.text()
    assert len(search.events("finished")) == 6


@needs_root
def test_data_are_tokenized_once_on_each_node_that_does_not_share_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(tmp_path, SHORT)
    (tmp_path / "data").mkdir()
    with machines(tmp_path, monkeypatch, epoch_seconds=0.3) as cluster:
        cluster.add("near")
        cluster.add_hiding("far", tmp_path / "data")
        run = cluster.start(search, epoch_seconds=0.3)
        code = run.wait(250)

    assert code == 0, run.text()
    assert run.text().count("Tokenizing the data on node far, which does not share data_root") == 1
    assert places(search)["far"] >= 1
    assert violations(search.journal, ended=True) == []


def test_nodes_that_join_are_used_and_a_head_without_cpus_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(tmp_path, SHORT)
    with machines(tmp_path, monkeypatch) as cluster:
        with search.held():
            run = cluster.start(search)
            wait_in(run, lambda: "Waiting for 1 more CPU" in run.text())
            cluster.add("early")
            wait_in(run, lambda: set(places(search)) == {"early"})
            cluster.add("late")
            wait_in(run, lambda: set(places(search)) == {"early", "late"})
        code = run.wait(250)

    assert code == 0, run.text()
    assert "node early joined: 1 CPU" in run.text()
    assert len(search.events("finished")) == 6
    assert violations(search.journal, ended=True) == []


def test_trials_on_a_node_that_is_told_to_go_write_checkpoints_and_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spot machine gets a notice; with a checkpoint inside the epoch no loop is done twice."""
    search = Search(
        tmp_path, {"n_epochs": 3, "n_train_loops": 8, "search": {"control": False, "num_samples": 2, "min_peers": 2}}
    )
    with machines(tmp_path, monkeypatch, epoch_seconds=1.0) as cluster:
        cluster.add("spot")
        with search.held():
            run = cluster.start(search, epoch_seconds=1.0)
            wait_in(run, (tmp_path / "marks" / "first-loop").exists)
            cluster.add("stable")
            cluster.tell_to_go("spot")
            wait_in(run, lambda: "node spot is about to go" in run.text())
        code = run.wait(250)

    assert code == 0, run.text()
    assert "node spot is about to go: its trials write checkpoints and move" in run.text()
    assert "starting it again" not in run.text()
    assert set(places(search)) == {"spot", "stable"}
    log = (search.results / "trials" / "0000" / "log.txt").read_text()
    assert "interrupted after epoch" in log and "resumed after loop" in log
    assert violations(search.journal, ended=True) == []


@needs_root
def test_a_dry_run_says_what_would_run_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(tmp_path, SHORT)
    (tmp_path / "data").mkdir()
    with machines(tmp_path, monkeypatch) as cluster:
        cluster.add("near", cpus=2)
        cluster.add_hiding("far", tmp_path / "data")
        cluster.add_hiding("bare", tmp_path / "model")
        run = cluster.start(search, "--dry-run")
        code = run.wait(200)

    assert code == 0, run.text()
    machines_said = run.text().split("Machines:\n")[1].splitlines()
    assert "  near: 2 at once (2 CPU)" in machines_said
    assert "  far: 1 at once (1 CPU), once the data have been tokenized there" in machines_said
    assert f"  bare: no trials: it has no model in {tmp_path / 'model'}" in machines_said
    assert any(line.endswith(": no trials (0 CPU)") for line in machines_said), "the head"
    assert not search.results.exists() or not search.journal.exists()
