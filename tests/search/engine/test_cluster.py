"""What is known of machines without starting Ray on them, and when the head of a cluster is gone."""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from cmp.search.engine import cluster
from cmp.search.engine.cluster import HEAD_PATIENCE_SECONDS, Cluster, HeadWatch, RayLostError, local_nodes


def test_this_machine_is_known_without_starting_ray() -> None:
    (node,) = local_nodes()

    assert 1 <= node.cpus <= (os.cpu_count() or 1)
    assert node.gpus >= 0


def test_a_head_that_does_not_answer_for_long_enough_is_gone() -> None:
    """Ray's library would end the program after 60 s, with exit code 1 and without a word."""
    now = [0.0]
    watch = HeadWatch("127.0.0.1:1", clock=lambda: now[0])
    watch._seen = 0.0
    now[0] = HEAD_PATIENCE_SECONDS - 1
    assert watch.lost() is None
    now[0] = HEAD_PATIENCE_SECONDS + 1

    assert watch.lost() == "the cluster's head (127.0.0.1:1) has not answered for 30 s"
    assert not Cluster(None, None, watch).is_alive()
    with pytest.raises(RayLostError, match="the cluster's head"):
        Cluster(None, None, watch).require_alive()


def test_a_search_that_waits_for_a_head_that_is_gone_is_left_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_PATIENCE_SECONDS", "HEAD_PERIOD_SECONDS", "HEAD_NOTICE_SECONDS"):
        monkeypatch.setattr(cluster, name, 0.05)
    left: list[str] = []
    watch = HeadWatch("127.0.0.1:1", left.append)
    watch.start()
    end = time.monotonic() + 10
    while not left:
        assert time.monotonic() < end
        time.sleep(0.02)
    monkeypatch.setattr(cluster, "HEAD_NOTICE_SECONDS", 60.0)
    noticed = HeadWatch("127.0.0.1:1", left.append)
    noticed.start()
    while noticed.lost() is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    noticed.stop()
    time.sleep(0.3)

    assert len(left) == 1, "who has noticed is not forced"


def test_a_head_that_answers_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        watch = HeadWatch(f"127.0.0.1:{server.getsockname()[1]}")
        assert watch._answers()
    assert not watch._answers()


def test_the_dashboard_gives_way_to_trials() -> None:
    """All processes below it get the lowest priority."""
    parent = subprocess.Popen(["sh", "-c", "sleep 30 & wait"])
    try:
        end = time.monotonic() + 10
        while not (below := cluster._descendants(parent.pid)):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert "sleep" in Path(f"/proc/{below[0]}/comm").read_text()
    finally:
        for pid in [*below, parent.pid]:
            os.kill(pid, 9)
        parent.wait()
