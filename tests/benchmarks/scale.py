"""What a search of 100, 1,000 and 10,000 trials costs beside its training.

    python -m tests.benchmarks.scale [--trials 100 1000 10000] [--only KEY ...] [--record NAME] [--check JOURNAL ...]

For each size a journal is made up (ten reports per trial on average, decided by the search's own rules), and a process
of its own measures on it, in seconds of processor time and without waiting for the disk:

    replay      opening the ledger on the journal, as at a resume
    suggestion  one more trial, median of several
    report      of a trial that is bad at its first rung, median of several
    tables      trials.csv and results.parquet
    page        report.html, and its size
    tensorboard all event files, as for a folder without any, and again, as at a resume
    memory      largest resident set of the driver that did all this

`--check` runs recorded journals of one session again through the ledger, event by event: suggestions, stops and ends
must be the same to the last bit.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cmp.results.folder import ResultsFolder
from cmp.results.journal import read_events
from cmp.results.space_file import write_space_file
from cmp.search.decide.asha import Asha
from cmp.search.decide.ledger import Ledger, Suggested
from cmp.space.space import Space
from cmp.train.session import TrialOutcome
from tests.benchmarks.curves import FormulaCurves
from tests.benchmarks.record import record

SIZES = (100, 1_000, 10_000)
SLOTS = 16
SEARCH = {"grace_period": 3, "reduction_factor": 3}
EPOCHS = 81
"""With these a trial has ten reports on average."""
REPEATS = 9
NOTES = (
    "What a search of so many trials costs beside its training: seconds of one core's time, without waiting for the"
    " disk. `replay` opens the ledger, as at a resume; `suggestion` and `report` are medians of nine, the report of a"
    " trial stopped at its first rung; `tables` are trials.csv and results.parquet; `tensorboard` writes all"
    " event files, `again` does so at a resume; `memory` is the driver's largest resident set."
)

Measure = Callable[["Folder"], dict[str, float]]


class Folder:
    """A results folder with a made-up search of `trials` trials, not yet complete."""

    def __init__(self, path: Path, trials: int) -> None:
        self.results = ResultsFolder(path)
        self.trials = trials
        plain = FormulaCurves.default(EPOCHS).space.to_dict()
        plain["search"] = {**plain["search"], **SEARCH, "num_samples": trials + 10_000, "control": False}
        self.space = Space.from_dict(plain)

    def write(self) -> int:
        """Write space.yaml and the journal; returns how many reports there are."""
        self.results.path.mkdir(parents=True)
        write_space_file(self.results.space, self.space.to_dict(), {}, None)
        events = list(self._events())
        lines = (json.dumps(event, separators=(",", ":")) + "\n" for event in events)
        self.results.journal.write_text("".join(lines), encoding="utf-8")
        return sum(event["event"] == "reported" for event in events)

    def _events(self) -> Iterator[dict[str, Any]]:
        """As many trials at once as there are slots; who reports next is chance."""
        rng, curves = random.Random(0), FormulaCurves(self.space)
        search = self.space.search
        asha = Asha(self.space.rungs, EPOCHS, reduction_factor=search.reduction_factor, min_peers=search.min_peers)
        now, number, running = 1.7e9, 0, {}
        head = {
            "event": "session",
            "run": 1,
            "space": self.space.to_dict(),
            "facts": {},
            "versions": {},
            "commit": None,
        }
        yield {"time": now, **head}
        while running or number < self.trials:
            now += 1.0
            if len(running) < SLOTS and number < self.trials:
                settings = self.space.sample(rng)
                running[number] = (settings, curves.losses(settings, 0), 1)
                yield {"event": "suggested", "time": now, "trial": number, "settings": settings}
                yield {"event": "started", "time": now, "trial": number, "attempt": 1, "node": "n", "pid": 1}
                number += 1
                continue
            trial = rng.choice(list(running))
            settings, losses, epoch = running[trial]
            running[trial] = (settings, losses, epoch + 1)
            yield {"event": "reported", "time": now, "trial": trial, "epoch": epoch, **_report(settings, losses, epoch)}
            if asha.record(trial, epoch, {0: losses[epoch - 1]}).stop and epoch < EPOCHS:
                yield {"event": "stopped", "time": now, "trial": trial, "epoch": epoch, "rung": epoch}
                del running[trial]
            elif epoch == EPOCHS:
                yield {"event": "finished", "time": now, "trial": trial, "epoch": epoch}
                del running[trial]


def _report(settings: dict[str, Any], losses: list[float], epoch: int) -> dict[str, Any]:
    loss = losses[epoch - 1]
    metrics = {
        "epoch": epoch,
        "loops": 100 * epoch,
        "tokens": 448_000 * epoch,
        "train_loss": loss - 0.0312345678,
        "val_loss": loss,
        "val_ppl": 2.718281828459045**loss,
        "val_acc": 0.9 - loss / 4,
        "val_top5": 1.1 - loss / 4,
        "no_context_loss": 2.5219348,
        "full_context_loss": 1.5271123,
        "recovered": 2.5219348 - loss,
        "compression_ratio": 100 / settings["n_cmps"],
        "tokens_per_second": 40_000.0 + loss,
        "peak_memory_bytes": 512_000_000,
        "seconds": 11.25 * epoch,
        "lr": settings["lr"],
        "val_rmb_loss": None,
        "val_rmb_acc": None,
    }
    return {"metrics": metrics}


def timed(work: Callable[[], Any]) -> float:
    """Processor seconds of this thread."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def replay(folder: Folder) -> dict[str, float]:
    return {"replay": timed(lambda: Ledger(folder.space, folder.results, views=False).close())}


