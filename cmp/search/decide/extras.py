"""Trials that a search measures with instead of choosing from: the text control, and finalists under other seeds.

Pure functions of space and history. Called by the ledger; neither the sampler nor ASHA ever sees these trials.
"""

import dataclasses
from typing import Any

from cmp.results.history import CONTROL, NOTHING_COMPRESSED, History, TrialRecord
from cmp.search.decide.sampler import value_at
from cmp.space.settings import TrialSettings
from cmp.space.space import Space

# Of these a control gets the most that a trial can have: it must be able to adapt the model as well as any of them.
_CAPACITY = ("n_cmps", "lora_rank", "proj_hid_mult", "n_epochs", "n_train_loops", "batch_size", "cmp_len")
SEEDS_OF_FINALISTS = (1, 2)
"""Added to a trial's own seed."""


def wants_control(space: Space) -> bool:
    """Whether a text control is trained: with `rmb_only` there is nothing that text could stand in for."""
    return space.search.control and not space.fixed["rmb_only"]


def control_sample(space: Space) -> dict[str, Any]:
    """The control's values of the searched settings: the most capacity, the middle of everything else."""
    return {name: _control_value(space, name) for name in space.searched}


def extra_settings(space: Space, trial: TrialRecord) -> TrialSettings:
    """All settings of an extra trial."""
    settings = space.trial_settings(trial.settings)
    if trial.role == "control":
        return dataclasses.replace(settings, **NOTHING_COMPRESSED)
    assert trial.seed is not None, "a finalist is suggested with its seed"
    return dataclasses.replace(settings, seed=trial.seed)


def next_finalist(space: Space, history: History) -> dict[str, Any] | None:
    """The event that suggests the next finalist under another seed; None when all have been.

    Finalists are the `search.confirm` trials with the lowest val_loss, once every trial of the search has ended.
    """
    finalists = [trial for trial in history.ranked() if trial.val_loss is not None and trial.status != "failed"]
    known = {(trial.of, trial.seed) for trial in history.extras.values()}
    for step in SEEDS_OF_FINALISTS:
        for trial in finalists[: space.search.confirm]:
            seed = int(trial.settings.get("seed", space.fixed.get("seed", 0))) + step
            if (trial.number, seed) not in known:
                number = min([CONTROL, *history.extras]) - 1
                role = {"role": "confirm", "of": trial.number, "seed": seed}
                return {"event": "suggested", "trial": number, **role, "settings": dict(trial.settings)}
    return None


def _control_value(space: Space, name: str) -> Any:
    domain = space.searched[name]
    if name in _CAPACITY:
        return space.largest(name)
    if name == "cmp_layer":
        return max(space.values(name), key=_depth)
    if name == "memory":
        return "kv" if "kv" in space.values(name) else space.values(name)[0]
    return value_at(domain, 0.5)


def _depth(layer: int | str) -> tuple[int, int]:
    """Orders layers without knowing how many there are: those counted from the end are deepest."""
    if layer == "half":
        return 1, 0
    assert isinstance(layer, int)
    return (2, layer) if layer < 0 else (0, layer)
