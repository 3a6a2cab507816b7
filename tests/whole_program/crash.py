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
from dataclasses import dataclass, field
from pathlib import Path

from tests.search.check_journal import trajectory, violations
from tests.whole_program.harness import Run, Search
from tests.whole_program.victim import DRIVER_POINTS, WORKER_POINTS

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
        self.trials_lost += SETTINGS["search"]["num_samples"] - sum(end is not None for _, _, end in trials.values())
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
    point = rng.choice([*DRIVER_POINTS, *WORKER_POINTS]) if kills_left and rng.choice(VICTIMS) == "point" else None
    run = search.start(point=point, count=rng.randint(1, 4), epoch_seconds=EPOCH_SECONDS)
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
    if run.process.returncode not in (0, 130, -signal.SIGKILL) and RAY_ENDED_THE_DRIVER not in run.text():
        tally.problems.append(f"exit code {run.process.returncode}:\n{run.text()[-2000:]}")
    return kills_left


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


def torment(kills: int, seed: int, root: Path) -> Tally:
    """Kill as often as asked for, in as many searches as that takes."""
    tally, rng = Tally(), random.Random(seed)
    kills_left = kills
    while kills_left > 0:
        search = Search(root / f"search-{tally.searches}", {**SETTINGS, "seed": seed + tally.searches})
        while not is_complete(search):
            kills_left = max(0, live(search, tally, kills_left, rng))
            print(f"{kills - kills_left} kills, {tally.searches} searches completed", file=sys.stderr, flush=True)
        tally.count(search)
    return tally


def main() -> int:
    """Run and print; 1 when something was lost, repeated or broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="how many processes to kill (100)")
    parser.add_argument("--seed", type=int, default=0, help="which processes, and when (0)")
    parser.add_argument("--folder", type=Path, help="where the searches go; a temporary folder by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        tally = torment(arguments.kills, arguments.seed, arguments.folder or Path(temporary))
    print(tally.table())
    broken = tally.trials_lost or tally.epochs_lost or tally.epochs_repeated or tally.problems
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
