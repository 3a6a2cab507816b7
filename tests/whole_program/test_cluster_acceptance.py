"""A search of twelve trials over three nodes, of which one is bad and one is lost, and a fourth that is added."""

from collections import Counter
from pathlib import Path

import pytest

from tests.search.check_journal import trajectory, violations
from tests.whole_program.harness import Search
from tests.whole_program.machines import machines, needs_root, wait_in

# Suggestions that do not wait for results, and nobody stopped early: so every trial is the same in both searches.
TWELVE = {"n_epochs": 4, "search": {"control": False, "num_samples": 12, "startup_trials": 12, "min_peers": 12}}


@needs_root
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_over_a_bad_a_lost_and_an_added_node_ends_like_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = Search(tmp_path / "unbroken", TWELVE)
    assert unbroken.start().wait(300) == 0

    search = Search(tmp_path / "broken", TWELVE)
    with machines(tmp_path, monkeypatch, epoch_seconds=1.0) as cluster:
        cluster.add("first")
        cluster.add("second")
        cluster.add_hiding("bad", tmp_path / "nowhere", variables={"CRASH_FAILS": "1"})
        run = cluster.start(search, epoch_seconds=1.0)
        wait_in(run, lambda: len(search.events("reported")) >= 10)
        cluster.remove("second")
        cluster.add("fourth")
        code = run.wait(500)

    assert code == 0, run.text()
    assert violations(search.journal, ended=True) == []
    expected, found = trajectory(unbroken.journal), trajectory(search.journal)
    assert [end for _, _, end in found.values()] == [("finished", 4, None)] * 12
    assert found == expected, "settings, losses of every epoch and ends, to the last bit"
    reported = Counter((event["trial"], event["epoch"]) for event in search.events("reported"))
    assert set(reported) == {(trial, epoch) for trial in range(12) for epoch in range(1, 5)}, "none lost"
    assert set(reported.values()) == {1}, "none repeated"
    nodes = Counter(event["node"] for event in search.events("started"))
    assert set(nodes) == {"first", "second", "bad", "fourth"}
    assert nodes["bad"] <= 2, "one more may have been on its way there"
