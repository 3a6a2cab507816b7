"""A `TorchTrainer` for a process that is a worker already. Imported only in a trial's process: it imports torch."""

from typing import Any

from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from cmp.search.engine.job import TrialJob
from cmp.search.engine.ray_private import local_controller


class InProcessTrainer(TorchTrainer):
    """Runs the loop in this process, as `num_workers=0` asks for, and leaves the process group as it found it.

    Ray's own would end the group after each trial, and the next one would pay for a new one.
    """

    def _get_local_controller(self) -> Any:
        return local_controller(self.run_config.name)


def run_in_trainer(job: TrialJob, session: Any) -> Any:
    """Run the job in its session; returns the trial's outcome."""
    outcomes: list[Any] = []
    InProcessTrainer(
        lambda: outcomes.append(job.run(session)),
        scaling_config=ScalingConfig(num_workers=0, use_gpu=job.footprint.gpus_per_worker > 0),
        run_config=RunConfig(name=job.run_name, storage_path=str(job.ray_folder.absolute())),
    ).fit()
    return outcomes[0]
