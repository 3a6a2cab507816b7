"""`--test`: a space in miniature, so that its mistakes show in a minute and not after hours of GPU time.

The testing model stands in for the real one; kinds of memory, objectives, data and resources stay as they are.
"""

import dataclasses
from typing import Any

from cmp.space.domains import Choice, Domain, Int, LogInt
from cmp.space.layers import ModelFacts, resolve_layer
from cmp.space.space import Space

TESTING_MODEL = "pydoc-tiny"
_TRIALS = 2
_EPOCHS = 2
_LOOPS = 4
_SEQUENCES_PER_WORKER = 4
_DOCUMENTS = 200


def rehearse(space: Space, facts: ModelFacts | None = None, gpus: float | None = None) -> Space:
    """The miniature of `space`.

    Args:
        space: the real one.
        facts: of the testing model, when known: layers and lengths are then fitted to it, and only where they
            would not fit. Without facts layers other than the first, middle and last are replaced by these.
        gpus: of the machine; with none, what asks for GPUs is rehearsed on CPUs.
    """
    if gpus == 0:
        space = _without_gpus(space)
    workers = space.resources.workers or 1
    fixed: dict[str, Any] = {
        "exp_name": f"{space.name}-test",
        "model_string": space.fixed["testing"] or TESTING_MODEL,
        "revision": None,
        "warm_start": None,  # it is of another model
        "abbrev_len": min(space.fixed["abbrev_len"] or _DOCUMENTS, _DOCUMENTS),
        "n_epochs": _EPOCHS,
        "n_train_loops": _LOOPS,
        "n_grad_loops": min(space.smallest("n_grad_loops"), 2),
        "batch_size": _SEQUENCES_PER_WORKER * workers,
        "val_batch_size": _SEQUENCES_PER_WORKER * workers,
        "max_val_loops": 2,
        "cut": "end" if space.fixed["cut"] == "error" else space.fixed["cut"],  # small vocabularies make long contexts
        "checkpt_mod": 2 if any(space.values("checkpt_mod")) else None,
    }
    searched = {name: domain for name, domain in space.searched.items() if name not in fixed}
    small = dataclasses.replace(space, fixed={**space.fixed, **fixed}, searched=searched)
    small = _fit_layers(small, facts)
    if facts is not None and facts.max_positions is not None:
        small = _fit_lengths(small, facts.max_positions)
    search = dataclasses.replace(
        space.search,
        num_samples=_TRIALS if small.searched else 1,
        grace_period=1,
        startup_trials=min(space.search.startup_trials, 1),
        time_budget_seconds=None,
        gpu_hours=None,
        trial_time_limit_seconds=None,
    )
    return dataclasses.replace(small, search=search, notes=())


def _without_gpus(space: Space) -> Space:
    multi_gpu = space.fixed["multi_gpu"]
    resources = dataclasses.replace(
        space.resources, workers=space.resources.workers or (2 if multi_gpu else None), gpus_per_worker=None
    )
    fixed = {**space.fixed, "multi_gpu": False, "quantization": None}
    return dataclasses.replace(space, fixed=fixed, resources=resources)


def _fit_layers(space: Space, facts: ModelFacts | None) -> Space:
    def fit(layer: Any) -> Any:
        if facts is None:
            return layer if layer in ("half", 1, -1) else (1 if layer > 0 else -1)
        try:
            resolve_layer(layer, facts.n_layers)
        except ValueError:
            return facts.n_layers if layer > 0 else -facts.n_layers
        return layer

    return _with_values(space, "cmp_layer", [fit(layer) for layer in space.values("cmp_layer")])


def _fit_lengths(space: Space, positions: int) -> Space:
    """At most an eighth of the positions is target, a quarter context and a quarter prompt: every layout fits."""
    context, target = positions // 4, positions // 8
    space = _at_most(space, "prompt_len", positions // 4)
    if space.fixed["rmb_only"]:
        space = _at_most(space, "seq_len", context)
        return _at_most(space, "n_cmps", space.smallest("seq_len"))
    if 2 * (space.largest("cmp_len") + space.largest("n_cmps") + space.largest("seq_len")) + 4 > positions:
        space = _at_most(_at_most(space, "cmp_len", context), "seq_len", target)
    return _at_most(space, "n_cmps", space.smallest("cmp_len"))


def _at_most(space: Space, name: str, limit: int) -> Space:
    if space.largest(name) <= limit:
        return space
    return _with_values(space, name, [min(value, limit) for value in space.values(name)])


def _with_values(space: Space, name: str, values: list[Any]) -> Space:
    """The space with `name` drawn from `values`, as a range where they are one, fixed where they are all the same."""
    unique = list(dict.fromkeys(values))
    fixed = {key: value for key, value in space.fixed.items() if key != name}
    searched: dict[str, Domain] = dict(space.searched)
    if name not in searched or len(unique) == 1:
        searched.pop(name, None)
        return dataclasses.replace(space, fixed={**fixed, name: unique[0]}, searched=searched)
    domain = searched[name]
    if isinstance(domain, Int | LogInt) and all(isinstance(value, int) for value in unique):
        low, high = min(unique), max(unique)
        whole = isinstance(domain, LogInt) or (high - low) % domain.step == 0
        searched[name] = dataclasses.replace(domain, low=low, high=high) if whole else Choice(tuple(sorted(unique)))
    else:
        searched[name] = Choice(tuple(unique))
    return dataclasses.replace(space, fixed=fixed, searched=searched)