def decisions(folder: Folder) -> dict[str, float]:
    """Suggestions, and reports of trials that are stopped at their first rung."""
    ledger = Ledger(folder.space, folder.results, views=False)
    ledger.begin()
    costs = [_bad_trial(ledger) for _ in range(REPEATS)]
    ledger.close()
    suggestions, reports = zip(*costs, strict=True)
    return {"suggestion": statistics.median(suggestions), "report": statistics.median(reports)}


def _bad_trial(ledger: Ledger) -> tuple[float, float]:
    """Seconds of one suggestion, and of the report after which that trial is stopped."""
    found: list[Suggested | None] = []
    suggestion = timed(lambda: found.append(ledger.next_trial()))
    assert found[0] is not None
    number = found[0].number
    ledger.started(number)
    rung = SEARCH["grace_period"]
    reports = [_report({"n_cmps": 1, "lr": 0.1}, [9.0] * rung, epoch)["metrics"] for epoch in range(1, rung + 1)]
    for metrics in reports[:-1]:
        ledger.report(number, metrics)
    report = timed(lambda: ledger.report(number, reports[-1]))
    assert ledger.history.trials[number].status == "stopped"
    return suggestion, report


def tables(folder: Folder) -> dict[str, float]:
    from cmp.results.history import History
    from cmp.results.tables import write_results_parquet, write_trials_csv

    history = History.from_events(read_events(folder.results.journal))
    searched = folder.space.searched
    write_results_parquet(folder.results.results_parquet, History(), searched)  # pyarrow's import
    csv = timed(lambda: write_trials_csv(folder.results.trials_csv, history, folder.space))
    return {"tables": csv + timed(lambda: write_results_parquet(folder.results.results_parquet, history, searched))}


def page(folder: Folder) -> dict[str, float]:
    from cmp.report.page import write_page

    seconds = timed(lambda: write_page(folder.results.path))
    return {"page": seconds, "page MB": folder.results.report.stat().st_size / 1e6}


