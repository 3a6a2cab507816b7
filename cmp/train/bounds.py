"""The two bounds of a validation slice: the backbone without the context and with all of it.

They depend on nothing that a trial learns, so they are computed once per search and kept as JSON under
`<results>/bounds/`, for all trials and processes. Called by `trial`.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmp.model.backbone import Backbone
from cmp.model.batch import Batch, TokenScores
from cmp.model.loading import dtype_name
from cmp.results.recovered import recovered_fraction
from cmp.space.locks import one_at_a_time
from cmp.space.settings import TrialSettings, Window
from cmp.store import Twin, failed_write_tolerated, write_json
from cmp.train.data.windows import WindowSet
from cmp.train.evaluation import mean_scores_of
from cmp.train.sync import Workers
from cmp.train.views import curve_lengths

Log = Callable[[str], None]


@dataclass(frozen=True)
class Bounds:
    """Losses of the backbone alone, nats per kept target token; `tokens` counts those.

    `plain_curve` has its loss after so many of the context's last tokens, none and all included.
    """

    no_context_loss: float
    full_context_loss: float
    no_context_acc: float
    full_context_acc: float
    tokens: int
    plain_curve: dict[str, float]

    def recovered(self, loss: float) -> float | None:
        """The share of the context's value that `loss` recovers; None where the context itself does not help."""
        return recovered_fraction(self.no_context_loss, self.full_context_loss, loss)


def bounds_key(
    settings: TrialSettings, window: Window, data_fingerprint: str, backbone: Backbone, n_loops: int
) -> dict[str, Any]:
    """Everything that the bounds depend on, and nothing else, as plain JSON.

    The backbone enters by its weights, not its name: two names of one model share their bounds.
    """
    return {
        "backbone": backbone.identity.fingerprint,
        "dtype": dtype_name(backbone.dtype),
        "data": data_fingerprint,
        "window": asdict(window),
        "cmp_len": settings.context_len,
        "seq_len": settings.seq_len,
        "rmb_only": settings.rmb_only,
        "val_batch_size": settings.val_batch_size,
        "val_loops": n_loops,
    }


def shared_bounds(home: Twin, key: dict[str, Any], compute: Callable[[], Bounds], workers: Workers, log: Log) -> Bounds:
    """Read the bounds of `key` from a folder, or compute them once while this machine's other trials wait.

    Machines that share no disk may compute them at the same time; the first to put them on the store is right for all.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    name = f"{digest}.json"
    found = workers.from_leader(_read(home, name, key) if workers.leads else None)
    if found is not None:
        return found
    with _locked(home.path / name) if workers.leads else contextlib.nullcontext():
        found = workers.from_leader(_read(home, name, key) if workers.leads else None)  # computed while we waited
        if found is not None:
            return found
        bounds = compute()
        if workers.leads:
            log(f"bounds: no context {bounds.no_context_loss:.4f}, full context {bounds.full_context_loss:.4f}")
            with failed_write_tolerated(log, f"bounds/{name}"):
                write_json(home.path / name, {"key": key, "bounds": asdict(bounds)})
                home.send_once(name)
                bounds = _read(home, name, key) or bounds
        return workers.from_leader(bounds)


def compute_bounds(
    backbone: Backbone, context_len: int, windows: WindowSet, batches: list[np.ndarray], workers: Workers
) -> Bounds:
    """Score the validation slice with the backbone alone: without context, with all of it, and with its last tokens."""
    lengths = curve_lengths(context_len)

    def scorer(batch: Batch, indices: np.ndarray) -> dict[str, TokenScores]:
        return {str(kept): backbone.score_last_context(batch, kept) for kept in lengths}

    found = mean_scores_of(scorer, list(map(str, lengths)), windows, batches, workers)
    without, full = found["0"], found[str(context_len)]
    curve = {name: scores.loss for name, scores in found.items()}
    return Bounds(without.loss, full.loss, without.accuracy, full.accuracy, full.tokens, curve)


def _read(home: Twin, name: str, key: dict[str, Any]) -> Bounds | None:
    """What the file says of `key`; None where it is missing or torn."""
    try:
        home.fetch(name)
        content = json.loads((home.path / name).read_text(encoding="utf-8"))
        return Bounds(**content["bounds"]) if content["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One computation at a time among all processes; the lock ends with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(path.with_suffix(".lock")):
        yield
