"""What is being waited for before there is a table of trials: nothing is silent for more than a few seconds."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cmp.search.terminal.messages import say

# In a pipe what is over sooner is not worth a line.
PATIENCE_SECONDS = 3.0


@contextmanager
def waiting(console: Console, what: str, *, live: bool = True) -> Iterator[None]:
    """Say what takes so long: in a terminal with the seconds that it takes, elsewhere in a line once it lasts.

    Args:
        console: of the search.
        what: as a person would say it, such as "Starting Ray".
        live: False where what is waited for shows a bar of its own in a terminal.
    """
    if console.is_terminal:
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=console, transient=True, disable=not live) as progress:
            progress.add_task(what, total=None)
            yield
        return
    line = threading.Timer(PATIENCE_SECONDS, say, [console, f"{what} ..."])
    line.daemon = True
    line.start()
    try:
        yield
    finally:
        line.cancel()
