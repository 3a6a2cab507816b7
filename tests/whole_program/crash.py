"""A long run of killed searches: `python -m tests.whole_program.crash --kills 100 --seed 0`.

Searches of a tiny model are started, killed (a random process at a random moment, now and then a signal that asks
politely) and started again until enough kills have happened; then the last one may finish. What they promise is
checked on their journals alone. Prints kills, searches completed, trials lost, epochs lost or repeated, and the time
from typing the command to the first training loop.
"""

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cmp.space.errors import EXIT_CLUSTER_LOST, EXIT_INTERRUPTED
from tests.search.check_journal import trajectory, violations
from tests.stores import make_bucket, s3_environment, start_s3
from tests.whole_program.harness import Run, Search
from tests.whole_program.victim import DRIVER_POINTS, STORE_DRIVER_POINTS, STORE_WORKER_POINTS, WORKER_POINTS

SETTINGS = {
    "n_epochs": 6,
    "search": {"num_samples": 12, "startup_trials": 4, "reduction_factor": 2, "min_peers": 2},
}
EPOCH_SECONDS = 0.4
LONGEST_LIFE_SECONDS = 4.0
RUN_TIMEOUT_SECONDS = 300.0

# What is killed, and how often of ten times.
VICTIMS = ["driver"] * 3 + ["worker"] * 3 + ["raylet"] * 2 + ["gcs"] + ["point"]
POLITE_SHARE = 0.1

RAY_ITSELF = ("raylet", "gcs")
# Trials' processes end so long after their raylet; until then they may begin another trial.
LAST_BREATH_SECONDS = 1.0
# With results on a store: so many machines, each with a disk of its own.
MACHINES = 3
# Ray's C++ ends the process that it connects to a raylet which is killed in that very moment: nothing to catch.
RAY_ENDED_THE_DRIVER = "Failed to register worker to Raylet"


