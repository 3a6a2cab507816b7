"""A cluster that has no machine before somebody asks for one: Ray's autoscaler, with a cloud of pretended machines."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.search.check_journal import violations
from tests.whole_program.harness import REPOSITORY, Search, descendants
from tests.whole_program.machines import RAY, kill, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# What the pretended cloud calls the head; `ray up` gives names of its own.
HEAD_ID = "f" * 51 + "00000"


@pytest.fixture(params=[False, True], ids=["autoscaler v1", "autoscaler v2"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A head without CPUs; up to two machines of one CPU can be had."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    host = subprocess.check_output(["hostname", "-I"], text=True).split()[0]
    empty: dict[str, object] = {"auth": {}, "docker": {}, "file_mounts": {}}
    lists = ["initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"]
    lists += ["head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"]
    config = {
        "cluster_name": "pretended",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 30,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": f"{host}:{port}",
            **({"launch_multiple": True, "head_node_id": HEAD_ID} if request.param else {}),
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "small": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
        **empty,
        **{name: [] for name in lists},
    }
    (tmp_path / "cluster.json").write_text(json.dumps(config))
    environment = {
        **os.environ,
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "RAY_worker_niceness": "0",
        "CRASH_EPOCH_SECONDS": "0.5",
        "CRASH_FIRST_LOOP": str(tmp_path / "first-loop"),
        "CRASH_HOLD": str(tmp_path / "hold"),
        "RAY_enable_autoscaler_v2": str(int(request.param)),
    }
    options = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", "--disable-usage-stats"]
    head = subprocess.Popen(
        [*RAY, "start", *options, f"--autoscaling-config={tmp_path}/cluster.json", "--block"],
        env=environment,
        stdout=(tmp_path / "head.txt").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_for(lambda: "Ray runtime started" in (tmp_path / "head.txt").read_text(), "no head", 90)
        yield f"{host}:{port}"
    finally:
        for pid in [*descendants(head.pid), head.pid]:
            kill(pid)
        head.wait()


def test_trials_that_wait_make_an_autoscaler_start_machines(address: str, tmp_path: Path) -> None:
    search = Search(
        tmp_path,
        {
            "n_epochs": 4,
            "search": {"control": False, "num_samples": 6, "min_peers": 6, "max_concurrent": 2},
            "resources": {"cpus_per_worker": 1},
        },
    )
    run = search.start("--address", address, epoch_seconds=0.5, environment={"RAY_AUTH_MODE": "disabled"})

    assert run.wait(400) == 0, run.text()
    assert "no machine for it is there yet" in run.text()
    assert run.text().count(" joined: 1 CPU") == 2, "as many as were asked for at once"
    assert len(search.events("finished")) == 6
    assert violations(search.journal, ended=True) == []
