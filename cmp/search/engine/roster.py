"""The machines of a search while it runs: which are there, which went or are about to go, which get no more trials.

Looked at in every step of the search, asked of Ray at most once a second. `desk` tells it of faults, and takes from it
where a trial must not go; the display shows what it says.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cmp.search.engine.footprint import Footprint, Node, missing_resources, worker_slots

LOOK_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Sighting:
    """What Ray says at one moment.

    Args:
        nodes: all that are alive.
        leaving: ids of those that were told to go (a spot notice, an autoscaler that makes the cluster smaller).
        can_grow: an autoscaler starts machines for what waits.
    """

    nodes: tuple[Node, ...]
    leaving: frozenset[str] = frozenset()
    can_grow: bool = False


@dataclass
class Roster:
    """The machines, by Ray's id.

    Args:
        footprint: of a trial.
        sight: asks Ray.
        say: shows one line to people.
        clock: seconds that never go back.
    """

    footprint: Footprint
    sight: Callable[[], Sighting]
    say: Callable[[str], None] = lambda line: None
    clock: Callable[[], float] = time.monotonic
    nodes: dict[str, Node] = field(default_factory=dict)
    leaving: frozenset[str] = frozenset()
    gone: dict[str, Node] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    unready: set[str] = field(default_factory=set)
    can_grow: bool = False
    _joined: list[Node] = field(default_factory=list)
    _looked: float | None = None

    def look(self, *, at_once: bool = False) -> bool:
        """Ask Ray, if it is time to; True when something has changed."""
        now = self.clock()
        if not at_once and self._looked is not None and now - self._looked < LOOK_EVERY_SECONDS:
            return False
        is_first, self._looked = self._looked is None, now
        return self._take(self.sight(), is_first)

    @property
    def usable(self) -> tuple[Node, ...]:
        """Machines that may get trials."""
        return tuple(node for key, node in self.nodes.items() if key not in self.avoided and key not in self.leaving)

    @property
    def sighting(self) -> Sighting:
        """What was seen last, without machines that get no trials."""
        return Sighting(self.usable, self.leaving, self.can_grow)

    @property
    def avoided(self) -> frozenset[str]:
        """Machines that are there and get no trials now."""
        return (frozenset(self.nodes) & frozenset(self.reasons)) | self.being_readied

    @property
    def being_readied(self) -> frozenset[str]:
        """Machines that are there, but are still being looked at or made ready."""
        return frozenset(self.nodes) & self.unready

    def avoid(self, key: str, reason: str) -> None:
        """Give this machine no more trials; said once, by name."""
        if key not in self.reasons and key in self.nodes:
            self.reasons[key] = reason
            self.say(f"node {self.name(key)} gets no more trials: {reason}")

    def acquit(self, keys: Iterable[str]) -> None:
        """What happened on these machines was not their fault."""
        for key in keys:
            if self.reasons.pop(key, None) is not None and key in self.nodes:
                self.say(f"node {self.name(key)} gets trials again: the same happens elsewhere")

    def take_joined(self) -> list[Node]:
        """Machines that joined since the last time."""
        joined, self._joined = self._joined, []
        return joined

    def has_other(self, key: str | None) -> bool:
        """Could a trial run without this machine?"""
        return missing_resources(self.footprint, [node for node in self.usable if node.key != key]) is None

    def name(self, key: str) -> str:
        """What people call it; its id where several have the same name."""
        everybody = {**self.gone, **self.nodes}
        node = everybody.get(key)
        if node is None:
            return key[:8]
        same = sum(other.name == node.name for other in everybody.values())
        return node.name if same == 1 else f"{node.name} ({key[:8]})"

    @property
    def slots(self) -> int:
        """Trials that fit at once."""
        return worker_slots(self.footprint, self.usable) // self.footprint.workers

    def wanting(self) -> str | None:
        """What is missing for a single trial, and why; None where one could run."""
        missing = missing_resources(self.footprint, self.usable)
        if not missing:
            return None
        reasons = [f"node {self.name(key)} is gone" for key in self.gone]
        reasons += [f"node {self.name(key)} is about to go" for key in self.leaving & set(self.nodes)]
        reasons += [f"node {self.name(key)} is being made ready" for key in self.being_readied]
        reasons += [
            f"node {self.name(key)} gets no trials ({why})" for key, why in self.reasons.items() if key in self.nodes
        ]
        because = f": {', '.join(reasons)}" if reasons else ""
        return f"waiting for {missing}{because}"

    def _take(self, sighting: Sighting, is_first: bool) -> bool:
        now = {node.key: node for node in sighting.nodes}
        came = [node for key, node in now.items() if key not in self.nodes]
        went = [node for key, node in self.nodes.items() if key not in now]
        going = sighting.leaving - self.leaving
        changed = bool(came or went or sighting.leaving != self.leaving or now != self.nodes)
        self.nodes, self.leaving, self.can_grow = now, sighting.leaving, sighting.can_grow
        for node in went:
            self.gone[node.key] = node
            self.say(f"node {self.name(node.key)} is gone")
        if not is_first:
            for node in came:
                self._welcome(node)
        for key in going & set(now):
            self.say(f"node {self.name(key)} is about to go: its trials write checkpoints and move")
        return changed

    def _welcome(self, node: Node) -> None:
        """Somebody new; a machine that comes back under its old name is not missed any more."""
        back = [key for key, old in self.gone.items() if old.name == node.name]
        for key in back[:1]:
            del self.gone[key]
        self._joined.append(node)
        self.say(f"node {self.name(node.key)} {'is back' if back else 'joined'}: {node}")


def nodes_of(rows: Iterable[Mapping[str, Any]]) -> tuple[Node, ...]:
    """The living nodes in Ray's own table."""
    return tuple(_node(row) for row in rows if row["Alive"])


def _node(row: Mapping[str, Any]) -> Node:
    """A node is called by the name it was started with, else by its host's."""
    address, given, host = row["NodeManagerAddress"], row["NodeName"], row["NodeManagerHostname"]
    name = given if given not in ("", address) else f"{host} ({address})"
    resources = row["Resources"]
    return Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0), key=row["NodeID"], name=name)
