"""Replace a file in one step, so that a reader sees the old text or the new one, never half of one."""

import os
from pathlib import Path


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write `text` to a temporary neighbour of `path` and rename it.

    Args:
        path: the file to replace; its folder is made when missing.
        text: written as UTF-8.
        durable: also fsync before the rename, for what must survive a crash of the machine.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8", errors="replace") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
