"""The program itself, set up to kill itself once at a named point: `python -m tests.whole_program.victim SPACE ...`.

The point is named in CRASH_POINT, and hit the CRASH_COUNT-th time it is reached; CRASH_MARK is a file that is made
when it happens, so that it happens once. The program knows nothing of this: functions are replaced from outside, in
the driver by this module's `main`, in a trial's process by `run_trial`, which the driver names instead of its own.
"""

import dataclasses
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cmp.train.session import TrialOutcome

DRIVER_POINTS = (
    "during-tokenization",
    "after-suggested",
    "torn-suggested",
    "before-reported",
    "torn-reported",
    "after-reported",
    "before-stopped",
    "after-stopped",
    "before-finished",
    "after-finished",
    "during-best",
    "during-tables",
    "before-completed",
)
WORKER_POINTS = ("before-checkpoint", "torn-checkpoint", "before-report", "during-trial-best")
# Only where results go to an object store.
STORE_DRIVER_POINTS = ("before-created", "after-created", "during-compaction", "during-sent-best")
STORE_WORKER_POINTS = ("before-sent-checkpoint", "after-sent-checkpoint", "during-sent-trial-best")


class Trigger:
    """Counts how often a point is reached and kills the process there, once per mark file."""

    def __init__(self, count: int, mark: Path) -> None:
        self._left = count
        self._mark = mark

    def reached(self, last_act: Callable[[], None] = lambda: None) -> None:
        """The point is reached: on the last count do `last_act` and die as if by SIGKILL."""
        self._left -= 1
        if self._left > 0:
            return
        try:
            os.close(os.open(self._mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        last_act()
        os.kill(os.getpid(), signal.SIGKILL)


def around(owner: Any, name: str, before: Callable[..., None] | None = None, after: Any = None) -> None:
    """Replace a function by one that calls `before(*args)` and `after(*args)` around it."""
    original = getattr(owner, name)

    def replacement(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(*args)
        result = original(*args, **kwargs)
        if after is not None:
            after(*args)
        return result

    setattr(owner, name, replacement)


def install(point: str, trigger: Trigger) -> None:
    """Set a point up in this process."""
    when, _, what = point.partition("-")
    if point == "during-tokenization":
        on_rename("rename", r"/data/", trigger, when="before")
    elif point == "during-best":
        on_rename("rename", r"/best$", trigger, when="before", source=r"/\.best")
    elif point == "during-tables":
        on_rename("replace", r"trials\.csv$", trigger, when="before")
    elif point == "before-checkpoint":
        on_rename("replace", r"loop-\d+\.pt$", trigger, when="before")
    elif point == "torn-checkpoint":
        on_rename("replace", r"loop-\d+\.pt$", trigger, when="after", last_act=truncate)
    elif point == "during-trial-best":
        on_rename("rename", r"/trials/\d+/best$", trigger, when="before")
    elif point in STORE_POINTS:
        method, name = STORE_POINTS[point]
        on_object(when, method, name, trigger)
    elif point == "before-report":
        from cmp.search.engine.ray_session import RaySession

        around(RaySession, "report", before=lambda *args: trigger.reached())
    elif when == "torn":
        on_torn_line(what, trigger)
    else:
        on_event(when, what, trigger)


# Which call on an object store each point is before or after, and the object that it is about.
STORE_POINTS = {
    "before-created": ("create_once", r"^\d+\.json$"),
    "after-created": ("create_once", r"^\d+\.json$"),
    "during-compaction": ("create_once", r"\.jsonl$"),
    "during-sent-best": ("put", r"^\d+-\d+/config\.json$"),
    "before-sent-checkpoint": ("put", r"loop-\d+\.pt$"),
    "after-sent-checkpoint": ("put", r"loop-\d+\.pt$"),
    "during-sent-trial-best": ("put", r"^\d+/config\.json$"),
}


def on_object(when: str, method: str, pattern: str, trigger: Trigger) -> None:
    """Die before or after an object of this name is put or created; `during` is after the first of several."""
    from cmp.objects import ObjectStore

    def reached(store: Any, object_name: str, *args: Any) -> None:
        if re.search(pattern, object_name):
            trigger.reached()

    around(ObjectStore, method, **{"before" if when == "before" else "after": reached})


def on_event(when: str, kind: str, trigger: Trigger) -> None:
    """Die before or after an event of this kind is in the journal."""
    from cmp.results.journal import Journal

    def reached(journal: Any, event: dict[str, Any]) -> None:
        if event["event"] == kind:
            trigger.reached()

    around(Journal, "append", **{when: reached})


def on_torn_line(kind: str, trigger: Trigger) -> None:
    """Die with half of an event's line in the journal."""
    from cmp.results import journal

    def reached(descriptor: int, line: bytes) -> None:
        if f'"event":"{kind}"'.encode() in line:
            trigger.reached(lambda: os.write(descriptor, line[: len(line) // 2]))

    around(journal, "_write_all", before=reached)


def on_rename(
    name: str,
    target: str,
    trigger: Trigger,
    *,
    when: str,
    source: str = "",
    last_act: Callable[[Path], None] = lambda path: None,
) -> None:
    """Die before or after a file or folder gets its final name."""

    def reached(path: Path, new: Any) -> None:
        if re.search(target, str(new)) and re.search(source, str(path)):
            trigger.reached(lambda: last_act(Path(new)))

    around(Path, name, **{when: reached})


def truncate(path: Path) -> None:
    """What a power cut can leave of a file."""
    os.truncate(path, path.stat().st_size // 2)


def run_trial(plan: Any, session: Any) -> Any:
    """In a trial's process: set the point up, note when the first loop of this start begins, and train."""
    from cmp.train import trial

    if "CRASH_FAILS" in os.environ:
        return TrialOutcome("failed", 0, "RuntimeError: this machine is broken")
    if not getattr(trial, "is_victim", False):
        trial.is_victim = True  # type: ignore[attr-defined]
        if os.environ.get("CRASH_POINT") in (*WORKER_POINTS, *STORE_WORKER_POINTS):
            install(os.environ["CRASH_POINT"], _trigger())
        around(trial, "train_epoch", before=note_first_loop)
        if "CRASH_SENT" in os.environ:
            from cmp.search.engine.ray_session import RaySession

            around(RaySession, "report", before=note_report)
    return trial.run_trial(plan, session)


def note_first_loop(*args: Any) -> None:
    """Write the time, once per start of the program; wait or slow down, so that there is time for what a test does."""
    try:
        with Path(os.environ["CRASH_FIRST_LOOP"]).open("x") as file:
            file.write(str(time.time()))
    except FileExistsError:
        pass
    while Path(os.environ["CRASH_HOLD"]).exists():
        time.sleep(0.05)
    time.sleep(float(os.environ.get("CRASH_EPOCH_SECONDS", "0")))


def note_report(session: Any, report: Any) -> None:
    """Write down when a report was sent, for who wants to know how long it takes to the journal."""
    line = f"{session._job.plan.number} {report.epoch} {time.time()}\n"
    with Path(os.environ["CRASH_SENT"]).open("a") as file:
        file.write(line)


def _trigger() -> Trigger:
    return Trigger(int(os.environ.get("CRASH_COUNT", "1")), Path(os.environ["CRASH_MARK"]))


def leave_out_the_dashboard(*args: Any) -> None:
    """Its ten processes import for many seconds; nobody looks at it in these searches. `test_spaces` has it."""
    import ray

    init = ray.init
    ray.init = lambda **options: init(**{**options, "include_dashboard": False})


def main() -> int:
    """Set the point up and run the program."""
    import search
    from cmp.search import run
    from cmp.search.engine import cluster

    around(cluster, "_start", before=leave_out_the_dashboard)

    original = run._JobFactory.__call__

    def make_job(factory: Any, suggested: Any) -> Any:
        return dataclasses.replace(original(factory, suggested), entry="tests.whole_program.victim:run_trial")

    run._JobFactory.__call__ = make_job  # type: ignore[method-assign]
    if os.environ.get("CRASH_POINT") in (*DRIVER_POINTS, *STORE_DRIVER_POINTS):
        install(os.environ["CRASH_POINT"], _trigger())
    if "CRASH_PATIENCE" in os.environ:
        from cmp.search.engine import faults

        faults.MIN_SILENT_SECONDS = float(os.environ["CRASH_PATIENCE"])
        faults.SILENT_EPOCHS = 2.0
    return search.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
