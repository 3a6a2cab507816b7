"""A stand-in for the hub: its cache's layout on disk, without a network."""

import shutil
from pathlib import Path

import pytest


def use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the hub's client know this cache only."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def publish(cache: Path, name: str, commit: str, folder: Path) -> None:
    """The content of `folder` is what the hub id stands for from now on; earlier commits stay."""
    place = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / commit)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / "main").write_text(commit)
