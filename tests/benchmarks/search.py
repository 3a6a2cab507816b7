"""How many training loops does each way of searching need? The prototype's grid, random, TPE, ASHA, and both.

    python -m tests.benchmarks.search --seeds 3

Real trials of the demo's model and text, through the real ledger, sampler and scheduler; one trial at a time in each
of `--processes`, which share the ways and seeds. Every way gets the loops that the whole grid takes. A learning curve
is a function of the settings, so trials are kept in `--cache` by their settings and shared by all ways and seeds; a
longer run goes on from the checkpoint of a shorter one. Prints the best val_loss after a share of the grid's loops,
and the share that each way needs to reach the grid's best.
"""

import argparse
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from cmp.results.folder import ResultsFolder
from cmp.search.decide.ledger import Ledger
from cmp.space.domains import Choice, Domain
from cmp.space.loading import load_space
from cmp.space.settings import SearchSettings
from cmp.space.space import Space
from cmp.store import write_json
from cmp.train.session import EpochReport, LocalSession, TrialOutcome, TrialPlan
from cmp.train.trial import run_trial

SHARES = (0.125, 0.25, 0.5, 1.0)
GRID_POINTS_PER_DOMAIN = 3
CURVE = "curve.json"
SPACE = "space.json"
ENDLESS = 10_000

Curve = list[tuple[int, float]]
"""(loops spent by the whole search, val_loss) after every epoch of every trial."""


@dataclass
class Learning(LocalSession):
    """Runs one trial and asks the search after each epoch whether to go on."""

    decide: Callable[[EpochReport], bool] = lambda report: True
    goes_on: bool = True
    losses: list[float] = field(default_factory=list)

    def report(self, report: EpochReport) -> None:
        """Ask, unless the answer was no already."""
        self.losses.append(report.val_loss)
        self.goes_on = self.goes_on and self.decide(report)

    def stop_requested(self) -> bool:
        """True after the first no."""
        return not self.goes_on


@dataclass
class Budget:
    """Loops that one search may spend, and what it found for them."""

    loops: int
    spent: int = 0
    curve: Curve = field(default_factory=list)

    def charge(self, loops: int, val_loss: float) -> bool:
        """Note an epoch; False when the budget is spent."""
        self.spent += loops
        if self.spent <= self.loops:
            self.curve.append((self.spent, val_loss))
        return self.spent < self.loops


def main() -> None:
    """Print the table."""
    args = _arguments()
    space = _space(args)
    write_json(args.cache / SPACE, space.to_dict())
    loops = len(list(grid(space))) * space.largest("n_epochs") * space.fixed["n_train_loops"]
    print(
        f"{args.space}: {loops} loops for each way of searching, {args.seeds} seeds, curves in {args.cache}", flush=True
    )
    ways = [way for way in WAYS if way == "grid" or way in args.ways]
    spent = {way: loops if way == "grid" else round(args.budget * loops) for way in ways}
    jobs = [(way, seed) for way in ways for seed in range(args.seeds)]
    # spawned, because torch's threads do not survive a fork
    with ProcessPoolExecutor(
        args.processes, multiprocessing.get_context("spawn"), torch.set_num_threads, (args.threads,)
    ) as pool:
        runs = [pool.submit(search_in, way, space, seed, spent[way], args.cache) for way, seed in jobs]
        curves: dict[str, list[Curve]] = {way: [] for way in ways}
        for (way, seed), run in zip(jobs, runs, strict=True):
            curves[way].append(run.result())
            print(f"{way}, seed {seed}: best {best_within(curves[way][-1], loops):.4f}", file=sys.stderr, flush=True)
    print_table(curves, loops, [share for share in SHARES if share <= args.budget])


def search_in(way: str, space: Space, seed: int, loops: int, cache: Path) -> Curve:
    """One search; called in a process of the pool."""
    return WAYS[way](space, seed, loops, cache)


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """The prototype's way: every combination of a few values per setting."""
    values = [_grid_values(domain) for domain in space.searched.values()]
    return (dict(zip(space.searched, point, strict=True)) for point in itertools.product(*values))


def search_grid(space: Space, seed: int, loops: int, cache: Path) -> Curve:
    """The grid in a random order: which corner a grid starts in is luck."""
    budget = Budget(loops)
    points = list(grid(space))
    random.Random(seed).shuffle(points)
    for point in points:
        train(space, point, cache, lambda report: budget.charge(space.fixed["n_train_loops"], report.val_loss))
    return budget.curve


