"""A search on a cluster of several nodes that runs already, and goes on when one of them goes away."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.search.check_journal import violations
from tests.whole_program.harness import REPOSITORY, Search

SETTINGS = {"n_epochs": 8, "n_train_loops": 60, "search": {"num_samples": 4, "min_peers": 4}}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_search_uses_the_nodes_of_a_cluster_and_survives_the_loss_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")
    from ray.cluster_utils import Cluster

    search = Search(tmp_path, SETTINGS)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        output = (tmp_path / "output.txt").open("w")
        command = [sys.executable, "search.py", str(search.space), "--address", cluster.address]
        run = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT, env=dict(os.environ))
        _wait_until(lambda: len(search.events("reported")) >= 2, run, tmp_path / "output.txt")
        cluster.remove_node(second, allow_graceful=False)
        code = run.wait(250)
    finally:
        cluster.shutdown()

    text = (tmp_path / "output.txt").read_text()
    assert code == 0, text
    assert "the 2 nodes have 2 CPU" in text
    assert "starting it again from its last checkpoint" in text
    assert violations(search.journal, ended=True) == []
    assert {event["event"] for event in search.events("finished")} == {"finished"}
    assert len(search.events("finished")) == 4


def _wait_until(condition: object, run: "subprocess.Popen[bytes]", output: Path) -> None:
    end = time.time() + 200
    while not condition():  # type: ignore[operator]
        assert run.poll() is None and time.time() < end, output.read_text()
        time.sleep(0.1)
