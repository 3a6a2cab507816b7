"""What other machines get of the environment, and what must never leave this one."""

import json
import os
from pathlib import Path

import pytest

from cmp.search.engine import environment
from cmp.search.engine.environment import (
    package_to_send,
    runtime_environment,
    set_environment,
    travelling_environment,
    withheld_names,
    without_values,
)
from cmp.space.errors import UserError

SECRETS = {
    "HF_TOKEN": "hf_abcdefgh",
    "WANDB_API_KEY": "0123456789abcdef",
    "CMP_PASSWORD": "open sesame",
    "HF_ENDPOINT": "https://me:secret@hub.local",
    "MLFLOW_TRACKING_PASSWORD": "123456789",
}


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    set_environment()


def test_what_the_user_has_set_for_ray_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "5")
    monkeypatch.delenv("TUNE_DISABLE_SIGINT_HANDLER", raising=False)
    set_environment()

    assert dict(os.environ)["RAY_worker_niceness"] == "5"
    assert os.environ["TUNE_DISABLE_SIGINT_HANDLER"] == "1"


def test_settings_of_libraries_travel_to_other_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/models")
    monkeypatch.setenv("HF_TOKEN_PATH", "/secrets/hub")
    monkeypatch.setenv("SECRET", "stays here")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "stays here, too")
    set_environment()
    travelling = travelling_environment()

    assert travelling["HF_HOME"] == "/models"
    assert travelling["HF_TOKEN_PATH"] == "/secrets/hub", "where a secret lies is none"
    assert "SECRET" not in travelling
    assert travelling["AWS_ENDPOINT_URL"] == "http://store.local"
    assert "AWS_SECRET_ACCESS_KEY" not in travelling, "each machine has credentials of its own for an object store"
    assert travelling["RAY_CHDIR_TO_TRIAL_DIR"] == "0"


@pytest.mark.usefixtures("secrets")
def test_nothing_secret_goes_into_a_runtime_environment() -> None:
    """It stood in clear in the job's metadata and in a log of every node."""
    text = json.dumps(runtime_environment())

    assert not [name for name, value in SECRETS.items() if name in text or value in text]
    assert withheld_names() == ["CMP_PASSWORD", "HF_ENDPOINT", "HF_TOKEN"]


@pytest.mark.usefixtures("secrets")
def test_no_value_of_a_variable_is_ever_in_a_message() -> None:
    quoted = "Failed to merge {'HF_TOKEN': 'hf_abcdefgh', 'HF_ENDPOINT': 'https://me:secret@hub.local'}"

    assert without_values(quoted) == "Failed to merge {'HF_TOKEN': '<HF_TOKEN>', 'HF_ENDPOINT': '<HF_ENDPOINT>'}"


@pytest.mark.usefixtures("secrets")
def test_a_job_that_brings_its_own_runtime_environment_gets_only_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray job submit --working-dir .`: Ray refuses two that name the same thing, and quotes both in clear."""
    given = {"working_dir": "gcs://package.zip", "env_vars": {"HF_HOME": "/of/the/job", "RAY_worker_niceness": "3"}}
    monkeypatch.setenv("HF_HOME", "/of/the/driver")
    monkeypatch.setenv("CMP_CACHE", "/cache")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": given, "metadata": {}}))
    added = runtime_environment()

    assert set(added) == {"env_vars"}
    assert added["env_vars"]["CMP_CACHE"] == "/cache"
    assert not set(added["env_vars"]) & set(given["env_vars"])


def test_other_nodes_get_the_package_and_nothing_beside_it() -> None:
    """No `.env`, no data, no results of gigabytes in the folder where the program lies."""
    sent = package_to_send()
    (package,) = map(Path, sent["py_modules"])

    assert package.name == "cmp" and (package / "search").is_dir()
    assert not (package / "search.py").exists() and not (package / "tests").exists()
    assert "working_dir" not in sent


def test_a_package_with_something_large_in_it_is_refused_by_the_names_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("weights.bin", 3_000_000), ("small.py", 10), ("data/tokens.arrow", 2_000_000)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    monkeypatch.setattr(environment, "MAX_PACKAGE_BYTES", 4_000_000)
    with pytest.raises(UserError, match=rf"too large .*: {tmp_path}/weights.bin \(3 MiB\), {tmp_path}/data/tokens"):
        environment._require_small(tmp_path)
