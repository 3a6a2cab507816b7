"""The hub's names of data sets that have short ones here, and commits. Called by `train.data`, `search` and cards."""

import re

HUB_NAMES = {"openwebtext": "Skylion007/openwebtext", "glue": "nyu-mll/glue"}

_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_data_set(dataset: str) -> str:
    """The hub id that a `dataset` of the hub stands for, without revision and without glue's task."""
    name = dataset.partition("@")[0]
    return HUB_NAMES["glue"] if name.startswith("glue/") else HUB_NAMES.get(name, name)


def at_commit(dataset: str, commit: str) -> str:
    """A `dataset` (or `warm_start`) of the hub at one commit, whatever revision it named before."""
    return f"{dataset.partition('@')[0]}@{commit}"


def commit_of(dataset: str) -> str | None:
    """The commit that a `dataset` of the hub names; None where it names a branch, a tag or nothing."""
    revision = dataset.partition("@")[2]
    return revision if _COMMIT.fullmatch(revision) else None
