"""Who watches a search besides the terminal: the page, Ray's metrics, TensorBoard, Weights & Biases, MLflow."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cmp.results.folder import ResultsFolder
from cmp.search.ledger import Ledger
from cmp.search.metrics import RayMetrics
from cmp.space.space import Space


@contextmanager
def observers(space: Space, folder: ResultsFolder, ledger: Ledger) -> Iterator[list[Any]]:
    """Subscribe all of them to the ledger; gives the callbacks that Ray Tune has to call itself."""
    ledger.subscribe(RayMetrics(space.name, ledger.history).on_event)
    yield []
