"""A compressor that goes to the hub and comes back, through the hub's own client and a server that stands in for it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from rich.console import Console

from cmp import Compressor
from cmp.model.api import CompressorError
from cmp.model.backbone import Backbone
from cmp.model.hub import is_hub_id
from cmp.model.saving import CONTROL_CONFIG, CONTROL_TENSORS, Origin, add_control
from cmp.search.preparation import prepare, settled
from cmp.space.space import Space
from tests.hub_server import Hub, running_hub
from tests.model.saved import new_compressor, save_tiny_model
from tests.tiny import write_tiny_text

TEXT = "the old tree is red"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        files = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.chdir(tmp_path)
        yield hub


@pytest.fixture
def backbone(tmp_path: Path) -> Backbone:
    return Backbone.load(str(save_tiny_model("llama", tmp_path / "model")))


def test_a_compressor_goes_to_the_hub_and_comes_back(hub: Hub, backbone: Backbone) -> None:
    compressor = new_compressor(backbone, proj_cmpr=True, lora_rank=2)

    place = compressor.push_to_hub("me/squeeze", private=True, token="hf_secret")

    assert place == f"me/squeeze@{hub.commits['me/squeeze'][-1][0]}"
    assert hub.created[0]["name"] == "squeeze" and hub.tokens == {"Bearer hf_secret"}
    for name in ("me/squeeze", place):
        back = Compressor.from_pretrained(name, device="cpu")
        assert torch.equal(back.compress(TEXT).vectors, compressor.compress(TEXT).vectors)


def test_a_commit_stays_what_it_was_when_something_else_is_uploaded(hub: Hub, backbone: Backbone) -> None:
    first, second = new_compressor(backbone, n_cmps=2), new_compressor(backbone, n_cmps=3)
    pinned = first.push_to_hub("me/squeeze")
    second.push_to_hub("me/squeeze")

    assert Compressor.from_pretrained("me/squeeze", backbone=backbone).settings.n_cmps == 3
    assert Compressor.from_pretrained(pinned, backbone=backbone).settings.n_cmps == 2


def test_the_card_has_the_hubs_metadata_and_no_place_of_the_machine(
    hub: Hub, backbone: Backbone, tmp_path: Path
) -> None:
    settings = {"dataset": "openwebtext", "save_root": str(tmp_path / "secret"), "data_root": str(tmp_path / "secret")}
    compressor = new_compressor(backbone, **settings)
    numbers = {"val_loss": 2.5, "no_context_loss": 3.0, "full_context_loss": 2.0}
    compressor.origin = Origin(trial=3, metrics=numbers, data={"revision": "a" * 40})
    folder, control = tmp_path / "best", tmp_path / "control"
    compressor.save_pretrained(folder)
    new_compressor(backbone, n_cmps=1, save_root=str(tmp_path / "secret")).save_pretrained(control)
    add_control(folder, control)

    Compressor.from_pretrained(folder, backbone=backbone).push_to_hub("me/squeeze")

    files = hub.commits["me/squeeze"][-1][1]
    assert {"README.md", "config.json", "compressor.safetensors", CONTROL_CONFIG, CONTROL_TENSORS} <= set(files)
    head, _, text = files["README.md"].decode().removeprefix("---\n").partition("\n---\n")
    metadata = yaml.safe_load(head)
    assert metadata["library_name"] == "cmp" and metadata["datasets"] == ["Skylion007/openwebtext"]
    assert "base_model" not in metadata, "a local folder is none"
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"] == {
        "name": "Skylion007/openwebtext", "type": "Skylion007/openwebtext", "split": "validation", "revision": "a" * 40,
    }  # fmt: skip
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == numbers
    assert 'Compressor.from_pretrained("me/squeeze")' in text
    assert not any(b"secret" in content for content in files.values())
    assert "save_root" not in json.loads(files["config.json"])["settings"]

    again = Compressor.from_pretrained("me/squeeze", backbone=backbone)
    assert again.origin.metrics == numbers and Compressor.text_control("me/squeeze", backbone) is not None
    again.push_to_hub("me/other")
    assert hub.commits["me/other"][-1][1]["README.md"].decode().count("library_name") == 1, "one head, not two"


def test_what_the_hub_has_not_got_is_said(hub: Hub, backbone: Backbone, tmp_path: Path) -> None:
    new_compressor(backbone).push_to_hub("me/squeeze")
    hub.commit("me/model", {"config.json": b"{}"})

    with pytest.raises(CompressorError, match="me/none is neither a folder here nor a repository on the hub"):
        Compressor.from_pretrained("me/none")
    with pytest.raises(CompressorError, match="me/squeeze has no revision 'v9' on the hub"):
        Compressor.from_pretrained("me/squeeze@v9")
    with pytest.raises(CompressorError, match=r"me/model/config.json: not a compressor's config"):
        Compressor.from_pretrained("me/model")


def test_a_hub_that_is_away_is_said_and_what_was_fetched_is_still_there(
    hub: Hub, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressor = new_compressor(backbone)
    place = compressor.push_to_hub("me/squeeze")
    Compressor.from_pretrained(place, backbone=backbone)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert Compressor.from_pretrained(place, backbone=backbone).settings.n_cmps == compressor.settings.n_cmps
    with pytest.raises(CompressorError, match="me/other is no folder here, and the hub cannot give it"):
        Compressor.from_pretrained("me/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CompressorError, match=r"me/squeeze: the hub has not taken it .*hf auth login"):
        compressor.push_to_hub("me/squeeze")


def test_a_search_starts_all_trials_from_the_commit_that_it_began_with(
    hub: Hub, backbone: Backbone, tmp_path: Path
) -> None:
    text = write_tiny_text(tmp_path / "text.txt")
    short = {"cmp_len": 16, "seq_len": 8, "n_data_procs": 1, "data_root": str(tmp_path / "data"), "n_cmps": 4}
    plain = {"model_string": backbone.identity.name, "dataset": str(text), "warm_start": "me/squeeze", **short}
    space = Space.from_dict(plain)
    place = new_compressor(backbone, n_cmps=2).push_to_hub("me/squeeze")
    first = prepare(space, Console(record=True), noted={})
    new_compressor(backbone, n_cmps=3).push_to_hub("me/squeeze")

    again = prepare(space, Console(record=True), noted=first.facts)

    assert first.settings.warm_start is not None and again.facts == first.facts
    assert settled(space.trial_settings({}), first.facts).warm_start == place == again.settings.warm_start
    assert prepare(space, Console(record=True), noted={}).facts["warm_start"] != first.facts["warm_start"]


def test_a_path_whose_first_folder_is_here_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("results/demo") and is_hub_id("me/squeeze@v1")
    (tmp_path / "results").mkdir()
    assert not is_hub_id("results/demo")
    assert not any(map(is_hub_id, ["best", "./me/squeeze", "/me/squeeze", "results/demo/best", "s3://me/squeeze"]))
    with pytest.raises(CompressorError, match="results/demo: no such folder"):
        Compressor.from_pretrained("results/demo")
