"""What is known of machines without starting Ray on them, and when the head of a cluster is gone."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cmp.search.engine import watch as watch_module
from cmp.search.engine.cluster import Cluster, RayLostError, local_nodes
from cmp.search.engine.watch import HEAD_PATIENCE_SECONDS, LOCAL_PATIENCE_SECONDS, HeadWatch, LocalWatch, descendants


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
    for name in ("HEAD_PATIENCE_SECONDS", "LOOK_EVERY_SECONDS", "NOTICE_SECONDS"):
        monkeypatch.setattr(watch_module, name, 0.05)
    left: list[str] = []
    watch = HeadWatch("127.0.0.1:1", left.append)
    watch.start()
    end = time.monotonic() + 10
    while not left:
        assert time.monotonic() < end
        time.sleep(0.02)
    monkeypatch.setattr(watch_module, "NOTICE_SECONDS", 60.0)
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
        assert watch.answers()
    assert not watch.answers()


def test_a_ray_of_ours_that_lost_a_process_and_does_not_answer_is_left_before_its_library_ends_the_program(
    tmp_path: Path,
) -> None:
    """The library does after 60 s, with exit code 1: seen where a control store was killed while Ray started."""
    shutil.copy("/bin/sleep", tmp_path / "gcs_server")
    process = subprocess.Popen([tmp_path / "gcs_server", "60"])
    now = [0.0]
    watch = LocalWatch(clock=lambda: now[0])
    try:
        wait_for(lambda: (watch.look(), watch._alive == {process.pid: "gcs_server"})[1])
        now[0] = 1000.0
        assert watch.lost() is None
    finally:
        process.kill()
    wait_for(lambda: (watch.look(), watch._died is not None)[1])
    process.wait()
    watch.look()
    now[0] += LOCAL_PATIENCE_SECONDS - 1
    assert watch.lost() is None, "the main thread starts Ray again by itself"
    now[0] += 2

    assert watch.lost() == f"Ray's control store (process {process.pid}) died, and Ray does not answer"
    watch.stop()
    assert watch.lost() is None


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_dashboard_gives_way_to_trials() -> None:
    """All processes below it get the lowest priority."""
    parent = subprocess.Popen(["sh", "-c", "sleep 30 & wait"])
    try:
        end = time.monotonic() + 10
        while not (below := descendants(parent.pid)):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert "sleep" in Path(f"/proc/{below[0]}/comm").read_text()
    finally:
        for pid in [*below, parent.pid]:
            os.kill(pid, 9)
        parent.wait()
