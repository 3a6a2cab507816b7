"""Compressors on the Hugging Face hub: fetched from there, put there. Called by `saving` and `api`.

A hub id, `user/compressor`, stands for whatever its owner last uploaded; `user/compressor@commit` for one state of it.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmp.model.names import split_revision
from cmp.objects import is_url
from cmp.space.errors import UserError

_OWNED = re.compile(r"[\w.-]+/[\w.-]+")
MESSAGE = "Upload compressor"


class HubError(UserError):
    """The hub has not got what was asked for, or cannot be reached, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(None, message)


def is_hub_id(place: str | Path) -> bool:
    """`user/compressor`, with `@revision` or without; a path where a folder of its first name is here."""
    if not isinstance(place, str) or is_url(place):
        return False
    name, _ = split_revision(place)
    return _OWNED.fullmatch(name) is not None and not Path(name.split("/")[0]).exists()


def fetched(place: str, files: Sequence[str]) -> Path:
    """A folder of the hub's cache with those of `files` that a repository has.

    Raises:
        HubError: there is no such repository, it may not be read, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    name, revision = split_revision(place)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except RevisionNotFoundError as error:
        raise HubError(f"{name} has no revision {revision!r} on the hub") from error
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise HubError(
            f"{name} is neither a folder here nor a repository on the hub that you may read (`hf auth login` for a "
            "private one)"
        ) from error
    except Exception as error:  # the hub's client raises its HTTP library's own errors, which have no common base
        raise HubError(f"{name} is no folder here, and the hub cannot give it ({_first_line(error)})") from error


def fetched_commit(place: str, files: Sequence[str]) -> str:
    """The commit that a hub id stands for now; raises as `fetched`, whose folders the cache names by it."""
    return fetched(place, files).name


def push(folder: Path, name: str, *, private: bool | None, revision: str | None, message: str, token: Any) -> str:
    """Put the content of a folder into a repository, which is made when missing; `name@commit`.

    Raises:
        HubError: the hub refuses it, or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        commit = api.upload_folder(repo_id=name, folder_path=folder, commit_message=message, revision=revision)
    except Exception as error:  # as in `fetched`
        advice = "`hf auth login` with a token that may write there, or give token"
        raise HubError(f"{name}: the hub has not taken it ({_first_line(error)}); {advice}") from error
    return f"{name}@{commit.oid}"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
