"""What a search costs beside its training: `python -m tests.benchmarks.overhead`.

Runs searches of tiny trials in real processes and prints the wall time from the first training loop to the last
report, the time inside training loops divided by the slots, the difference per trial, how long a report takes to the
journal, and how long the first loop is in coming after the command was typed, with tokenized data.
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.whole_program.harness import Run, Search

TARGETS = {1: 1.0, 2: 10.0}
LATENCY_TARGET_SECONDS = 0.2
FIRST_LOOP_TARGET_SECONDS = 20.0
TINY = {"n_epochs": 5, "n_train_loops": 20, "lr_schedule": "constant"}


@dataclass(frozen=True)
class Costs:
    """What one search of tiny trials took, in seconds.

    Args:
        workers: of a trial.
        trials: that ended.
        slots: trials at once.
        first_loop: from typing the command to the first training loop.
        wall: from the first loop to the last event.
        loops: inside training and validation, summed over trials.
        latencies: from the trial's sending a report to its line in the journal.
    """

    workers: int
    trials: int
    slots: int
    first_loop: float
    wall: float
    loops: float
    latencies: list[float]

    @property
    def per_trial(self) -> float:
        """Wall time that no training explains, per trial and slot."""
        return (self.wall - self.loops / self.slots) * self.slots / self.trials

    def lines(self) -> list[str]:
        """For people."""
        latency = statistics.quantiles(self.latencies, n=20)[-1]
        return [
            f"{self.trials} trials of {self.workers} worker(s), {self.slots} at a time",
            f"  command to first loop        {self.first_loop:8.2f} s   (target {FIRST_LOOP_TARGET_SECONDS:g})",
            f"  first loop to last report    {self.wall:8.2f} s",
            f"  inside loops, per slot       {self.loops / self.slots:8.2f} s",
            f"  overhead per trial           {self.per_trial:8.2f} s   (target {TARGETS[min(self.workers, 2)]:g})",
            f"  report to journal, median    {statistics.median(self.latencies):8.3f} s",
            f"  report to journal, 95 %      {latency:8.3f} s   (target {LATENCY_TARGET_SECONDS:g})",
        ]


def measure(root: Path, workers: int, trials: int) -> Costs:
    """Tokenize with a first short search, then time a second one with other trials in a folder of its own."""
    resources = {"resources": {"workers": workers}}
    settings = {**TINY, **resources, "search": {"num_samples": trials, "min_peers": trials}}
    search = Search(root, settings)
    warm = search.start("--dry-run")
    if warm.wait(120) != 0:
        raise RuntimeError(warm.text())
    sent = root / "sent.txt"
    run = search.start(environment={"CRASH_SENT": str(sent)})
    if run.wait(600) != 0:
        raise RuntimeError(run.text())
    return _costs(search, run, sent, workers)


def _costs(search: Search, run: Run, sent: Path, workers: int) -> Costs:
    reports = {(event["trial"], event["epoch"]): event for event in search.events("reported")}
    last = {trial: event["metrics"]["seconds"] for (trial, _), event in sorted(reports.items())}
    began = run.time_of_first_loop()
    assert began is not None
    first_loop = began - run.started
    latencies = []
    for line in sent.read_text().splitlines():
        trial, epoch, at = line.split()
        latencies.append(reports[int(trial), int(epoch)]["time"] - float(at))
    return Costs(
        workers=workers,
        trials=len(last),
        slots=search.events("session")[-1]["resources"]["max_concurrent"],
        first_loop=first_loop,
        wall=max(event["time"] for event in reports.values()) - run.started - first_loop,
        loops=sum(last.values()),
        latencies=latencies,
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=20, help="trials with one worker (20)")
    parser.add_argument("--group-trials", type=int, default=4, help="trials with two workers (4)")
    arguments = parser.parse_args()
    for workers, trials in ((1, arguments.trials), (2, arguments.group_trials)):
        with tempfile.TemporaryDirectory() as folder:
            print("\n".join(measure(Path(folder), workers, trials).lines()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
