"""Weights & Biases and MLflow, through Ray Tune's own integrations. Called by `observers`."""

import os
from typing import Any

from cmp.results.folder import ResultsFolder
from cmp.space.space import Space

# What a trial's messages hold beside numbers.
_NOT_METRICS = ["event", "node", "pid", "job"]


def tracker_callbacks(space: Space, folder: ResultsFolder) -> list[Any]:
    """Ray Tune's own integration of the tracker that the space names.

    Weights & Biases takes its mode and key from the environment (WANDB_MODE=offline writes to the results folder);
    MLflow goes to MLFLOW_TRACKING_URI, or to a database in the results folder.
    """
    if space.search.tracker == "wandb":
        from ray.air.integrations.wandb import WandbLoggerCallback

        return [WandbLoggerCallback(project=space.name, dir=str(folder.path.absolute()), excludes=_NOT_METRICS)]
    if space.search.tracker == "mlflow":
        return [_mlflow(space, folder)]
    return []


def _mlflow(space: Space, folder: ResultsFolder) -> Any:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    address = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder.path.absolute()}/mlflow.db")
    return MLflowLoggerCallback(tracking_uri=address, experiment_name=space.name)
