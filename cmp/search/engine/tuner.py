"""Ray Tune, reduced to what it does well: placing trials on a cluster and starting them again when a process dies.

Every decision is the ledger's. The searcher and the scheduler here only translate, and keep the order that the
ledger needs: it writes an event to the journal before Tune acts on it.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig
from ray.tune.callback import Callback
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from cmp.results.folder import trial_label
from cmp.search.decide.ledger import Ledger, Suggested
from cmp.search.engine.actor import TrialActor
from cmp.search.engine.job import TrialJob
from cmp.space.errors import UserError
from cmp.train.session import EpochReport, TrialOutcome

# A trial's process may die this often (killed, machine gone) before the trial counts as failed.
PROCESS_RESTARTS = 3

_REPORT_FIELDS = tuple(field.name for field in fields(EpochReport))

JobFactory = Callable[[Suggested], TrialJob]


@dataclass
class Desk:
    """Where the searcher, the scheduler and the callback meet: the ledger, and which Tune trial is which of ours.

    Args:
        ledger: makes the decisions and journals them.
        job: turns a suggestion into what a process needs.
        on_step: called at every step of Tune's loop, some ten times a second, in the main thread.
        must_end: True once Tune has to end, whatever its trials do.
        say: shows one line to people.
    """

    ledger: Ledger
    job: JobFactory
    on_step: Callable[[], None]
    must_end: Callable[[], bool]
    say: Callable[[str], None]
    numbers: dict[str, int] = field(default_factory=dict)
    error: UserError | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles its searcher, scheduler and callbacks for a restore that never happens here."""
        return {}

    def release_all(self) -> None:
        """Tune is over: what did not end may be put to work again."""
        for number in self.numbers.values():
            self.ledger.release(number)
        self.numbers.clear()

    @contextmanager
    def keeping_error(self) -> Iterator[None]:
        """Keep the ledger's own error: Tune makes a traceback of every exception that passes through it."""
        try:
            yield
        except UserError as error:
            self.error = error
            raise

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial as a config for Tune; None when there is none."""
        with self.keeping_error():
            suggested = self.ledger.next_trial()
        if suggested is None:
            return None
        self.numbers[trial_id] = suggested.number
        return {"trial": suggested.number, **suggested.settings, "job": self.job(suggested)}

    def receive(self, trial_id: str, message: Mapping[str, Any]) -> bool:
        """Hand a message to the ledger; True when the trial should go on."""
        number = self.numbers[trial_id]
        with self.keeping_error():
            if message["event"] == "started":
                self.ledger.started(number, node=message["node"], pid=message["pid"])
                return True
            return self.ledger.report(number, report_metrics(message)) == "continue"

    def close(self, trial_id: str, message: Mapping[str, Any]) -> None:
        """A trial left Tune: by its own outcome, or because the ledger wanted it to."""
        number = self.numbers[trial_id]
        with self.keeping_error():
            if message.get("event") != "outcome":
                self.ledger.release(number)
            elif message["status"] == "worker_died":
                self.ledger.died(number, message["reason"])
            else:
                self.ledger.finish(number, TrialOutcome(message["status"], message["epoch"], message.get("reason")))

    def lose(self, trial_id: str, reason: str) -> None:
        """A trial's process died too often."""
        with self.keeping_error():
            self.ledger.died(self.numbers[trial_id], reason)


def report_metrics(message: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a report. Tune hands nested ones to its scheduler flattened, as "text_curve/16"."""
    metrics = {name: message[name] for name in _REPORT_FIELDS if name in message}
    for key, value in message.items():
        name, _, inner = key.partition("/")
        if inner and name in _REPORT_FIELDS:
            metrics.setdefault(name, {})[inner] = value
    return metrics


class LedgerSearcher(Searcher):
    """Asks the ledger for trials; the search is over when it has none."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """A config, or Tune's word for the end."""
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
        """Tune's turn of the loop: a good moment to look at signals."""
        self._desk.on_step()
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Journal, then continue or stop."""
        goes_on = self._desk.receive(trial.trial_id, result)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """The trial's last message was its outcome, or the ledger's own decision to stop it."""
        self._desk.close(trial.trial_id, result)


class ProcessWatch(Callback):
    """Says when a trial's process died, and journals a trial that died too often."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune starts the trial again; it goes on from its last checkpoint."""
        times = f"{trial.num_failures} of {PROCESS_RESTARTS}"
        number = self._desk.numbers[trial.trial_id]
        self._desk.say(f"trial {number}: {_death(trial)}; starting it again from its last checkpoint ({times})")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune gives up."""
        self._desk.lose(trial.trial_id, f"{_death(trial)}, {PROCESS_RESTARTS + 1} times")


def _death(trial: Trial) -> str:
    """A few words on how a trial's process ended."""
    try:
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, TypeError, EOFError, pickle.UnpicklingError):
        return "its process died"
    if isinstance(error, OutOfMemoryError):
        return "its process was ended because the machine ran out of memory"
    if isinstance(error, NodeDiedError):
        return "its machine is gone"
    if isinstance(error, RayActorError):
        return "its process died (killed or crashed)"
    return f"its process failed ({type(error).__name__}: {str(error).splitlines()[-1][:200]})"


class Deadline(Stopper):
    """Ends the whole search when asked to, however its trials behave."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped by itself."""
        return False

    def stop_all(self) -> bool:
        """True once the deadline has passed."""
        return self._desk.must_end()


def run_tune(
    desk: Desk,
    *,
    max_concurrent: int,
    name: str,
    storage: Path,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Run trials until the ledger has no more, or the desk says that it must end.

    Args:
        desk: the ledger and what goes with it.
        max_concurrent: trials at once.
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
            max_concurrent_trials=max_concurrent,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.config["job"].run_name,
            trial_dirname_creator=lambda trial: f"{trial_label(trial.config['trial'])}-{trial.trial_id}",
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            stop=Deadline(desk),
            verbose=0,
            failure_config=FailureConfig(max_failures=PROCESS_RESTARTS),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            callbacks=[ProcessWatch(desk), *callbacks],
        ),
    )
    try:
        tuner.fit()
    except TuneError:
        if desk.error is not None:
            raise desk.error from None
        raise
