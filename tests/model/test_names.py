"""A hub id stands for whatever its owner last uploaded; what a search or a compressor goes by is a commit."""

from pathlib import Path

import pytest
import torch

from cmp import Compressor
from cmp.model.api import CompressorError
from cmp.model.backbone import Backbone
from cmp.model.loading import load_tokenizer, model_facts
from cmp.model.names import hub_commit, pinned, split_revision
from cmp.model.saving import read_config
from tests.hub_cache import publish, use_cache
from tests.model.saved import new_compressor, save_tiny_model

NAME = "someone/tiny"
OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub on which the model was uploaded once."""
    cache = use_cache(tmp_path / "hub", monkeypatch)
    publish(cache, NAME, OLD, save_tiny_model("llama", tmp_path / "old"))
    return cache


def upload_again(cache: Path, tmp_path: Path) -> None:
    """Somebody changes the weights: from now on the name stands for others."""
    publish(cache, NAME, NEW, save_tiny_model("llama", tmp_path / "new", change=0.5))


def test_a_compressor_loads_the_backbone_at_the_commit_that_it_was_trained_with(cache: Path, tmp_path: Path) -> None:
    """The commit was saved and never used: after an upload the compressor was refused for its other weights."""
    compressor = new_compressor(Backbone.load(NAME))
    compressor.save_pretrained(tmp_path / "saved")
    upload_again(cache, tmp_path)

    again = Compressor.from_pretrained(tmp_path / "saved", device="cpu")

    assert read_config(tmp_path / "saved").backbone.revision == again.backbone.identity.revision == OLD
    assert torch.equal(again.compress("the cat").vectors, compressor.compress("the cat").vectors)
    with pytest.raises(CompressorError, match="has other weights"):
        Compressor.from_pretrained(tmp_path / "saved", device="cpu", backbone=NAME)


def test_a_commit_that_is_gone_is_said_with_what_to_do(cache: Path, tmp_path: Path) -> None:
    new_compressor(Backbone.load(NAME)).save_pretrained(tmp_path / "saved")
    upload_again(cache, tmp_path)
    (cache / "models--someone--tiny" / "snapshots" / OLD).rename(tmp_path / "lost")

    with pytest.raises(CompressorError, match=f"{NAME}@{OLD}: the backbone cannot be loaded .* give its place"):
        Compressor.from_pretrained(tmp_path / "saved", device="cpu")


def test_a_name_at_a_commit_is_that_commit_for_weights_tokenizer_and_configuration(cache: Path, tmp_path: Path) -> None:
    before = Backbone.load(NAME)
    upload_again(cache, tmp_path)

    old, new = Backbone.load(f"{NAME}@{OLD}"), Backbone.load(NAME)

    assert (old.identity, new.identity.revision) == (before.identity, NEW)
    assert new.identity.fingerprint != old.identity.fingerprint
    assert (hub_commit(NAME), hub_commit(f"{NAME}@{OLD}")) == (NEW, OLD)
    assert len(load_tokenizer(f"{NAME}@{OLD}")) > 0 and model_facts(f"{NAME}@{OLD}").n_layers == old.n_layers


def test_only_hub_ids_have_revisions(tmp_path: Path) -> None:
    (tmp_path / "a@b").mkdir()

    assert split_revision("gpt2@main") == ("gpt2", "main")
    assert split_revision("owner/name@v1.0") == ("owner/name", "v1.0")
    for name in ("gpt2", "pydoc", "pydoc-tiny", str(tmp_path), str(tmp_path / "a@b"), "./models/x@y"):
        assert split_revision(name) == (name, None)


def test_only_hub_ids_are_pinned_and_only_to_commits(tmp_path: Path) -> None:
    assert pinned("owner/name", OLD) == pinned("owner/name@main", OLD) == pinned(f"owner/name@{NEW}", OLD)
    assert pinned("owner/name", OLD) == f"owner/name@{OLD}"
    for name in ("pydoc", str(tmp_path), "owner/name@v1.0"):
        assert pinned(name, None) == pinned(name, "unknown") == name
    assert pinned("pydoc", OLD) == "pydoc" and pinned(str(tmp_path), OLD) == str(tmp_path)
