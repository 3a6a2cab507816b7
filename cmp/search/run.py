"""A search from start to end: `search.py` calls `run_search`; everything else here is its phases, in order."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from cmp.objects import StoreError
from cmp.results.folder import ResultsFolder
from cmp.results.mirror import mirrored
from cmp.results.opening import open_results, set_aside
from cmp.search.decide.identity import noted_facts
from cmp.search.decide.ledger import Ledger, Suggested
from cmp.search.engine.cluster import Cluster, RayLostError, connected, require_reachable, set_environment
from cmp.search.engine.footprint import Plan, plan_search
from cmp.search.precision import precision_facts
from cmp.search.preparation import Preparation, prepare, settled
from cmp.search.terminal import messages
from cmp.search.terminal.display import Display
from cmp.search.terminal.signals import InterruptedEarlyError, Interruption
from cmp.space.checks import check_against_cluster
from cmp.space.errors import EXIT_FINISHED, EXIT_INTERRUPTED, EXIT_NO_SUCCESS, UserError, require
from cmp.space.space import Space
from cmp.store import is_disk_full

if TYPE_CHECKING:
    from cmp.search.engine.job import TrialJob

UNCUT_COLUMNS = 10_000

# How often a Ray that was started here is started again when one of its own processes dies before any epoch is done.
RAY_RESTARTS = 3
RAY_LOGS = "/tmp/ray/session_latest/logs"


def run_search(space: Space, *, address: str | None = None, fresh: bool = False, console: Console | None = None) -> int:
    """Search, or go on with a search, until it is over or interrupted.

    Args:
        space: what to search and where results go.
        address: a running Ray cluster; None starts Ray on this machine.
        fresh: move an existing results folder aside and start over.
        console: where to write; standard output by default.

    Returns:
        The exit code: 0 finished, 1 no trial succeeded, 130 interrupted.

    Raises:
        UserError: the folder is in use or holds another search, a setting does not suit the model, the data or the
            machines.
    """
    console = console or standard_output()
    _log_warnings_to(console)
    folder = open_results(space.results_place)
    if fresh and (moved := set_aside(folder)) is not None:
        messages.say(console, f"The old results are now in {moved}.")
        folder = open_results(space.results_place)
    try:
        with folder.lock(), mirrored(folder):
            return _Search(space, folder, console, address).run()
    except StoreError as error:
        raise UserError("save_root", str(error)) from error


def standard_output() -> Console:
    """As wide as the terminal; in a pipe or a file as wide as it takes, so that no table is cut."""
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console.width = UNCUT_COLUMNS
    return console


@dataclass
class _Search:
    """One session on a results folder whose lock is held."""

    space: Space
    folder: ResultsFolder
    console: Console
    address: str | None

    def run(self) -> int:
        """Open the ledger, print results if there is nothing to do, else search."""
        self.folder.clear_stop()
        ledger = Ledger(self.space, self.folder)
        if ledger.resumes and ledger.exhausted and (self._is_scored(ledger) or ledger.history.best() is None):
            return self._end(ledger)
        if ledger.resumes:
            messages.say(self.console, messages.found_line(ledger.history, self.space.search.num_samples))
        interruption = Interruption(self.folder.request_stop, lambda: f"To go on: {messages.same_command()}")
        with interruption:
            try:
                self._search(ledger, interruption)
            except InterruptedEarlyError as signal:
                ledger.interrupt(str(signal))
            except Exception as error:
                if not is_disk_full(error):
                    raise
                text = f"{self.folder.path}: the disk is full; free some space, then: {messages.same_command()}"
                raise UserError(None, text) from error
            return self._end(ledger)

    def _search(self, ledger: Ledger, interruption: Interruption) -> None:
        from cmp.search.observers import require_tracker

        set_environment()
        require_tracker(self.space)
        require_reachable(self.address)
        preparation = prepare(self.space, self.console, noted_facts(ledger.history))
        losses_in_a_row = 0
        while True:
            epochs_before = _epochs(ledger)
            try:
                return self._search_on_ray(ledger, interruption, preparation)
            except RayLostError as lost:
                if interruption.signal is not None:
                    # a batch system ends all processes at once, Ray's own too
                    return ledger.interrupt(interruption.signal)
                losses_in_a_row = 1 if _epochs(ledger) > epochs_before else losses_in_a_row + 1
                if losses_in_a_row > RAY_RESTARTS:
                    times = f"{losses_in_a_row} times in a row; see {RAY_LOGS}"
                    raise UserError(None, f"{lost}, {times}") from None
                messages.say(self.console, f"{lost}; starting Ray again. No finished epoch is lost.")

    def _search_on_ray(self, ledger: Ledger, interruption: Interruption, preparation: Preparation) -> None:
        with connected(self.address, job_name=self.space.name) as cluster:
            interruption.install()
            plan = self._plan(cluster)
            if not ledger.begun:
                noted, leaving = noted_facts(ledger.history), lambda: interruption.requested
                facts = preparation.facts | precision_facts(self.space, noted, plan.footprint, leaving)
                ledger.begin(resources=_record(plan), facts=facts, data=preparation.data.counts)
                self._announce(cluster, plan)
            self._run_trials(ledger, plan, cluster, interruption)

    def _plan(self, cluster: Cluster) -> Plan:
        fixed = self.space.fixed
        plan = plan_search(
            self.space.search,
            self.space.resources,
            cluster.nodes,
            multi_gpu=fixed["multi_gpu"],
            model_parallel=fixed["model_parallel"],
        )
        require(check_against_cluster(self.space, _total(cluster, "gpus"), _total(cluster, "cpus")))
        if plan.max_concurrent == 0:
            raise UserError("resources", plan.reason)
        return plan

    def _announce(self, cluster: Cluster, plan: Plan) -> None:
        messages.say(self.console, f"{plan.max_concurrent} at a time: {plan.reason}.")
        dashboard = messages.dashboard_text(cluster.dashboard, cluster.token_file)
        if dashboard is not None:
            messages.say(self.console, dashboard)

    def _run_trials(self, ledger: Ledger, plan: Plan, cluster: Cluster, interruption: Interruption) -> None:
        from cmp.search.closing import write_examples_of_best
        from cmp.search.engine.tuner import Desk, run_tune
        from cmp.search.final import score_on_test
        from cmp.search.observers import observers

        display = Display(self.space, ledger.history, self.console, max_concurrent=plan.max_concurrent)

        def on_step() -> None:
            if interruption.signal is not None and ledger.history.interrupted_by is None:
                display.status("Leaving: the trials write their checkpoints ...")
                ledger.interrupt(interruption.signal)
            cluster.require_alive()

        jobs = _JobFactory(self.space, self.folder, plan, noted_facts(ledger.history))
        desk = Desk(ledger, jobs, on_step, interruption.overdue, display.say)
        with display, observers(self.space, self.folder, ledger, display.on_event) as callbacks:
            display.status("Starting the trials' processes ...")
            interruption.trials_run(cluster.is_alive)
            try:
                while not ledger.exhausted and not interruption.requested:
                    name = f"session-{len(ledger.history.sessions)}"
                    storage = self.folder.ray.absolute()
                    run_tune(desk, max_concurrent=plan.max_concurrent, name=name, storage=storage, callbacks=callbacks)
                on_step()
            finally:
                interruption.trials_ended()
                desk.release_all()
            if ledger.complete() and ledger.history.best() is not None:
                if not self._is_scored(ledger):
                    display.status("Scoring the best compressors on documents that decided nothing ...")
                    score_on_test(
                        self.folder, self.space, ledger.history, plan.footprint, lambda: interruption.requested
                    )
                display.status("Writing examples of the best compressor ...")
                write_examples_of_best(self.folder, plan.footprint, lambda: interruption.requested)

    def _is_scored(self, ledger: Ledger) -> bool:
        from cmp.results.front import is_scored

        return is_scored(self.folder, self.space, ledger.history)

    def _end(self, ledger: Ledger) -> int:
        """Print what there is and choose the exit code."""
        over = ledger.history.completed or ledger.complete()
        ledger.close()
        if not over:
            messages.print_partial(self.console, self.space, ledger.history, self.folder)
            return EXIT_INTERRUPTED
        messages.print_results(self.console, self.space, ledger.history, self.folder)
        return EXIT_NO_SUCCESS if ledger.history.best() is None else EXIT_FINISHED


@dataclass(frozen=True)
class _JobFactory:
    """Turns a suggestion into what a trial's process needs; paths are absolute: that process may be anywhere."""

    space: Space
    folder: ResultsFolder
    plan: Plan
    facts: dict[str, str]

    def __call__(self, suggested: Suggested) -> "TrialJob":
        from cmp.search.engine.job import TrialJob
        from cmp.train.session import TrialPlan

        return TrialJob(
            plan=TrialPlan(
                number=suggested.number,
                settings=settled(suggested.trial_settings, self.facts),
                window=self.space.window,
                folder=suggested.folder.absolute(),
                role=suggested.role,
                url=self.folder.trial_url(suggested.number),
            ),
            footprint=self.plan.footprint,
            experiment=self.space.name,
            stop_file=self.folder.stop_file.absolute(),
            ray_folder=self.folder.ray.absolute() / "train",
            rungs=frozenset(self.space.rungs),
            directory=Path.cwd(),
            copy=None if self.folder.url is None else self.folder.path.name,
        )


def _epochs(ledger: Ledger) -> int:
    """Epochs that were reported so far: a Ray that gets some done may be started as often as it dies."""
    history = ledger.history
    return sum(len(trial.reports) for trial in [*history.trials.values(), *history.extras.values()])


def _total(cluster: Cluster, resource: str) -> float:
    return sum(getattr(node, resource) for node in cluster.nodes)


def _record(plan: Plan) -> dict[str, object]:
    return {**asdict(plan.footprint), "max_concurrent": plan.max_concurrent}


class _ConsoleHandler(logging.Handler):
    """Warnings of our own packages, one line each, above the live table."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message."""
        messages.print_warning(self._console, record.getMessage())


def _log_warnings_to(console: Console) -> None:
    logger = logging.getLogger("cmp")
    logger.handlers = [_ConsoleHandler(console)]
    logger.propagate = False
