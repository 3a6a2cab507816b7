"""Every report also reaches the tracker that a space names, in the offline mode that each of them has."""

import importlib.util
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.whole_program.harness import Search

SETTINGS = {"n_epochs": 2, "n_train_loops": 2, "search": {"num_samples": 2, "min_peers": 2, "control": False}}


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def search_with(tracker: str, folder: Path, environment: dict[str, str]) -> Search:
    search = Search(folder, {**SETTINGS, "search": {**SETTINGS["search"], "tracker": tracker}})
    run = search.start(environment=environment)
    assert run.wait(150) == 0, run.text()
    assert len(search.events("reported")) == 4
    return search


@needs("mlflow")
def test_mlflow_has_every_report_and_the_settings_of_every_trial(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    address = f"sqlite:///{tmp_path}/tracked.db"
    search = search_with("mlflow", tmp_path, {"MLFLOW_TRACKING_URI": address})

    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    by_trial = {int(run.data.params["trial"]): run for run in runs}
    for event in search.events("suggested"):
        tracked = by_trial[event["trial"]]
        assert tracked.info.status == "FINISHED"
        assert {name: tracked.data.params[name] for name in event["settings"]} == {
            name: str(value) for name, value in event["settings"].items()
        }
        tracked_losses = {point.value for point in client.get_metric_history(tracked.info.run_id, "val_loss")}
        reports = [report["metrics"] for report in search.events("reported") if report["trial"] == event["trial"]]
        assert tracked_losses == {report["val_loss"] for report in reports}
        assert tracked.data.metrics["swapped_loss"] == reports[-1]["swapped_loss"]
        assert tracked.data.metrics["gain"] == tracked.data.metrics["worth_tokens"] / reports[-1]["positions"]
        assert {f"plain_curve/{kept}" for kept in reports[0]["plain_curve"] or ()} <= set(tracked.data.metrics)


@pytest.mark.slow
@needs("wandb")
def test_wandb_keeps_every_report_in_the_results_folder_when_offline(tmp_path: Path) -> None:
    search = search_with("wandb", tmp_path, {"WANDB_MODE": "offline"})

    records = [record for path in sorted(search.results.glob("wandb/offline-run-*/*.wandb")) for record in read(path)]
    tracked_losses = [record["val_loss"] for record in records if "val_loss" in record]
    assert sorted(tracked_losses) == sorted(event["metrics"]["val_loss"] for event in search.events("reported"))
    measured = [record["gain"] * record["positions"] - record["worth_tokens"] for record in records if "gain" in record]
    assert measured == pytest.approx([0.0] * 4)


# The files of wandb are LevelDB logs: blocks of records, each with checksum, length and whether it is a part.
FILE_HEADER = RECORD_HEADER = 7
BLOCK = 32 * 1024
LAST_PARTS = (1, 4)


def read(path: Path) -> Iterator[dict[str, float]]:
    """What was logged: the numbers of every `history` record."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, parts = path.read_bytes(), FILE_HEADER, b""
    while position + RECORD_HEADER <= len(content):
        if BLOCK - position % BLOCK < RECORD_HEADER:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + RECORD_HEADER])
        position += RECORD_HEADER + length
        parts += content[position - length : position]
        if kind in LAST_PARTS:
            record, parts = Record.FromString(parts), b""
            yield {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