def search_with(space: Space, seed: int, loops: int, cache: Path, **changes: int) -> Curve:
    """The real ledger with the defaults of `search`, some of them changed."""
    changed = replace(space, search=SearchSettings(seed=seed, num_samples=ENDLESS, **changes))
    budget = Budget(loops)
    with tempfile.TemporaryDirectory() as folder:
        changed = dataclasses.replace(changed, search=dataclasses.replace(changed.search, control=False))
        ledger = Ledger(changed, ResultsFolder(Path(folder) / "results"), views=False)
        while budget.spent < loops and (suggested := ledger.next_trial()) is not None:
            number = suggested.number

            def decide(report: EpochReport, number: int = number) -> bool:
                affordable = budget.charge(space.fixed["n_train_loops"], report.val_loss)
                return ledger.report(number, report) == "continue" and affordable

            ledger.started(number)
            outcome = train(space, suggested.settings, cache, decide)
            ledger.finish(number, outcome)
        ledger.close()
    return budget.curve


WAYS: dict[str, Callable[[Space, int, int, Path], Curve]] = {
    "grid": search_grid,
    "random": lambda space, seed, loops, cache: search_with(
        space, seed, loops, cache, startup_trials=ENDLESS, grace_period=space.largest("n_epochs")
    ),
    "TPE": lambda space, seed, loops, cache: search_with(
        space, seed, loops, cache, grace_period=space.largest("n_epochs")
    ),
    "ASHA": lambda space, seed, loops, cache: search_with(space, seed, loops, cache, startup_trials=ENDLESS),
    "TPE + ASHA": search_with,
}


def print_table(curves: Mapping[str, list[Curve]], loops: int, shares: Sequence[float]) -> None:
    """Medians over seeds, after these shares of the grid's loops."""
    target = min(loss for curve in curves["grid"] for _, loss in curve)
    print(f"best of the grid: {target:.4f} nats")
    print(f"{'':12}" + "".join(f"{f'at {share:.0%}':>12}" for share in shares) + f"{'to grid best':>14}{'range':>16}")
    for name, runs in curves.items():
        losses = [statistics.median(best_within(run, share * loops) for run in runs) for share in shares]
        needed = sorted(loops_to_reach(run, target) / loops for run in runs)
        row = "".join(f"{loss:12.4f}" for loss in losses)
        print(
            f"{name:12}{row}{_share(statistics.median(needed)):>14}{f'{_share(needed[0])} - {_share(needed[-1])}':>16}"
        )


def best_within(curve: Curve, loops: float) -> float:
    """The lowest val_loss seen for at most so many loops."""
    return min((loss for spent, loss in curve if spent <= loops), default=float("nan"))


def loops_to_reach(curve: Curve, target: float) -> float:
    """Loops until val_loss was at most `target`; infinite when it never was."""
    return next((float(spent) for spent, loss in curve if loss <= target), float("inf"))


def _share(value: float) -> str:
    return "never" if value == float("inf") else f"{value:.0%}"


def _grid_values(domain: Domain) -> list[Any]:
    from cmp.search.decide.sampler import value_at

    if isinstance(domain, Choice):
        return list(domain.values)
    shares = [(place + 0.5) / GRID_POINTS_PER_DOMAIN for place in range(GRID_POINTS_PER_DOMAIN)]
    return [value_at(domain, share) for share in shares]


def train(space: Space, sampled: dict[str, Any], cache: Path, decide: Callable[[EpochReport], bool]) -> TrialOutcome:
    """Train one trial, from the cache as far as it goes, until it ends or `decide` says no."""
    settings = space.trial_settings(sampled)
    key = hashlib.sha256(json.dumps([sampled, repr(settings)], sort_keys=True).encode()).hexdigest()[:16]
    folder = cache.absolute() / "trials" / key
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # another process may want the same curve
        learning = Learning(decide=decide)
        outcome = run_trial(TrialPlan(0, settings, space.window, folder), learning)
        write_json(folder / CURVE, {"settings": sampled, "losses": learning.losses})
        return outcome


def _space(args: argparse.Namespace) -> Space:
    from cmp.train.data import prepare_data

    space = load_space(args.space, [f"n_train_loops={args.loops_per_epoch}", *args.set])
    prepare_data(space.trial_settings(space.sample(random.Random(0))), space.window, progress=True)
    return space


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="spaces/demo.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), help="beside the grid")
    parser.add_argument("--budget", type=float, default=1.0, help="share of the grid's loops that the others may spend")
    parser.add_argument("--loops-per-epoch", type=int, default=15)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--cache", type=Path, default=Path("results/benchmark-search"))
    parser.add_argument("--set", action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    main()
