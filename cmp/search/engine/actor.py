"""The process in which trials run: a Ray Tune trainable that is kept warm and runs one trial after another.

Tune calls `step()` for the next message of the trial and answers it by calling `step()` again. The trial itself runs in
a thread of its own, through a `TorchTrainer` in this very process; where it has several workers this is the first of
them, and `crew` has the others. A step never returns anything but a message of the trial: that it started, an epoch's
report, or its outcome, which is always the last. Where the outcome leaves the process unfit for another trial, the step
raises it instead, and Tune ends the process.
"""

import contextlib
import os
import signal
import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ray
from ray import tune
from ray.tune import PlacementGroupFactory
from ray.util.placement_group import get_current_placement_group

from cmp.search.engine.control import LeaveWatch
from cmp.search.engine.crew import Crew, WorkerLostError
from cmp.search.engine.job import TrialJob, placement
from cmp.search.engine.mailbox import Mailbox, Message
from cmp.search.engine.process import end_with_parent, enter
from cmp.search.engine.ray_private import set_process_title
from cmp.search.engine.worker import (
    BLAMELESS,
    failed_message,
    lost_message,
    run_worker,
    started_message,
    this_node,
)

LEAVE_TIMEOUT_SECONDS = 60.0

# What a trial gets to notice by itself that another worker is gone; in a collective on a silent network it never would.
NOTICE_LOSS_SECONDS = 10.0


class SpoiltProcessError(Exception):
    """The trial is over, and so is its process.

    Args:
        outcome: the trial's last message.
    """

    def __init__(self, outcome: Message) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class TrialActor(tune.Trainable):
    """One warm process; Tune hands it trial after trial (`reuse_actors`)."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """What Tune reserves for a trial: room for all of its workers."""
        return placement(config["job"].footprint, config["job"].avoided)

    def setup(self, config: dict[str, Any]) -> None:
        """Start the first trial."""
        # Ctrl-C reaches the whole process group; only the driver decides what it means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_with_parent()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trial")
        self._group = get_current_placement_group() if ray.is_initialized() else None
        self._crew: Crew | None = None
        self._is_spoilt = False
        self._last: Message = {}
        self._begin(config["job"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave the last trial, if it still runs, and start the next one in the same process."""
        self._leave()
        self._begin(new_config["job"])
        return True

    def step(self) -> Message:
        """The next message of the trial; asking for it answers the one before.

        Raises:
            SpoiltProcessError: the message is the trial's outcome, and the process must not run another trial.
        """
        if self._last.get("event") == "reported":
            self._post.answer(self._last["epoch"])
        _set_process_title(self._job, self._last)
        message = self._post.next()
        assert message is not None, "waiting without a limit"
        self._last = message
        if message.get("is_spoilt"):
            self._is_spoilt = True
            raise SpoiltProcessError(message)
        return message

    def cleanup(self) -> None:
        """Let the trial checkpoint and leave before the process ends."""
        if self._is_spoilt:
            os._exit(1)
        self._leave()
        self._thread.shutdown(wait=False)

    def _begin(self, job: TrialJob) -> None:
        self._job = job = job.here()
        self._last = {}
        self._post = Mailbox()
        self._leave_watch = LeaveWatch.of(job.control_key)
        enter(job.directory)
        run = self._run_alone if job.footprint.workers == 1 else self._run_with_crew
        self._run: Future[None] = self._thread.submit(_guarded, run, job, self._post)

    def _leave(self) -> None:
        self._post.stop()
        self._run.result(timeout=LEAVE_TIMEOUT_SECONDS)

    def _run_alone(self, job: TrialJob, post: Mailbox) -> None:
        post.put(run_worker(job, post, self._leave_watch.listener([this_node()])))

    def _run_with_crew(self, job: TrialJob, post: Mailbox) -> None:
        """Rank 0 in this thread, the others in their processes; the first outcome counts."""
        if self._crew is None:
            assert self._group is not None, "several workers need the trial's placement group"
            self._crew = Crew(job.footprint, self._group)
        tasks = self._crew.start(job)
        threading.Thread(target=_watch_for_loss, args=(self._crew, tasks, post), name="crew", daemon=True).start()
        message = run_worker(job, post, self._leave_watch.listener([this_node(), *self._crew.nodes]))
        if message["status"] == "lost":
            message = self._crew.account(tasks) or message
        # After a failure the workers may be at different words of their conversation.
        is_spoilt = message["status"] not in BLAMELESS or not self._crew.is_done(tasks)
        post.put({**message, "is_spoilt": is_spoilt})

    def __repr__(self) -> str:
        """Shown by the Ray dashboard, which asks once: the experiment and the trial that this process began with.

        The process title has the present trial, epoch and val_loss.
        """
        return f"Trials({self._job.name} and later)"


def _watch_for_loss(crew: Crew, tasks: list[Any], post: Mailbox) -> None:
    """End a trial whose first worker waits for one that is gone."""
    lost = crew.wait_for_loss(tasks)
    if lost is not None and not post.wait_for_outcome(NOTICE_LOSS_SECONDS):
        post.put(lost_message(lost.reason, lost.node))


def _guarded(run: Any, job: TrialJob, post: Mailbox) -> None:
    """Run a trial; whatever goes wrong around it becomes its outcome, so that the search goes on."""
    post.put(started_message())
    try:
        run(job, post)
    except WorkerLostError as lost:
        _log(job, f"{lost.reason}\n")
        post.put(lost_message(lost.reason, lost.node))
    except Exception as error:
        _log(job, traceback.format_exc())
        post.put(failed_message(error, is_spoilt=job.footprint.workers > 1))


def _log(job: TrialJob, text: str) -> None:
    job.plan.folder.mkdir(parents=True, exist_ok=True)
    with (job.plan.folder / "log.txt").open("a") as file:
        file.write(text)
    with contextlib.suppress(OSError):
        job.plan.home.briefly.send("log.txt")


def _set_process_title(job: TrialJob, message: Message) -> None:
    """Name the process after its trial and latest loss, for `top` and the dashboard's list of processes."""
    loss = message.get("val_loss")
    suffix = "" if loss is None else f" epoch {message['epoch']} val_loss {loss:.4f}"
    set_process_title(f"ray::Trial {job.name}{suffix}")
