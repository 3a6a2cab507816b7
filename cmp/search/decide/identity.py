"""The start of a session: what is noted of it, and when a folder may not be continued. Called by the ledger."""

import logging
import os
import socket
from collections.abc import Mapping
from typing import Any

from cmp.results.folder import ResultsFolder
from cmp.results.history import History
from cmp.results.journal import Event, JournalError
from cmp.results.provenance import git_commit, hardware, versions
from cmp.results.space_file import write_space_file
from cmp.space.errors import Problem, SpaceError
from cmp.space.space import Space

logger = logging.getLogger(__name__)

_ADVICE = "to go on would mix unlike trials; start over with --fresh, or use another exp_name"


def session_event(
    space: Space, run: int, *, resources: Mapping[str, Any], facts: Mapping[str, str], data: Mapping[str, Any]
) -> Event:
    """The event that opens session number `run`, counted from 1; the rest is as in `Ledger.begin`."""
    search = space.search
    return {
        "event": "session",
        "run": run,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "num_samples": search.num_samples,
        "max_concurrent": search.max_concurrent,
        "time_budget_seconds": search.time_budget_seconds,
        "gpu_hours": search.gpu_hours,
        "resources": dict(resources),
        "facts": dict(facts),
        "data": dict(data),
        "hardware": hardware(),
        "versions": versions(),
        "commit": git_commit(),
        "space": space.to_dict(),
    }


def write_space(folder: ResultsFolder, session: Event) -> None:
    """Write space.yaml for people; the journal has it too, so a full disk is only warned about."""
    try:
        write_space_file(folder.space, session["space"], session["versions"], session["commit"])
    except OSError as error:
        logger.warning("%s could not be written, the search goes on: %s", folder.space, error)


def refuse_another_search(folder: ResultsFolder, history: History, space: Space) -> None:
    """Compare the space with that of the first session; called when the first trial is about to be replayed.

    Raises:
        SpaceError: they differ in what shapes a trial or a decision; every difference is listed.
        JournalError: the journal's space cannot be read.
    """
    if not history.sessions:
        return
    try:
        before = Space.from_dict(history.sessions[0].event["space"])
    except (KeyError, TypeError, ValueError) as error:
        message = f"{folder.journal}: was written by a version that this one cannot continue ({error})"
        raise JournalError(None, f"{message}; use --fresh or another exp_name") from error
    _refuse(folder, space.differences(before))


def noted_facts(history: History) -> dict[str, str]:
    """What the sessions noted of things that the settings only name, each as it was noted first."""
    noted: dict[str, str] = {}
    for session in history.sessions:
        noted = {**session.event["facts"], **noted}
    return noted


def refuse_other_facts(folder: ResultsFolder, history: History, facts: Mapping[str, str]) -> None:
    """Compare fingerprints with the first ones noted, once there are trials.

    Raises:
        SpaceError: a fact differs; every difference is listed.
    """
    before = noted_facts(history)
    changed = [name for name, value in facts.items() if before.get(name, value) != value]
    if history.trials:
        _refuse(folder, [f"{name}: {facts[name]} now, {before[name]} before" for name in changed])


def _refuse(folder: ResultsFolder, differences: list[str]) -> None:
    if differences:
        raise SpaceError([Problem(str(folder), None, None, line) for line in [*differences, _ADVICE]])
