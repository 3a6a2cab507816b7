"""A results folder says with what it was made."""

import re
import subprocess
from pathlib import Path

import pytest

from cmp.results.provenance import git_commit, versions


def test_versions_name_python_and_the_packages_that_shape_numbers() -> None:
    found = versions()
    assert {"python", "torch", "transformers", "ray", "optuna"} <= set(found)
    assert all(re.match(r"\d+\.\d+", number) for number in found.values())


def test_the_commit_is_the_checkouts_own_and_says_when_files_were_changed() -> None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    commit = git_commit()
    assert commit is not None
    assert commit.removesuffix("-dirty") == head.stdout.strip()