@dataclass
class Tally:
    """What happened over all searches."""

    kills: Counter[str] = field(default_factory=Counter)
    searches: int = 0
    trials_lost: int = 0
    epochs_lost: int = 0
    epochs_repeated: int = 0
    problems: list[str] = field(default_factory=list)
    restarts: list[float] = field(default_factory=list)

    def count(self, search: Search) -> None:
        """Judge a completed search by its journal."""
        self.searches += 1
        self.problems += violations(search.journal, ended=True)
        trials = trajectory(search.journal)
        searched = SETTINGS["search"]["num_samples"] - sum(number >= 0 for number in trials)
        self.trials_lost += searched + sum(end is None for _, _, end in trials.values())
        self.trials_lost += sum(end is not None and end[0] == "failed" for _, _, end in trials.values())
        reported = [(event["trial"], event["epoch"]) for event in search.events("reported")]
        self.epochs_repeated += len(reported) - len(set(reported))
        for trial, (_, losses, end) in trials.items():
            expected = end[1] if end is not None and end[0] in ("finished", "stopped") else 0
            missing = set(range(1, expected + 1)) - set(losses)
            self.epochs_lost += len(missing)
            self.problems += [f"trial {trial}: epochs {sorted(missing)} are missing"] if missing else []

    def table(self) -> str:
        """For people."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        lines = [
            f"kills                     {sum(self.kills.values())} ({kinds})",
            f"searches completed        {self.searches}",
            f"trials lost               {self.trials_lost}",
            f"epochs lost               {self.epochs_lost}",
            f"epochs repeated           {self.epochs_repeated}",
            f"promises broken           {len(self.problems)}",
        ]
        if self.restarts:
            ordered = sorted(self.restarts)
            lines.append(
                f"restart to first new loop {statistics.median(ordered):.1f} s median, {ordered[-1]:.1f} s longest"
            )
        return "\n".join([*lines, *self.problems])


def live(search: Search, tally: Tally, kills_left: int, rng: random.Random) -> int:
    """Start the search once and kill in it until it has ended; returns the kills that are still to come."""
    point = rng.choice(_points(search)) if kills_left and rng.choice(VICTIMS) == "point" else None
    machine = {} if search.store is None else {"CMP_CACHE": str(search.root / f"machine-{rng.randrange(MACHINES)}")}
    run = search.start(point=point, count=rng.randint(1, 4), epoch_seconds=EPOCH_SECONDS, environment=machine)
    restarted = run.started if search.starts > 1 else None
    deaths_of_workers = 0
    while run.process.poll() is None:
        run.wait_for_first_loop()
        if restarted is not None and (first_loop := run.time_of_first_loop()) is not None:
            tally.restarts.append(first_loop - restarted)
        if not kills_left or point is not None:
            run.wait(RUN_TIMEOUT_SECONDS)
            break
        time.sleep(rng.uniform(0.0, LONGEST_LIFE_SECONDS))
        kind = rng.choice(VICTIMS[:-1] if deaths_of_workers < 3 else ["driver"])
        if rng.random() < POLITE_SHARE:
            kind = be_polite(run, rng)
        elif not run.kill(kind, rng):
            restarted = None
            continue
        tally.kills[kind] += 1
        kills_left -= 1
        deaths_of_workers += kind == "worker"
        if kind == "driver" or kind.startswith("SIG"):
            run.wait(30)
            break
        restarted = time.time() if kind in RAY_ITSELF else None
        if kind in RAY_ITSELF:
            time.sleep(LAST_BREATH_SECONDS)
        run.first_loop.unlink(missing_ok=True)
    if point is not None and run.mark.exists():
        tally.kills[point] += 1
        kills_left -= 1
    expected = (0, EXIT_INTERRUPTED, EXIT_CLUSTER_LOST, -signal.SIGKILL)
    if run.process.returncode not in expected and RAY_ENDED_THE_DRIVER not in run.text():
        tally.problems.append(f"exit code {run.process.returncode}:\n{run.text()[-2000:]}")
    return kills_left


def _points(search: Search) -> list[str]:
    """Where a process may kill itself; on a store there are more places, and a line of the journal is never torn."""
    if search.store is None:
        return [*DRIVER_POINTS, *WORKER_POINTS]
    return [*(point for point in DRIVER_POINTS if "torn" not in point), *STORE_DRIVER_POINTS, *STORE_WORKER_POINTS]


def be_polite(run: Run, rng: random.Random) -> str:
    """Ask the program to leave, as Ctrl-C and a batch system do, also all its processes; it must within 20 seconds."""
    asked = rng.choice([signal.SIGINT, signal.SIGTERM])
    if rng.random() < 0.5:
        run.process.send_signal(asked)
        kind = asked.name
    else:
        os.killpg(run.process.pid, asked)
        kind = f"{asked.name} to all"
    run.wait(20)
    return kind


def is_complete(search: Search) -> bool:
    """Whether the last thing that happened to it is that it completed."""
    completed, sessions = search.events("completed"), search.events("session")
    return bool(completed) and completed[-1]["time"] >= sessions[-1]["time"]


def torment(kills: int, seed: int, root: Path, store: str | None = None) -> Tally:
    """Kill as often as asked for, in as many searches as that takes.

    Args:
        kills: how many.
        seed: of all choices.
        root: where the searches go.
        store: the URL below which results go instead; each start is then one of a few machines without a common disk.
    """
    tally, rng = Tally(), random.Random(seed)
    kills_left = kills
    while kills_left > 0:
        name = f"search-{tally.searches}"
        settings = {**SETTINGS, "seed": seed + tally.searches, **({"data_root": None} if store else {})}
        search = Search(root / name, settings, store=store and f"{store}/{name}")
        while not is_complete(search):
            kills_left = max(0, live(search, tally, kills_left, rng))
            print(f"{kills - kills_left} kills, {tally.searches} searches completed", file=sys.stderr, flush=True)
        tally.count(search)
    return tally


@contextmanager
def _store(wanted: bool) -> Iterator[str | None]:
    """The URL of an S3 that lives as long as the block, with what it needs in the environment."""
    if not wanted:
        yield None
        return
    with start_s3() as port:
        make_bucket(port, "crash")
        os.environ.update(s3_environment(port))
        yield "s3://crash/results"


def main() -> int:
    """Run and print; 1 when something was lost, repeated or broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="how many processes to kill (100)")
    parser.add_argument("--seed", type=int, default=0, help="which processes, and when (0)")
    parser.add_argument("--folder", type=Path, help="where the searches go; a temporary folder by default")
    parser.add_argument(
        "--store", action="store_true", help="results go to an S3 of this process, nothing else is shared"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, _store(arguments.store) as store:
        tally = torment(arguments.kills, arguments.seed, arguments.folder or Path(temporary), store)
    print(tally.table())
    broken = tally.trials_lost or tally.epochs_lost or tally.epochs_repeated or tally.problems
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
