"""The process in which trials run: a Ray Tune trainable that is kept warm and runs one trial after another.

Tune calls `step()` for the next message of the trial and answers it by calling `step()` again. The trial itself
runs in a thread of its own, through a `TorchTrainer`: in this very process when it has one worker, in a worker group
when it has several. A step never returns anything but a message of the trial: that it started, an epoch's report, or
its outcome, which is always the last.
"""

import contextlib
import os
import signal
import socket
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from ray import tune
from ray.tune import PlacementGroupFactory

from cmp.search.engine.job import TrialJob, enter, placement, worker_resources
from cmp.search.engine.mailbox import Mailbox, Message, RemoteMailbox
from cmp.search.engine.ray_private import set_process_title

LEAVE_TIMEOUT_SECONDS = 60.0
PARENT_PERIOD_SECONDS = 0.5
WORKER_RESTARTS = 3


class TrialActor(tune.Trainable):
    """One warm process; Tune hands it trial after trial (`reuse_actors`)."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """What Tune reserves for a trial."""
        return placement(config["job"].footprint)

    def setup(self, config: dict[str, Any]) -> None:
        """Start the first trial."""
        # Ctrl-C reaches the whole process group; only the driver decides what it means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_with_parent()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trial")
        self._shared_mailbox: RemoteMailbox | None = None
        self._last: Message = {}
        self._begin(config["job"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave the last trial, if it still runs, and start the next one in the same process."""
        self._leave()
        self._begin(new_config["job"])
        return True

    def step(self) -> Message:
        """The next message of the trial; asking for it answers the one before."""
        if self._last.get("event") == "reported":
            self._post.answer(self._last["epoch"])
        _set_process_title(self._job, self._last)
        self._last = self._post.next()
        return self._last

    def cleanup(self) -> None:
        """Let the trial checkpoint and leave before the process ends."""
        self._leave()
        self._thread.shutdown(wait=False)

    def _begin(self, job: TrialJob) -> None:
        self._job = job = job.here()
        self._last = {}
        enter(job.directory)
        self._post: Any = Mailbox() if job.footprint.workers == 1 else self._open_shared_mailbox()
        run = _run_here if job.footprint.workers == 1 else _run_in_group
        self._run: Future[None] = self._thread.submit(_guarded, run, job, self._post)

    def _open_shared_mailbox(self) -> RemoteMailbox:
        if self._shared_mailbox is None:
            self._shared_mailbox = RemoteMailbox.start()  # empty; nobody waits here while its process starts
        else:
            self._shared_mailbox.reopen()
        return self._shared_mailbox

    def _leave(self) -> None:
        self._post.stop()
        self._run.result(timeout=LEAVE_TIMEOUT_SECONDS)

    def __repr__(self) -> str:
        """Shown by the Ray dashboard, which asks once: the experiment and the trial that this process began with.

        The process title has the present trial, epoch and val_loss.
        """
        return f"Trials({self._job.name} and later)"


def _guarded(run: Any, job: TrialJob, post: Any) -> None:
    """Run a trial; whatever goes wrong around it becomes its outcome, so that the search goes on."""
    try:
        run(job, post)
    except Exception as error:
        _log(job, traceback.format_exc())
        kind = "worker_died" if _worker_died(error) else "failed"
        reason = f"{type(error).__name__}: {_first_line(error)}"
        post.put({"event": "outcome", "status": kind, "epoch": 0, "reason": reason, "done": True})


def _worker_died(error: Exception) -> bool:
    from ray.train import TrainingFailedError

    return isinstance(error, TrainingFailedError)


def _put_started(post: Any) -> None:
    post.put({"event": "started", "node": socket.gethostname(), "pid": os.getpid(), "done": False})


def _run_here(job: TrialJob, post: Mailbox) -> None:
    """One worker: TorchTrainer's local mode runs the loop in this thread, with all that is warm in this process."""
    _put_started(post)
    import torch
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from cmp.search.engine.ray_session import local_session

    def loop() -> None:
        session = local_session(job, post)
        torch.set_num_threads(max(1, int(job.footprint.cpus_per_worker)))
        outcome = job.run(session)
        post.put(_outcome_message(outcome))

    TorchTrainer(
        loop,
        scaling_config=ScalingConfig(num_workers=0, use_gpu=job.footprint.gpus_per_worker > 0),
        run_config=RunConfig(name=job.run_name, storage_path=str(job.ray_folder.absolute())),
    ).fit()


def _run_in_group(job: TrialJob, post: RemoteMailbox) -> None:
    """Several workers: Ray Train starts them, restarts them when one dies, and joins them in a process group."""
    from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig

    from cmp.search.engine.group import GroupTrainer

    _put_started(post)  # after the imports: the mailbox starts meanwhile
    footprint = job.footprint
    trainer: Any = GroupTrainer  # its annotations still name the classes of Ray Train v1
    trainer(
        _group_worker,
        train_loop_config={"job": job, "post": post},
        scaling_config=ScalingConfig(
            num_workers=footprint.workers,
            use_gpu=footprint.gpus_per_worker > 0,
            resources_per_worker=worker_resources(footprint),
        ),
        run_config=RunConfig(
            name=job.run_name,
            storage_path=str(job.ray_folder.absolute()),
            failure_config=FailureConfig(max_failures=WORKER_RESTARTS, controller_failure_limit=WORKER_RESTARTS),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    ).fit()


def _group_worker(config: dict[str, Any]) -> None:
    """What every worker of a group runs. Rank 0 speaks for all, except when another worker fails alone."""
    import torch

    from cmp.search.engine.ray_session import group_session

    job, post = config["job"].here(), config["post"]
    end_with_parent()
    if post.outcome() is not None:  # the group was only restarted because a worker left after the outcome was known
        return
    enter(job.directory)
    torch.set_num_threads(max(1, int(job.footprint.cpus_per_worker)))
    session = group_session(job, post)
    outcome = job.run(session)
    if session.rank == 0 or outcome.status not in ("finished", "interrupted"):
        post.put(_outcome_message(outcome))


def end_with_parent() -> None:
    """End this process when its node manager dies: Ray takes half a minute, and a search may be back before that."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_PERIOD_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _outcome_message(outcome: Any) -> Message:
    return {"event": "outcome", "done": True, **asdict(outcome)}


def _log(job: TrialJob, text: str) -> None:
    job.plan.folder.mkdir(parents=True, exist_ok=True)
    with (job.plan.folder / "log.txt").open("a") as file:
        file.write(text)
    with contextlib.suppress(OSError):
        job.plan.home.briefly.send("log.txt")


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else ""


def _set_process_title(job: TrialJob, message: Message) -> None:
    """Name the process after its trial and latest loss, for `top` and the dashboard's list of processes."""
    loss = message.get("val_loss")
    suffix = "" if loss is None else f" epoch {message['epoch']} val_loss {loss:.4f}"
    set_process_title(f"ray::Trial {job.name}{suffix}")
