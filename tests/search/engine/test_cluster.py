"""What is known of machines without starting Ray on them, and how a wrong address is answered."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from cmp.search.engine import cluster
from cmp.search.engine.cluster import local_nodes, require_reachable, set_environment
from cmp.space.errors import UserError


def test_this_machine_is_known_without_starting_ray() -> None:
    (node,) = local_nodes()

    assert 1 <= node.cpus <= (os.cpu_count() or 1)
    assert node.gpus >= 0


def test_an_address_where_nobody_listens_is_refused_within_seconds() -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=r"--address: nobody answers at 127\.0\.0\.1:1 .*ray start --head"):
        require_reachable("127.0.0.1:1")
    with pytest.raises(UserError, match="nobody answers at host:port"):
        require_reachable("host:port")

    assert time.monotonic() - began < 10


def test_an_address_of_the_remote_client_is_refused() -> None:
    with pytest.raises(UserError, match="is for Ray's remote client"):
        require_reachable("ray://head:10001")
    require_reachable("auto")
    require_reachable(None)


def test_what_the_user_has_set_for_ray_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "5")
    monkeypatch.delenv("TUNE_DISABLE_SIGINT_HANDLER", raising=False)
    set_environment()

    assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "5"
    assert os.environ["TUNE_DISABLE_SIGINT_HANDLER"] == "1"


def test_other_nodes_get_the_package_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A results folder of gigabytes beside the package must not be shipped."""
    shipped = cluster._working_dir()
    root = Path(str(shipped["working_dir"]))

    assert (root / "cmp").is_dir()
    folders = {path.name for path in root.iterdir() if path.is_dir()}
    assert set(shipped["excludes"]) == {f"/{name}/" for name in folders - {"cmp"}}  # type: ignore[call-overload]


def test_settings_of_libraries_travel_to_other_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/models")
    monkeypatch.setenv("SECRET", "stays here")
    set_environment()
    environment = cluster._travelling_environment()

    assert environment["HF_HOME"] == "/models"
    assert "SECRET" not in environment
    assert environment["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] == "0"


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
