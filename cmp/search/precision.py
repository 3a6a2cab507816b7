"""Which precision `torch_dtype: auto` is in this search: found out once, before the first trial, and then a fact.

Left to each process, a mixed cluster, or a search that goes on elsewhere, would mix float32 and bfloat16 trials.
"""

from collections.abc import Callable, Mapping
from functools import partial

from cmp.search.engine.footprint import Footprint
from cmp.space.errors import UserError
from cmp.space.space import Space

ASK_TIMEOUT_SECONDS = 600.0  # a cluster that grows when asked takes minutes


def precision_facts(
    space: Space,
    noted: Mapping[str, str],
    footprint: Footprint,
    width: int,
    must_leave: Callable[[], bool],
    avoided: frozenset[str] = frozenset(),
) -> dict[str, str]:
    """`{"torch_dtype": name}`; nothing where the space leaves nothing open, or the user went before it was known.

    Args:
        space: what will be searched.
        noted: facts of earlier sessions: what they settled stays.
        footprint: of a trial: the kind of device it runs on.
        width: of the model.
        must_leave: True once the user wants to go.
        avoided: nodes on which no trial may run.

    Raises:
        UserError: no worker could be asked.
    """
    from cmp.model.loading import auto_precision

    if "auto" not in space.values("torch_dtype"):
        return {}
    found = noted.get("torch_dtype") or auto_precision("cuda" if footprint.gpus_per_worker else "cpu", width)
    found = found or _ask_worker(footprint, width, must_leave, avoided)
    return {} if found is None else {"torch_dtype": found}


def _ask_worker(
    footprint: Footprint, width: int, must_leave: Callable[[], bool], avoided: frozenset[str]
) -> str | None:
    """For a driver without the trials' kind of device; None where the user went meanwhile."""
    from cmp.model.loading import auto_precision
    from cmp.search.engine.task import TaskError, run_task

    try:
        work = partial(auto_precision, width=width)
        answer = run_task(work, footprint, must_leave=must_leave, timeout_seconds=ASK_TIMEOUT_SECONDS, avoided=avoided)
    except TaskError as error:
        raise UserError("torch_dtype", f"auto could not be settled ({error}); name a precision") from error
    if answer is None and not must_leave():
        raise UserError("torch_dtype", "auto could not be settled, because no worker answered; name a precision")
    return answer
