"""What a model's name means: a folder, a built-in model, or a hub id with or without a revision. No weights are read.

A hub id stands for whatever its owner last uploaded, so a search finds out once which commit that is, and everything
after that goes by `owner/name@commit`.
"""

import re
from pathlib import Path

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def split_revision(model_string: str) -> tuple[str, str | None]:
    """A hub id and the revision behind its "@"; folders and built-in names have none."""
    name, _, revision = model_string.partition("@")
    if not revision or not _may_be_hub_id(name) or Path(model_string).expanduser().exists():
        return model_string, None
    return name, revision


def revision_option(revision: str | None) -> dict[str, str]:
    """A revision as transformers takes it."""
    return {} if revision is None else {"revision": revision}


def pinned(model_string: str, commit: str | None) -> str:
    """A hub id at a commit; anything else, and where no commit is known, as it is."""
    name, _ = split_revision(model_string)
    if commit is None or _COMMIT.fullmatch(commit) is None or not _may_be_hub_id(name):
        return model_string
    return f"{name}@{commit}"


def hub_commit(model_string: str) -> str | None:
    """The commit that a hub id stands for now; None for anything else.

    Told by the folder of the hub's cache that its configuration lies in: transformers no longer notes it in what it
    loads (5.23 has no `_commit_hash` any more).

    Raises:
        OSError: there is no such model, or the hub cannot be reached and its cache has none.
    """
    from transformers.utils import cached_file

    name, revision = split_revision(model_string)
    if not _may_be_hub_id(name):
        return None
    path = Path(str(cached_file(name, "config.json", **revision_option(revision))))
    commits = [part for part in path.parts if _COMMIT.fullmatch(part)]
    return commits[-1] if commits else None


def _may_be_hub_id(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None and not name.startswith("pydoc") and not Path(name).expanduser().exists()
