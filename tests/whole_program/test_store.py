"""Whole searches whose results go to an object store, with nothing else shared: killed, moved, cut off, interrupted."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmp.objects import ObjectStore
from tests.search.check_journal import trajectory, violations
from tests.stores import WRONG_SECRET, Gate, s3_environment, start_one_answer
from tests.whole_program.harness import ONE_AT_A_TIME, REPOSITORY, Run, Search

AWAY_SECONDS = float(os.environ.get("STORE_AWAY_SECONDS", "8"))

# Where each start dies; each is on another machine, with an empty disk. The last kills a trial's process only.
CHAIN = [
    ("after-created", 6),
    ("after-sent-checkpoint", 2),
]
LONG_CHAIN = [
    ("before-created", 3),
    CHAIN[0],
    ("after-reported", 2),
    CHAIN[1],
]


def settings(**more: object) -> dict[str, object]:
    return {**ONE_AT_A_TIME, "data_root": None, **more}


def machine(root: Path, number: int) -> dict[str, str]:
    """The environment of a machine that shares no disk with the others."""
    return {"CMP_CACHE": str(root / f"machine-{number}")}


def assert_like(search: Search, unbroken: Search) -> None:
    assert violations(search.journal, ended=True) == []
    assert trajectory(search.journal) == trajectory(unbroken.journal)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("chain", [CHAIN, pytest.param(LONG_CHAIN, marks=pytest.mark.slow)], ids=["short", "long"])
def test_a_search_on_a_store_killed_on_one_machine_after_the_other_ends_like_an_unbroken_one(
    tmp_path: Path, s3: str, unbroken: Search, chain: list[tuple[str, int]]
) -> None:
    broken = Search(tmp_path, settings(), store=s3)
    for number, (point, count) in enumerate(chain, start=1):
        run = broken.start(point=point, count=count, environment=machine(tmp_path, number))
        code = run.wait(200)
        assert run.mark.exists(), f"{point} was not reached; exit code {code}:\n{run.text()}"
        assert code == (0 if point == "after-sent-checkpoint" else -9), run.text()

    assert_like(broken, unbroken)
    names = ObjectStore(f"{s3}/tiny").list()
    assert {"report.html", "trials.csv", "best/current", "space.yaml", "optuna.log"} <= set(names)
    assert "lease.json" not in names
    assert b"test-secret" not in ObjectStore(f"{s3}/tiny").get("space.yaml")


@pytest.mark.timeout(600)
def test_a_store_that_is_away_for_a_while_stops_nothing(tmp_path: Path, s3: str, s3_gate: Gate) -> None:
    search = Search(tmp_path, settings(), store=s3)
    run = search.start(epoch_seconds=0.3, environment=machine(tmp_path, 0))
    _wait_for(run, lambda: len(search.events("reported")) >= 3)
    with s3_gate.away():
        time.sleep(AWAY_SECONDS)

    assert run.wait(200) == 0, run.text()
    assert violations(search.journal, ended=True) == []
    assert {event["event"] for event in search.events("failed")} == set()
    assert run.text().count("; waiting for it") == run.text().count("answers again, after ") == 1
    assert "Traceback" not in run.text()


@pytest.mark.timeout(600)
def test_an_interrupted_search_goes_on_on_another_machine_in_another_folder(tmp_path: Path, s3: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    search = Search(here, settings(model_string="model", dataset="text.txt"), store=s3)
    shutil.copytree(here, there)  # other paths, other times of change: the same model and the same text
    run = search.start(epoch_seconds=0.5, environment=machine(tmp_path, 0), directory=here)
    _wait_for(run, lambda: len(search.events("reported")) >= 2)
    began = time.time()
    run.process.send_signal(signal.SIGINT)
    assert run.wait(40) == 130, run.text()
    assert time.time() - began < 20
    assert f"Everything is in {s3}/tiny. To go on from here:" in run.text()
    assert [name for name in ObjectStore(f"{s3}/tiny").list("trials") if name.endswith(".pt")]

    for file in (there / "text.txt", *(there / "model").iterdir()):
        file.touch()
    run = search.start(environment=machine(tmp_path, 1), directory=there)
    assert run.wait(200) == 0, run.text()
    assert "Going on: " in run.text()
    assert violations(search.journal, ended=True) == []


@pytest.mark.parametrize(
    ("save_root", "message"),
    [
        (
            "s3://no-such-bucket/x",
            "save_root: s3://no-such-bucket/x/tiny: there is no bucket no-such-bucket; create it",
        ),
        ("s3://key:hunter2@b/x", "save_root: a URL is only where results go; leave credentials and options to the"),
        ("s4://b/x", "save_root: s4:// is not a store that results can go to; use a folder, or s3://BUCKET/PREFIX"),
    ],
)
def test_a_store_that_cannot_be_used_is_an_error_of_the_space_before_anything_starts(
    tmp_path: Path, s3: str, save_root: str, message: str
) -> None:
    assert_refused(Search(tmp_path, {"save_root": save_root}), message)


def test_wrong_credentials_are_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(tmp_path, {"save_root": "s3://b/x"})
    with start_one_answer(403, WRONG_SECRET) as port:
        for name, value in s3_environment(port).items():
            monkeypatch.setenv(name, value)
        assert_refused(
            search, "save_root: s3://b/x/tiny: access denied (SignatureDoesNotMatch: The request signature we"
        )
    assert not (tmp_path / "data").exists()


def assert_refused(search: Search, message: str) -> None:
    """A line about the space file, without secrets, and exit code 2: from the search and from a dry run."""
    for arguments in ([], ["--dry-run"]):
        command = [sys.executable, "search.py", str(search.space), *arguments]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 2
        errors = [line for line in done.stderr.splitlines() if message in line]
        assert len(errors) == 1, done.stderr
        assert errors[0].startswith(f"{search.space}:")
        for secret in ("hunter2", "test-secret", "test-key", "AKIA"):
            assert secret not in done.stderr + done.stdout
        assert "Traceback" not in done.stderr


def _wait_for(run: Run, condition: object) -> None:
    end = time.time() + 150
    while not condition():  # type: ignore[operator]
        assert run.process.poll() is None and time.time() < end, run.text()
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("workers", [1, 2])
def test_nodes_that_share_nothing_but_the_store_search_together(
    tmp_path: Path, s3: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one worker a node is lost as well, and the other goes on with its trial; two workers span both nodes."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.delenv("CMP_CACHE", raising=False)  # it would travel, and be the same everywhere
    more = {"n_epochs": 6, "n_train_loops": 40, "resources": {"workers": workers, "cpus_per_worker": 1}}
    search = Search(tmp_path, {**settings(**more), "search": {"num_samples": 4, "min_peers": 4}}, store=s3)
    caches = [{"XDG_CACHE_HOME": str(tmp_path / f"node-{number}")} for number in range(2)]
    head = {"num_cpus": 1, "include_dashboard": False, "env_vars": caches[0]}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        second = cluster.add_node(num_cpus=1, env_vars=caches[1])
        output = (tmp_path / "output.txt").open("w")
        run = subprocess.Popen(
            [sys.executable, "search.py", str(search.space), "--address", cluster.address],
            cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **caches[0]},
        )  # fmt: skip
        end = time.time() + 200
        while len(search.events("reported")) < 4:
            assert run.poll() is None and time.time() < end, (tmp_path / "output.txt").read_text()
            time.sleep(0.2)
        if workers == 1:
            assert all(
                list((tmp_path / f"node-{number}" / "cmp" / "results").glob("*/trials/*")) for number in range(2)
            )
            cluster.remove_node(second, allow_graceful=False)
        code = run.wait(300)
    finally:
        cluster.shutdown()

    text = (tmp_path / "output.txt").read_text()
    assert code == 0, text
    assert violations(search.journal, ended=True) == []
    assert len(search.events("finished")) == len({event["trial"] for event in search.events("suggested")})
    assert {"best/current", "report.html", "test.json"} <= set(ObjectStore(f"{s3}/tiny").list()), text
