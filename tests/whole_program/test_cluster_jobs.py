"""Searches as jobs of a running cluster, and what others on it get to see of who started them."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.search.check_journal import violations
from tests.whole_program.harness import REPOSITORY, Search
from tests.whole_program.machines import Machines, machines, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECRETS = {"HF_TOKEN": "hf_ThisMustStayHere", "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567"}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    """A head with a dashboard, and one node."""
    with machines(tmp_path, monkeypatch, dashboard=True) as cluster:
        cluster.add("worker")
        yield cluster


def jobs(cluster: Machines, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`ray job ...` on the cluster."""
    head, *tail = arguments
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", head, "--address", cluster.dashboard, *tail]
    return subprocess.run(command, cwd=REPOSITORY, env=cluster.environment, capture_output=True, text=True, timeout=300)


def test_a_submitted_job_is_a_search_that_can_be_stopped_and_goes_on(cluster: Machines, tmp_path: Path) -> None:
    """Two runtime environments that both named a working directory ended the job before it began."""
    settings = {"n_epochs": 1, "n_train_loops": 30_000, "search": {"control": False, "num_samples": 1}}
    search = Search(tmp_path, settings)
    entry = ["--", "python", "search.py", str(search.space)]
    given = ["--working-dir", ".", "--runtime-env-json", '{"env_vars": {"HF_HOME": "/nowhere"}}']
    submitted = jobs(cluster, "submit", "--submission-id", "first", "--no-wait", *given, *entry)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    log = search.results / "trials" / "0000" / "log.txt"
    wait_for(lambda: search.events("started"), jobs(cluster, "logs", "first").stdout, 120)
    wait_for(lambda: log.exists() and "bounds: " in log.read_text(), "no training", 120)
    time.sleep(2.0)  # then the first of its 30,000 loops has begun
    jobs(cluster, "stop", "first")

    wait_for(lambda: "interrupted after epoch 0" in log.read_text(), "no checkpoint", 30)
    assert list((search.results / "trials" / "0000" / "checkpoints").glob("loop-*.pt"))
    again = jobs(
        cluster, "submit", "--submission-id", "second", "--working-dir", ".", *entry, "--set", "checkpt_mod=null"
    )
    assert "Going on: 0 trials finished" in again.stdout, again.stdout + again.stderr


def test_nothing_secret_of_the_driver_is_to_be_read_on_the_cluster(cluster: Machines, tmp_path: Path) -> None:
    """HF_TOKEN and WANDB_API_KEY stood in the job's metadata and in a log, in clear."""
    search = Search(tmp_path, {"n_epochs": 1, "search": {"control": False, "num_samples": 1, "tracker": "wandb"}})
    run = cluster.start(search, WANDB_MODE="offline", **SECRETS)
    assert run.wait(250) == 0, run.text()
    with urllib.request.urlopen(f"{cluster.dashboard}/api/jobs/") as answer:
        seen = answer.read().decode()
    for path in Path(cluster.session).rglob("*"):
        if path.is_file() and not path.is_symlink():
            seen += path.read_text(errors="replace")

    assert "HF_TOKEN" in run.text(), "it is said that this stays here"
    assert not [name for name, value in SECRETS.items() if value in seen or value in run.text()]
    assert violations(search.journal, ended=True) == []
    assert os.environ.get("HF_TOKEN") is None
