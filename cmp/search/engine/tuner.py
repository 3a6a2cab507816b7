"""Ray Tune, reduced to what it does well: placing trials on a cluster and passing on what their processes say.

Every decision is the ledger's or the desk's. The searcher, the scheduler and the callback here only translate, and keep
the order that the ledger needs: it writes an event to the journal before Tune acts on it.
"""

import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig
from ray.tune.callback import Callback
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from cmp.results.folder import trial_label
from cmp.search.engine.actor import SpoiltProcessError, TrialActor
from cmp.search.engine.desk import Desk
from cmp.search.engine.environment import last_line
from cmp.search.engine.ray_private import node_of_actor


class LedgerSearcher(Searcher):
    """Asks the ledger for trials; the search is over when it has none."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """A config, None for not now, or Tune's word for the end."""
        if self._desk.is_full():
            self._desk.on_step()  # Tune asks here alone, once a second, while it has no trial at all
            return None
        # Tune compares the whole answer with this word, though its annotation has no room for it.
        finished: Any = Searcher.FINISHED
        return self._desk.suggest(trial_id) or finished

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the scheduler sees every end, the callback every error."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a search is never restored from Tune's files."""


class LedgerScheduler(FIFOScheduler):
    """Passes every message of a trial to the ledger and its decision to Tune."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Tune's turn of the loop: a good moment to look at signals, and for trials of which nothing is heard."""
        self._desk.on_step()
        self._end_silent(tune_controller)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Journal, then continue or stop."""
        goes_on = self._desk.receive(trial.trial_id, result)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """The trial's last message was its outcome, or the ledger's own decision to stop it."""
        self._desk.close(trial.trial_id, result)

    def _end_silent(self, tune_controller: Any) -> None:
        silent = self._desk.silent()
        for trial in tune_controller.get_trials() if silent else ():
            if trial.trial_id in silent:
                self._desk.end_silent(trial.trial_id)
                ray.kill(trial.temporary_state.ray_actor)


class ProcessWatch(Callback):
    """Tells the desk of processes that died. Tune starts none again: the ledger issues the trial anew."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The process is gone, or says that it cannot be used any more."""
        error = _error_of(trial)
        self._desk.roster.look(at_once=True)
        if not isinstance(error, SpoiltProcessError):
            node = node_of_actor(error.actor_id) if isinstance(error, RayActorError) else None
            gone = "node has died" in str(error) or self._is_gone(node)
            return self._desk.lose(trial.trial_id, _death(error, gone=gone), node, blames_node=not gone)
        outcome = error.outcome
        if outcome["status"] != "lost":
            return self._desk.close(trial.trial_id, outcome)
        node = outcome["node_id"]
        return self._desk.lose(trial.trial_id, outcome["reason"], node, blames_node=not self._is_gone(node))

    def _is_gone(self, node: str | None) -> bool:
        return node is not None and node not in self._desk.roster.nodes


def _error_of(trial: Trial) -> BaseException | None:
    try:
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, TypeError, EOFError, pickle.UnpicklingError):
        return None
    return error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, Exception) else error


def _death(error: BaseException | None, *, gone: bool) -> str:
    """A few words on how a trial's process ended."""
    if error is None:
        return "its process died"
    if isinstance(error, OutOfMemoryError):
        return "its process was ended because the machine ran out of memory"
    if gone:
        return "its machine is gone"
    if isinstance(error, RayActorError) and not error.actor_init_failed:
        return "its process died (killed or crashed)"
    return f"its process failed ({type(error).__name__}: {last_line(error)})"


class Deadline(Stopper):
    """Ends the whole search when asked to, however its trials behave."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped by itself."""
        return False

    def stop_all(self) -> bool:
        """True once the deadline has passed, or something has gone wrong for good."""
        return self._desk.error is not None or self._desk.must_end()


def run_tune(
    desk: Desk,
    *,
    name: str,
    storage: Path,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Run trials until the ledger has no more, or the desk says that it must end.

    Args:
        desk: the ledger and what goes with it.
        name: of this session; also the folder of Tune's own state under `storage`.
        storage: an absolute folder for Tune's own state, safe to delete afterwards.
        callbacks: loggers that the user asked for.
    """
    tuner = tune.Tuner(
        TrialActor,
        param_space={},
        tune_config=TuneConfig(
            search_alg=LedgerSearcher(desk),
            scheduler=LedgerScheduler(desk),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.config["job"].run_name,
            trial_dirname_creator=lambda trial: f"{trial_label(trial.config['trial'])}-{trial.trial_id}",
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            stop=Deadline(desk),
            verbose=0,
            failure_config=FailureConfig(max_failures=0),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            callbacks=[ProcessWatch(desk), *callbacks],
        ),
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it counts every process that died as a trial that failed
    try:
        tuner.fit()
    except TuneError:
        if desk.error is None:
            raise
    if desk.error is not None:
        raise desk.error from None
