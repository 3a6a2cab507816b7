"""The machines of a search while its trials run: who comes, who goes, and what is waited for. Stepped by `run`."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cmp.search.engine.cluster import Cluster
from cmp.search.engine.roster import Roster

if TYPE_CHECKING:
    from cmp.search.engine.control import Control
    from cmp.search.engine.readiness import Readiness

# A place that is only just being given away is not waited for yet.
WAITING_SECONDS = 3.0


@dataclass
class Machines:
    """The cluster, what is known of its machines, and whether they are ready; one that was started here always is."""

    cluster: Cluster
    roster: Roster
    readiness: "Readiness | None"
    _idle_since: float | None = None

    @property
    def sign(self) -> Path | None:
        """A file that trials must see in the results folder; None where they run on this very machine."""
        return None if self.readiness is None else self.readiness.needs.sign

    def step(self, control: "Control") -> None:
        """Look at the cluster; make ready who joins, and let trials leave who goes."""
        if not self.cluster.is_remote:
            return
        self.roster.look()
        control.ask_on(self.roster.leaving)
        if self.readiness is not None:
            self.readiness.step()

    def show_waiting(self, running: int, status: Callable[[str], None]) -> None:
        """Say what is missing while no trial can run."""
        wanting = None if running else self.roster.wanting()
        if wanting is None:
            if self._idle_since is not None:
                self._idle_since = None
                status("")
            return
        self._idle_since = self._idle_since or time.monotonic()
        if time.monotonic() - self._idle_since > WAITING_SECONDS:
            status(f"{wanting[0].upper()}{wanting[1:]}")
