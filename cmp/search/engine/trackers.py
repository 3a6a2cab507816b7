"""Weights & Biases and MLflow, through Ray Tune's own integrations. Called by `observers`."""

import os
from collections.abc import Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback

from cmp.results.folder import ResultsFolder
from cmp.results.history import CONTROL, History
from cmp.space.space import Space

# What a trial's messages hold beside numbers.
_NOT_METRICS = ["event", "node", "pid", "job"]


class Measure:
    """Adds what a trial's result is worth in plain text, as the journal's history knows it, to what a tracker gets.

    Results that come before the text control is done have no worth: a tracker's rows cannot be written again.
    """

    def __init__(self, history: History) -> None:
        self._history: History | None = history

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles its callbacks for a restore that never happens here."""
        return {}

    def __call__(self, number: int, result: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a trial with three more columns, where they are known."""
        worth = None if number == CONTROL or self._history is None else self._history.worth_of(result)
        return {**result, **({} if worth is None else worth.columns)}


class _Measured(LoggerCallback):
    """Before the tracker's own callback in the order of classes."""

    measure: Measure

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Hand on a result with its worth."""
        super().log_trial_result(iteration, trial, self.measure(trial.config["trial"], result))


def tracker_callbacks(space: Space, folder: ResultsFolder, history: History) -> list[Any]:
    """Ray Tune's own integration of the tracker that the space names; nested numbers arrive as "nested/4".

    Weights & Biases takes its mode and key from the environment (WANDB_MODE=offline writes to the results folder);
    MLflow goes to MLFLOW_TRACKING_URI, or to a database in the results folder.
    """
    makers = {"wandb": _wandb, "mlflow": _mlflow}
    if space.search.tracker is None:
        return []
    callback = makers[space.search.tracker](space, folder)
    callback.measure = Measure(history)
    return [callback]


def _wandb(space: Space, folder: ResultsFolder) -> _Measured:
    """Ray's integration, without the key in a runtime environment, where everybody on the cluster could read it.

    Its processes on the driver's machine are children of Ray's, not of the driver: what is set for W&B here they get as
    an argument.
    """
    from ray.air.integrations import wandb

    class Logger(wandb._WandbLoggingActor):
        def __init__(self, *args: Any, variables: dict[str, str], **settings: Any) -> None:
            os.environ.update(variables)
            super().__init__(*args, **settings)

    class Wandb(_Measured, wandb.WandbLoggerCallback):
        _logger_actor_cls = Logger

        def _start_logging_actor(self, trial: Any, exclude_results: list[str], **settings: Any) -> None:
            variables = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
            key = os.environ.pop(wandb.WANDB_ENV_VAR, None)
            try:
                super()._start_logging_actor(trial, exclude_results, variables=variables, **settings)
            finally:
                os.environ.update({} if key is None else {wandb.WANDB_ENV_VAR: key})

    return Wandb(project=space.name, dir=str(folder.path.absolute()), excludes=_NOT_METRICS)


def _mlflow(space: Space, folder: ResultsFolder) -> _Measured:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class MLflow(_Measured, MLflowLoggerCallback):
        pass

    address = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder.path.absolute()}/mlflow.db")
    return MLflow(tracking_uri=address, experiment_name=space.name)
