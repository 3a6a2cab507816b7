"""What a model's name means: a folder, a GGUF file, a built-in model, or a hub id. No weights are read.

A hub id stands for whatever its owner last uploaded, so a search finds out once which commit that is, and everything
after that goes by `owner/name@commit`.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from cmp.model.pydoc import resolve
from cmp.space.errors import UserError

GGUF = ".gguf"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_GGUF = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w.-]+)/(?P<file>.+\.gguf)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Place:
    """Where transformers finds a model.

    Args:
        name: a folder or a hub id.
        options: what `from_pretrained` has to be told beside: `revision`, `gguf_file`.
    """

    name: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def gguf_file(self) -> str | None:
        """The file in it that holds model and tokenizer; None where they are the usual files."""
        return self.options.get("gguf_file")


def place_of(model_string: str) -> Place:
    """Where a model is, by the name that a user gives it.

    Raises:
        UserError: a GGUF file, and the package that reads it is missing.
    """
    name, revision = split_revision(model_string)
    folder, gguf_file = _split_gguf(name)
    if gguf_file is not None:
        _require_gguf(name)
        return Place(folder, revision_option(revision) | {"gguf_file": gguf_file})
    return Place(resolve(name), revision_option(revision))


def split_revision(model_string: str) -> tuple[str, str | None]:
    """A hub id, or a GGUF file of one, and the revision behind its "@"; folders and built-in names have none."""
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
    repository, gguf_file = _split_gguf(name)
    path = Path(str(cached_file(repository, gguf_file or "config.json", **revision_option(revision))))
    commits = [part for part in path.parts if _COMMIT.fullmatch(part)]
    return commits[-1] if commits else None


def _may_be_hub_id(name: str) -> bool:
    if name.startswith("pydoc") or Path(name).expanduser().exists():
        return False
    return (_HUB_GGUF if name.endswith(GGUF) else _HUB_ID).fullmatch(name) is not None


def _split_gguf(name: str) -> tuple[str, str | None]:
    """The folder or hub id that a GGUF file is in, and its name there; anything else as it is, and None."""
    if not name.endswith(GGUF):
        return name, None
    path, on_hub = Path(name).expanduser(), _HUB_GGUF.fullmatch(name)
    if on_hub is not None and not path.exists():
        return on_hub["repository"], on_hub["file"]
    return str(path.parent), path.name


def _require_gguf(name: str) -> None:
    from transformers.utils import is_gguf_available

    if not is_gguf_available():
        raise UserError("model_string", f'"{name}" needs the package gguf to be read: pip install gguf')
