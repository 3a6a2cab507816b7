"""What a machine lacks to run trials, found by looking there."""

from dataclasses import replace
from pathlib import Path

import pytest

from cmp.objects import ObjectStore
from cmp.search.engine.probe import Needs, look
from cmp.space.settings import TrialSettings, Window
from tests.stores import forget_connections


@pytest.fixture
def needs(tmp_path: Path) -> Needs:
    """Of a search with a model of the hub, on a disk."""
    settings = TrialSettings(model_string="gpt2", dataset="text.txt", data_root=str(tmp_path))
    return Needs(
        settings=settings, window=Window(8, 4), directory=tmp_path, results=str(tmp_path), sign=None,
        model_place=None, model_fingerprint="", start_place=None, tokens="none", data_fingerprint="",
    )  # fmt: skip


def test_a_machine_that_may_use_the_store_lacks_nothing_and_leaves_nothing_there(needs: Needs, s3: str) -> None:
    assert look(needs).lack is None
    assert look(replace(needs, results=s3)).lack is None
    assert ObjectStore(s3).list() == []


def test_a_machine_without_the_store_is_told_apart_before_a_trial_runs_there(needs: Needs, s3: str) -> None:
    gone = s3.replace("bucket-", "elsewhere-")
    forget_connections()
    lack = look(replace(needs, results=gone)).lack
    assert lack is not None
    assert lack.startswith(f"it cannot use the store ({gone}: there is no bucket elsewhere-")


def test_a_machine_without_the_compressor_that_trials_start_from_is_told_apart(needs: Needs, tmp_path: Path) -> None:
    place = tmp_path / "best"
    asked = replace(needs, start_place=place)
    assert look(asked).lack == f"it has no compressor in {place} to start from"
    place.mkdir()
    (place / "config.json").touch()
    assert look(asked).lack is None
