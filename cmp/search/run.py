"""A search from start to end: `search.py` calls `run_search`; everything else here is its phases, in order."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from rich.console import Console

from cmp.objects import StoreError
from cmp.results.folder import ResultsFolder
from cmp.results.journal import Event
from cmp.results.mirror import mirrored
from cmp.results.opening import open_results, set_aside
from cmp.search.decide.identity import noted_facts
from cmp.search.decide.ledger import Ledger, Suggested
from cmp.search.engine.address import cluster_address, require_reachable
from cmp.search.engine.cluster import Cluster, RayLostError, callers_cluster, connected
from cmp.search.engine.environment import set_environment, withheld_names
from cmp.search.engine.footprint import Plan, concurrency
from cmp.search.engine.roster import Roster
from cmp.search.machines import Machines
from cmp.search.planning import plan_for
from cmp.search.precision import precision_facts
from cmp.search.preparation import Preparation, prepare, settled
from cmp.search.requests import RequestWatch
from cmp.search.terminal import messages
from cmp.search.terminal.display import Display
from cmp.search.terminal.signals import InterruptedEarlyError, Interruption
from cmp.search.terminal.waiting import waiting
from cmp.space.errors import (
    EXIT_CLUSTER_LOST,
    EXIT_FINISHED,
    EXIT_INTERRUPTED,
    EXIT_MOSTLY_FAILED,
    EXIT_NO_SUCCESS,
    UserError,
)
from cmp.space.space import Space
from cmp.store import is_disk_full

if TYPE_CHECKING:
    from cmp.search.engine.job import TrialJob
    from cmp.search.engine.readiness import Readiness

OnReport = Callable[[int, Mapping[str, Any]], Any]

UNCUT_COLUMNS = 10_000

# How often a Ray that was started here is started again when one of its own processes dies before any epoch is done.
RAY_RESTARTS = 3
RAY_LOGS = "/tmp/ray/session_latest/logs"

# Printing what there is, where nothing can be waited for any more.
FORCED_END_SECONDS = 10.0


def run_search(
    space: Space,
    *,
    address: str | None = None,
    fresh: bool = False,
    retry_failed: bool = False,
    console: Console | None = None,
    on_report: OnReport | None = None,
    leave: Callable[[int], Any] = os._exit,
) -> int:
    """Search, or go on with a search, until it is over or interrupted.

    Args:
        space: what to search and where results go.
        address: a running Ray cluster; None is what RAY_ADDRESS says, and without that starts Ray on this machine.
            Where this process has joined or started a Ray already, that one is used, and left running.
        fresh: move an existing results folder aside and start over.
        retry_failed: put failed trials back to work.
        console: where to write; standard output by default.
        on_report: called with a trial's number and its metrics after each of its reports.
        leave: ends the process when a second signal comes or trials do not leave in time.

    Returns:
        The exit code: 0 finished, 1 no trial succeeded, 75 Ray is gone, 130 interrupted.

    Raises:
        UserError: the folder is in use or holds another search, a setting does not suit the model, the data or the
            machines.
    """
    console = console or standard_output()
    address = callers_cluster() or cluster_address(address)
    folder = open_results(space.results_place)
    if fresh:
        require_reachable(address)  # before anything is moved
    if fresh and (moved := set_aside(folder)) is not None:
        messages.say(console, f"The old results are now in {moved}.")
        folder = open_results(space.results_place)
    try:
        with _warnings_on(console), folder.lock(), mirrored(folder):
            return _Search(space, folder, console, address, retry_failed, on_report, leave).run()
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
    retry_failed: bool = False
    on_report: OnReport | None = None
    leave: Callable[[int], Any] = os._exit
    exit_code: int = EXIT_INTERRUPTED
    why: str = "Interrupted"

    def run(self) -> int:
        """Open the ledger, print results if there is nothing to do, else search."""
        ledger = Ledger(self.space, self.folder)
        retries = self.retry_failed and ledger.failed()
        is_over = ledger.resumes and ledger.exhausted and not retries
        if is_over and (self._is_scored(ledger) or ledger.history.best() is None):
            return self._end(ledger)
        if ledger.resumes:
            messages.say(self.console, messages.found_line(ledger.history, self.space.search.num_samples))
        interruption = Interruption(lambda: f"To go on: {messages.same_command()}", self.leave)
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
        from cmp.search.engine.desk import HopelessError
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
            except HopelessError as error:
                self.exit_code, self.why = EXIT_NO_SUCCESS, f"Stopped ({error})"
                return ledger.interrupt("failures in a row")
            except RayLostError as lost:
                if interruption.signal is not None:
                    # a batch system ends all processes at once, Ray's own too
                    return ledger.interrupt(interruption.signal)
                if self.address is not None:
                    return self._lose_cluster(ledger, str(lost))
                losses_in_a_row = 1 if _epochs(ledger) > epochs_before else losses_in_a_row + 1
                if losses_in_a_row > RAY_RESTARTS:
                    times = f"{losses_in_a_row} times in a row; see {RAY_LOGS}"
                    raise UserError(None, f"{lost}, {times}") from None
                messages.say(self.console, f"{lost}; starting Ray again. No finished epoch is lost.")

    def _lose_cluster(self, ledger: Ledger, lost: str) -> None:
        self.exit_code, self.why = EXIT_CLUSTER_LOST, f"Stopped ({lost})"
        ledger.interrupt("loss of the cluster")

    def _leave_by_force(self, ledger: Ledger, lost: str) -> None:
        """Leave while the main thread waits for a Ray that is gone; called in another one."""
        late = threading.Timer(FORCED_END_SECONDS, self.leave, [EXIT_CLUSTER_LOST])
        late.daemon = True
        late.start()
        self._lose_cluster(ledger, lost)
        code = self._end(ledger)
        self.console.show_cursor()
        self.console.file.flush()
        self.leave(code)

    def _search_on_ray(self, ledger: Ledger, interruption: Interruption, preparation: Preparation) -> None:
        leave = partial(self._leave_by_force, ledger)
        with ExitStack() as stack:
            with waiting(self.console, "Starting Ray" if self.address is None else "Joining the cluster"):
                cluster = stack.enter_context(connected(self.address, job_name=self.space.name, leave=leave))
            interruption.install()
            plan = plan_for(self.space, cluster.sight())
            roster = Roster(plan.footprint, cluster.sight, self._say)
            roster.look()
            readiness = self._readiness(roster, preparation, stack) if cluster.is_remote else None
            plan = plan_for(self.space, roster.sighting)  # without those that cannot run trials
            roster.footprint = plan.footprint
            if not ledger.begun:
                noted, leaving = noted_facts(ledger.history), lambda: interruption.requested
                width = preparation.model.width
                precision = precision_facts(self.space, noted, plan.footprint, width, leaving, roster.avoided)
                facts = preparation.facts | precision
                ledger.begin(resources=_record(plan), facts=facts, data=preparation.data.counts)
                self._announce(cluster, plan)
                for line in messages.learned_lines(ledger.history):
                    self._say(line)
                if self.retry_failed and (failed := ledger.retry_failed()):
                    self._say(f"Failed trials that are put back to work: {', '.join(map(str, failed))}.")
            self._run_trials(ledger, plan, Machines(cluster, roster, readiness), interruption)

    def _readiness(self, roster: Roster, preparation: Preparation, stack: ExitStack) -> "Readiness":
        """Look at the machines of a cluster, and make them ready, before the first trial."""
        from cmp.search.engine.readiness import Readiness, sign_in

        on_disk = self.folder.url is None
        sign = stack.enter_context(sign_in(self.folder.ray.absolute())) if on_disk else None
        readiness = Readiness(preparation.needs(self.space.window, str(self.folder), sign), roster, self._say)
        readiness.require_all()
        return readiness

    def _announce(self, cluster: Cluster, plan: Plan) -> None:
        self._say(f"{plan.max_concurrent} at a time: {plan.reason}.")
        if cluster.is_remote and (names := withheld_names()):
            self._say(messages.withheld_text(names))
        dashboard = messages.dashboard_text(cluster.dashboard, cluster.token_file)
        if dashboard is not None:
            self._say(dashboard)

    def _say(self, line: str) -> None:
        messages.say(self.console, line)

    def _run_trials(self, ledger: Ledger, plan: Plan, machines: Machines, interruption: Interruption) -> None:
        from cmp.search.closing import write_examples_of_best
        from cmp.search.engine.control import Control
        from cmp.search.engine.desk import Desk
        from cmp.search.engine.tuner import run_tune
        from cmp.search.final import score_on_test
        from cmp.search.observers import observers

        display = Display(
            self.space, ledger.history, self.console, max_concurrent=plan.max_concurrent, clock=ledger.clock
        )
        requests = RequestWatch(self.folder)
        control = Control(f"{self.space.name}-{uuid4().hex}")
        roster = machines.roster
        roster.say = display.say

        def on_step() -> None:
            if interruption.signal is not None and ledger.history.interrupted_by is None:
                display.status("Leaving: the trials write their checkpoints ...")
                ledger.interrupt(interruption.signal)
            for number in requests.answer(ledger):
                display.say(f"trial {number} leaves after its next report, as you asked")
            machines.cluster.require_alive()
            machines.step(control)
            display.slots(limit())
            if not interruption.requested:
                machines.show_waiting(desk.running, display.status)

        def limit() -> int:
            busy = bool(roster.being_readied)
            return concurrency(self.space.search, roster.slots, can_grow=roster.can_grow, being_readied=busy)

        jobs = _JobFactory(
            self.space, self.folder, plan, noted_facts(ledger.history), roster, control.key, machines.sign
        )
        desk = Desk(ledger, jobs, roster, limit, on_step, interruption.overdue, display.say)
        show = partial(_show, display, self.on_report)
        with display, requests, observers(self.space, self.folder, ledger, show) as callbacks:
            display.status("Starting the trials' processes ...")
            interruption.trials_run(machines.cluster.is_alive, control.ask_everybody)
            try:
                while not ledger.exhausted and not interruption.requested:
                    name = f"session-{len(ledger.history.sessions)}"
                    run_tune(desk, name=name, storage=self.folder.ray.absolute(), callbacks=callbacks)
                    if ledger.exhausted and not interruption.requested:
                        desk.fail_held()
                on_step()
            finally:
                interruption.trials_ended()
                desk.release_all()
            control.forget()
            if ledger.complete() and ledger.history.best() is not None:
                leaving, avoided = lambda: interruption.requested, roster.avoided | roster.leaving
                if not self._is_scored(ledger):
                    display.status("Scoring the best compressors on documents that decided nothing ...")
                    score_on_test(self.folder, self.space, ledger.history, plan.footprint, leaving, avoided)
                display.status("Writing examples of the best compressor ...")
                write_examples_of_best(self.folder, plan.footprint, leaving, avoided)

    def _is_scored(self, ledger: Ledger) -> bool:
        from cmp.results.front import is_scored

        return is_scored(self.folder, self.space, ledger.history)

    def _end(self, ledger: Ledger) -> int:
        """Print what there is and choose the exit code."""
        over = ledger.history.completed or ledger.complete()
        ledger.close()
        if not over:
            messages.print_partial(self.console, self.space, ledger.history, self.folder, self.why)
            return self.exit_code
        messages.print_results(self.console, self.space, ledger.history, self.folder)
        if ledger.history.best() is None:
            return EXIT_NO_SUCCESS
        return EXIT_MOSTLY_FAILED if ledger.history.mostly_failed else EXIT_FINISHED


def _show(display: Display, on_report: OnReport | None, event: Event) -> None:
    display.on_event(event)
    if on_report is not None and event["event"] == "reported":
        on_report(event["trial"], event["metrics"])


@dataclass(frozen=True)
class _JobFactory:
    """Turns a suggestion into what a trial's process needs; paths are absolute: that process may be anywhere."""

    space: Space
    folder: ResultsFolder
    plan: Plan
    facts: dict[str, str]
    roster: Roster
    control_key: str
    sign: Path | None

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
            control_key=self.control_key,
            ray_folder=self.folder.ray.absolute() / "train",
            rungs=frozenset(self.space.rungs),
            directory=Path.cwd(),
            copy=None if self.folder.url is None else self.folder.path.name,
            avoided=self.roster.avoided | self.roster.leaving,
            sign=self.sign,
        )


def _epochs(ledger: Ledger) -> int:
    """Epochs that were reported so far: a Ray that gets some done may be started as often as it dies."""
    history = ledger.history
    return sum(len(trial.reports) for trial in [*history.trials.values(), *history.extras.values()])


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


@contextmanager
def _warnings_on(console: Console) -> Iterator[None]:
    """Print warnings of our own packages during a block; a console that prints nothing leaves them to the caller."""
    logger = logging.getLogger("cmp")
    handlers, propagate = logger.handlers, logger.propagate
    if not console.quiet:
        logger.handlers, logger.propagate = [_ConsoleHandler(console)], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
