"""Whether the machines of a cluster can run trials: asked before the first one, and of each machine that joins later.

A machine that does not see the results folder is a mistake in the set-up, and ends the search before it has begun; one
that lacks the model gets no trials, and the others go on. Where the data root is not shared, a task tokenizes the data
on each machine, once, so that no trial does it while its GPU waits.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cmp.search.engine.environment import last_line
from cmp.search.engine.footprint import Footprint, Node, worker_slots
from cmp.search.engine.probe import Findings, Needs, look, prepare
from cmp.search.engine.roster import Roster
from cmp.space.errors import UserError

LOOK_TIMEOUT_SECONDS = 120.0
PAUSE_SECONDS = 0.2


@dataclass
class _Errand:
    """A task on a machine."""

    node: Node
    task: Any
    began: float


@dataclass
class Readiness:
    """Looks at machines and prepares them.

    Args:
        needs: what trials need.
        roster: gets to know who is not ready, and why.
        say: shows one line to people.
        clock: seconds that never go back.
    """

    needs: Needs
    roster: Roster
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _looks: list[_Errand] = field(default_factory=list)
    _preparations: list[_Errand] = field(default_factory=list)
    _blind: list[str] = field(default_factory=list)

    def require_all(self) -> None:
        """Look at all machines that could run trials, and wait until they are ready.

        Raises:
            UserError: one of them does not see the results folder, or none can run trials.
        """
        roster = self.roster
        candidates = self._able(roster.usable)
        for node in candidates:
            self._begin(node)
        while self._looks:
            self._take_findings()
            time.sleep(PAUSE_SECONDS)
        self._require_shared()
        while self._preparations:
            self._take_preparations()
            time.sleep(PAUSE_SECONDS)
        if candidates and not self._able(roster.usable):
            reasons = "; ".join(f"node {roster.name(key)}: {why}" for key, why in roster.reasons.items())
            raise UserError("--address", f"no machine of the cluster can run trials: {reasons}")

    def survey(self) -> list[str]:
        """Look at all machines, prepare none, and say for each how many trials it would run, and what it lacks.

        Raises:
            UserError: one of them does not see the results folder.
        """
        nodes, footprint = self.roster.nodes, self.roster.footprint
        remarks = {
            key: f"{_trials(worker_slots(footprint, [node]), footprint)} ({node})" for key, node in nodes.items()
        }
        for node in self._able(nodes.values()):
            self._begin(node)
        while self._looks:
            for errand, findings, trouble in self._finished(self._looks, LOOK_TIMEOUT_SECONDS):
                key = errand.node.key
                if (lack := _lack(findings, trouble)) is not None:
                    remarks[key] = f"no trials: {lack}"
                elif not findings.sees_results:
                    self._blind.append(key)
                elif not findings.has_tokens:
                    remarks[key] += ", once the data have been tokenized there"
            time.sleep(PAUSE_SECONDS)
        self._require_shared()
        return [f"{self.roster.name(key)}: {remark}" for key, remark in remarks.items()]

    def step(self) -> None:
        """Go on with machines that have joined; one that does not see the results folder gets no trials."""
        for node in self._able(self.roster.take_joined()):
            self._begin(node)
        self._take_findings()
        for key in self._blind:
            self.roster.avoid(key, f"{self.needs.results} is not shared with it")
        self._blind.clear()
        self._take_preparations()

    def _able(self, nodes: Iterable[Node]) -> list[Node]:
        """Those with room for a worker."""
        return [node for node in nodes if worker_slots(self.roster.footprint, [node])]

    def _require_shared(self) -> None:
        if self._blind:
            names = ", ".join(self.roster.name(key) for key in self._blind)
            raise UserError(
                "save_root",
                f"{self.needs.results} here is not the same folder on {names}; mount it on all machines under this "
                "path, use an object store, or stop Ray on machines that should not take part",
            )

    def _begin(self, node: Node) -> None:
        self.roster.unready.add(node.key)
        self._looks.append(_Errand(node, _on(node, look, self.needs), self.clock()))

    def _take_findings(self) -> None:
        for errand, findings, trouble in self._finished(self._looks, LOOK_TIMEOUT_SECONDS):
            key = errand.node.key
            if trouble is None and not findings.sees_results:
                self._blind.append(key)
                self._end(key, None)
            elif (lack := _lack(findings, trouble)) is not None or findings.has_tokens:
                self._end(key, lack)
            else:
                self.say(f"Tokenizing the data on node {self.roster.name(key)}, which does not share data_root ...")
                self._preparations.append(_Errand(errand.node, _on(errand.node, prepare, self.needs), self.clock()))

    def _take_preparations(self) -> None:
        for errand, wrong, trouble in self._finished(self._preparations, float("inf")):
            self._end(errand.node.key, wrong if trouble is None else f"its data could not be prepared ({trouble})")

    def _end(self, key: str, lack: str | None) -> None:
        self.roster.unready.discard(key)
        if lack is not None:
            self.roster.avoid(key, lack)

    def _finished(self, errands: list[_Errand], timeout_seconds: float) -> Iterator[tuple[_Errand, Any, str | None]]:
        """Errands that came to an end since the last time: with what they brought, or with what went wrong."""
        for errand in list(errands):
            done, _ = ray.wait([errand.task], timeout=0)
            if not done and self.clock() - errand.began <= timeout_seconds:
                continue
            errands.remove(errand)
            if not done:
                ray.cancel(errand.task, force=True)
                yield errand, None, f"no answer for {timeout_seconds:.0f} s"
                continue
            try:
                yield errand, ray.get(errand.task), None
            except TaskUnschedulableError:
                yield errand, None, "it cannot be reached"
            except RayError as error:
                yield errand, None, last_line(error)


def _on(node: Node, function: Callable[[Needs], Any], needs: Needs) -> Any:
    """Run a function on one machine; it needs no CPU, so that it can while trials run."""
    place = NodeAffinitySchedulingStrategy(node.key, soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=place).remote(needs)


def _trials(slots: int, footprint: Footprint) -> str:
    if footprint.workers > 1:
        return f"up to {slots} of a trial's {footprint.workers} workers" if slots else "no worker"
    return f"{slots} at once" if slots else "no trials"


def _lack(findings: Findings, trouble: str | None) -> str | None:
    """What keeps trials from running on a machine, but for the results folder; where a look failed, that."""
    return findings.lack if trouble is None else f"nothing runs there ({trouble})"


@contextmanager
def sign_in(folder: Path) -> Iterator[Path]:
    """Write a file of a name that was never there, for other machines to look for; removed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    sign = folder / f"here-{uuid4().hex}"
    sign.touch()
    try:
        yield sign
    finally:
        sign.unlink(missing_ok=True)
