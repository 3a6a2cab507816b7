"""A `TorchTrainer` that starts no process for Ray Data. Imported only where a group of workers is started."""

from typing import Any

from ray.train.torch import TorchTrainer

from cmp.search.engine.ray_private import datasets_callback


class GroupTrainer(TorchTrainer):
    """Without Ray Data's manager: an actor that serves data sets, and there are none. The workers would wait for it.

    It costs every group 1.2 s of CPU time and its workers about 2 s, on two cores.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # annotated as Ray Train v1
        return [callback for callback in callbacks if not isinstance(callback, datasets_callback())]
