"""A trial as its process gets it: what to train, what it occupies, where everything is."""

from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import PlacementGroupFactory

from cmp.results.folder import ResultsFolder
from cmp.results.opening import working_copy
from cmp.search.engine.footprint import Footprint

if TYPE_CHECKING:
    from cmp.train.session import TrialPlan

# A trial waits this long for the search's answer at a rung, then goes on regardless: a driver that is stopped or
# slow costs a little work, never a hang.
ANSWER_TIMEOUT_SECONDS = 5.0

# Every node has its id under this label.
NODE_LABEL = "ray.io/node-id"


@dataclass(frozen=True, repr=False)
class TrialJob:
    """All that a process needs to run one trial.

    Args:
        plan: what to train and where its checkpoints are.
        footprint: what the trial occupies.
        experiment: the search's name, for people who look at processes.
        control_key: where the search says that trials should write a checkpoint and leave; see `control`.
        ray_folder: where Ray Train keeps its own files.
        rungs: epochs at which the trial waits for the search's answer, because it may be stopped there.
        directory: where relative paths of the space start.
        copy: where results go to an object store, what each machine calls its copy of them; None on a disk.
        entry: `module:function` that runs a trial.
        avoided: Ray's ids of nodes on which no worker of it should be.
        sign: a file of the results folder that must be there; where it is not, the folder is another.
    """

    plan: "TrialPlan"
    footprint: Footprint
    experiment: str
    control_key: str
    ray_folder: Path
    rungs: frozenset[int] = field(default_factory=frozenset)
    directory: Path | None = None
    copy: str | None = None
    entry: str = "cmp.train.trial:run_trial"
    avoided: frozenset[str] = frozenset()
    sign: Path | None = None

    @property
    def name(self) -> str:
        """Experiment and trial, as people write it."""
        return f"{self.experiment}/{self.plan.folder.name}"

    @property
    def run_name(self) -> str:
        """The same as one word: of the Ray Train run, and of the run in a tracker."""
        return self.name.replace("/", "-")

    def here(self) -> "TrialJob":
        """The same job with folders of the machine that asks, where machines share a store and no disk."""
        if self.copy is None:
            return self
        folder = ResultsFolder(working_copy(self.copy))
        plan = replace(self.plan, folder=folder.trial(self.plan.number))
        return replace(self, plan=plan, ray_folder=folder.ray / "train")

    def run(self, session: Any) -> Any:
        """Run the trial in this process, in its session; returns its outcome."""
        module, function = self.entry.split(":")
        return getattr(import_module(module), function)(self.plan, session)

    def __repr__(self) -> str:
        """Trackers show it among the settings."""
        return self.name


def placement(footprint: Footprint, avoided: frozenset[str] = frozenset()) -> PlacementGroupFactory:
    """Room for all workers of a trial, on any node but those to be avoided; the first worker is Tune's own process."""
    bundles = [worker_resources(footprint)] * footprint.workers
    if not avoided:
        return PlacementGroupFactory(bundles)
    return PlacementGroupFactory(bundles, bundle_label_selector=[elsewhere(avoided)] * footprint.workers)


def elsewhere(avoided: frozenset[str]) -> dict[str, str]:
    """Ray's words for: on none of these nodes."""
    return {NODE_LABEL: f"!in({','.join(sorted(avoided))})"} if avoided else {}


def worker_resources(footprint: Footprint) -> dict[str, float]:
    """What one worker asks Ray for."""
    resources = {"CPU": footprint.cpus_per_worker}
    if footprint.gpus_per_worker:
        resources["GPU"] = footprint.gpus_per_worker
    return resources