def tensorboard(folder: Folder) -> dict[str, float]:
    from cmp.report.tensorboard import TensorBoardWriter
    from cmp.results.history import History

    history = History.from_events(read_events(folder.results.journal))

    def write() -> None:
        writer = TensorBoardWriter(folder.results.path)
        writer.update(history)
        writer.close()

    return {"tensorboard": timed(write), "again": timed(write)}


MEASURES: dict[str, Measure] = {
    "replay": replay,
    "decisions": decisions,
    "tables": tables,
    "page": page,
    "tensorboard": tensorboard,
}


def measure(path: Path, trials: int, keys: list[str]) -> dict[str, float]:
    """All of it in this process."""
    os.fsync = lambda descriptor: None  # type: ignore[assignment]
    folder = Folder(path, trials)
    found: dict[str, float] = {"reports": folder.write()}
    for key in keys:
        found |= MEASURES[key](folder)
    return {**found, "memory MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def check(path: Path) -> list[str]:
    """Run a recorded journal of one session again; every event that comes out otherwise, as a line."""
    recorded = read_events(path)
    if sum(event["event"] == "session" for event in recorded) != 1:
        return [f"{path}: more than one session"]
    plain = recorded[0]["space"]
    plain["search"].setdefault("control", False)  # one of a time when there was no text control
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Space.from_dict(plain), ResultsFolder(Path(folder)), views=False)
        ledger.begin()
        for event in recorded:
            _again(ledger, event)
        ledger.close()
        again = read_events(ResultsFolder(Path(folder)).journal)
    pairs = zip(recorded[1:], again[1:], strict=False)
    found = [
        f"{path}:{line}: {_bare(b)} was {_bare(a)}" for line, (a, b) in enumerate(pairs, 2) if _bare(a) != _bare(b)
    ]
    return found if len(recorded) == len(again) or found else [f"{path}: {len(again)} events were {len(recorded)}"]


def _again(ledger: Ledger, event: dict[str, Any]) -> None:
    """What the world did at this event; what the ledger decided is for it to decide again."""
    kind, number = event["event"], event.get("trial", -1)
    if kind == "suggested":
        ledger.next_trial()
    elif kind == "started":
        ledger.started(number, node=event["node"], pid=event["pid"])
    elif kind == "reported":
        ledger.report(number, event["metrics"])
    elif kind == "finished":
        ledger.finish(number, TrialOutcome("finished", event["epoch"]))
    elif kind == "failed" and event["kind"] != "diverged":
        ledger.finish(number, TrialOutcome(event["kind"], event["epoch"], event["reason"]))
    elif kind == "completed":
        ledger.complete()


def _bare(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "time"}


def measured(sizes: list[int], keys: list[str]) -> Iterator[dict[str, float]]:
    """One row for each size, measured in a process of its own."""
    for trials in sizes:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            options = ["--one", str(trials), "--folder", str(Path(folder) / "results"), "--only", *keys]
            command = [sys.executable, "-m", "tests.benchmarks.scale", *options]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        yield {"trials": trials, **{name: _rounded(name, value) for name, value in found.items()}}


def _rounded(name: str, value: float) -> float:
    return round(value) if name in ("reports", "memory MB") else round(value, 4 if value < 1 else 2)


def main() -> int:
    """Print the table, or what the check found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES), metavar="KEY")
    parser.add_argument("--check", type=Path, nargs="+", metavar="JOURNAL", help="run recorded journals again")
    parser.add_argument("--record", metavar="NAME", help="write the table to results/NAME.json")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.check:
        os.fsync = lambda descriptor: None  # type: ignore[assignment]
        found = [line for path in options.check for line in check(path)]
        print("\n".join(found) if found else f"{len(options.check)} journals came out the same")
        return 1 if found else 0
    if options.one is not None:
        print(json.dumps(measure(options.folder, options.one, options.only)))
        return 0
    rows = []
    for row in measured(options.trials, options.only):
        rows.append(row)
        print(row, flush=True)
    if options.record is not None:
        record(options.record, "tests.benchmarks.scale", NOTES, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
