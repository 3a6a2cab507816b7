"""The demo's text: Python's own documentation, on every machine without a download. Called by `pydoc` and `train.data`.

The language reference's topics (`pydoc_data.topics`) and, for each module of the standard library, its docstring and
those of its classes and functions under their full names and signatures, as `help()` shows them. About 2.4 MB in 390
documents. Read from the sources with `ast`: no module is imported, so none can have side effects.
"""

import ast
import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal

from filelock import FileLock

from cmp.space.cache_root import cache_root
from cmp.space.errors import UserError

FORMAT = 2  # raise when the text or the split changes
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3", "__pycache__"}
SMALLEST_DOCUMENT_CHARACTERS = 600
SMALLEST_TEXT_CHARACTERS = 500_000
HELD_OUT_PART = 10  # one document in this many is for validation, and one for test

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def documents(split: Split | None = None) -> list[str]:
    """The documents of a split, or of all, in an order that does not change.

    Which are held out depends on their names alone, so it is the same in every version of Python. The backbone is never
    trained on them.

    Raises:
        UserError: this Python was installed without its sources.
    """
    texts = _texts()
    return texts[split] if split else [text for name in SPLITS for text in texts[name]]


def documents_fingerprint() -> str:
    """Hash of all documents and their split."""
    return hashlib.sha256(json.dumps(_texts()).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _texts() -> dict[str, list[str]]:
    """All splits; extracted once for each Python (it takes about 2 seconds), then kept as a file."""
    library = Path(sysconfig.get_paths()["stdlib"])
    python = hashlib.sha256(f"{FORMAT} {sys.version} {library}".encode()).hexdigest()[:16]
    path = cache_root() / "pydoc" / f"text-{python}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(_extract(library)), encoding="utf-8")
            partial.replace(path)
    texts: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return texts


def _extract(library: Path) -> dict[str, list[str]]:
    named = sorted([*_topics(), *_modules(library)])
    if sum(len(text) for _, text in named) < SMALLEST_TEXT_CHARACTERS:
        raise UserError("dataset", f"pydoc: this Python comes without the sources of its library ({library})")
    return {split: [text for name, text in named if _split_of(name) == split] for split in SPLITS}


def _split_of(name: str) -> Split:
    """By name; of the ten parts these two are the nearest to a tenth of the documents."""
    held_out: dict[int, Split] = {0: "validation", 5: "test"}
    return held_out.get(int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_PART, "train")


def _topics() -> Iterator[tuple[str, str]]:
    """Names and texts of the language reference; some installations leave it out."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return
    for name, text in topics.items():
        if len(text) >= SMALLEST_DOCUMENT_CHARACTERS:
            yield f"topic {name}", text


def _modules(library: Path) -> Iterator[tuple[str, str]]:
    """Names and texts of the modules. A docstring that an earlier module has (inherited, copied) is left out."""
    seen: set[str] = set()
    for file in sorted(library.rglob("*.py")):
        parts = file.relative_to(library).with_suffix("").parts
        if SKIPPED_FOLDERS & set(parts):
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):  # some installations carry broken files on purpose, as test data
            continue
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = "\n\n".join(_entries(tree, module, seen))
        if len(text) >= SMALLEST_DOCUMENT_CHARACTERS:
            yield module, text


def _entries(tree: ast.Module, module: str, seen: set[str]) -> Iterator[str]:
    if text := _new_docstring(tree, seen):
        yield f"{module}\n\n{text}"
    for heading, node in _members(tree, module):
        if text := _new_docstring(node, seen):
            yield f"{heading}\n    " + text.replace("\n", "\n    ")


def _new_docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, seen: set[str]
) -> str | None:
    text = ast.get_docstring(node)
    if text is None or text in seen:
        return None
    seen.add(text)
    return text


def _members(
    parent: ast.Module | ast.ClassDef, name: str
) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Classes and functions with the line that heads each, members of classes included."""
    for node in parent.body:
        if isinstance(node, ast.ClassDef):
            yield f"class {name}.{node.name}", node
            yield from _members(node, f"{name}.{node.name}")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name}.{node.name}({ast.unparse(node.args)})", node
