"""What each process of a search does first: where relative paths start, and when to end. Imports nothing heavy."""

import os
import threading
import time
from pathlib import Path

PARENT_PERIOD_SECONDS = 0.5


def enter(directory: Path | None) -> None:
    """Resolve relative paths as the driver does, where this machine has its directory."""
    if directory is not None and directory.is_dir():
        os.chdir(directory)


def end_with_parent() -> None:
    """End this process when its node manager dies: Ray takes half a minute, and a search may be back before that."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_PERIOD_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
