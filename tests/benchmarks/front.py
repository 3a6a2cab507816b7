"""Searches that are trained for real, with `search.objective: front` beside `loss`, at equal loops.

    python -m tests.benchmarks.front --model MODEL --dataset TEXTS [--seeds 3] [--trials 8] [--record NAME]

Every search gets the loops of `--trials` whole trials; stopped trials leave loops for more. Vectors, kept tokens and
the learning rate are searched. Trials go through the real ledger, one at a time; a trial follows from its settings, so
that searches which ask for the same one share it (`--cache`). What was found is the area in (log positions, val_loss)
below the loss of a compressor without any context: the text control at no token, trained like a trial, once.
"""

import argparse
import dataclasses
import math
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cmp.results.folder import ResultsFolder
from cmp.results.front import Front, hypervolume
from cmp.results.history import CONTROL, TrialRecord
from cmp.search.decide.extras import control_sample, extra_settings
from cmp.search.decide.ledger import Ledger
from cmp.space.space import Space
from cmp.train.data import prepare_data
from cmp.train.session import EpochReport, LocalSession, TrialPlan
from cmp.train.trial import run_trial
from tests.benchmarks.record import record
from tests.benchmarks.search import ENDLESS, Budget, train

OBJECTIVES = ("loss", "front")
SPACE: dict[str, Any] = {
    "exp_name": "front",
    "lr": {"loguniform": [1e-3, 2e-2]},
    "n_cmps": {"logint": [1, 16]},
    "keep_len": {"choice": [0, 1, 2, 4, 8, 16, 32]},
    "lora_rank": 8,
    "cmp_len": 100,
    "seq_len": 40,
    "batch_size": 16,
    "n_train_loops": 20,
    "n_epochs": 9,
}
MOST_POSITIONS = 96
"""Twice the dearest price, which then counts too."""
BUDGETS = (2, 8)
"""Positions; the lowest loss within each is a column."""
NOTES = (
    "Searches that were trained for real, one trial at a time, each with the loops of {trials} whole trials: the area"
    " that the front covers in (log positions, val_loss), in thousandths, below the text control's loss without any"
    " context ({worst:.4f}), and the lowest loss at no more than so many positions."
)


@dataclass(frozen=True)
class Found:
    """What one search came to.

    Args:
        losses: the front: val_loss by positions.
        trials: how many were tried.
        stopped: how many of them were stopped early.
        half: the front after half of the loops.
    """

    losses: dict[int, float]
    trials: int
    stopped: int
    half: dict[int, float]

    def row(self, worst: float) -> dict[str, Any]:
        """Columns of the table, given the loss from which on a point is worth nothing."""
        budgets = {f"at {most} positions": self._lowest(most) for most in BUDGETS}
        return {
            "area": round(1000 * hypervolume(self.losses, MOST_POSITIONS, worst), 1),
            "after half of the loops": round(1000 * hypervolume(self.half, MOST_POSITIONS, worst), 1),
            **budgets,
            "at any": self._lowest(math.inf),
            "trials": self.trials,
            "stopped": self.stopped,
        }

    def _lowest(self, most_positions: float) -> float | None:
        losses = [loss for positions, loss in self.losses.items() if positions <= most_positions]
        return round(min(losses), 4) if losses else None


def search(space: Space, objective: str, seed: int, trials: int, cache: Path) -> Found:
    """One search through the real ledger; a trial without loops left is broken off, and counts as far as it came."""
    chosen = dataclasses.replace(
        space.search, objective=objective, seed=seed, num_samples=ENDLESS, control=False, startup_trials=4
    )
    space = dataclasses.replace(space, search=chosen)
    loops = space.fixed["n_train_loops"]
    budget = Budget(trials * space.fixed["n_epochs"] * loops)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(space, ResultsFolder(Path(folder) / "results"), views=False)
        half: dict[int, float] = {}
        while budget.spent < budget.loops and (suggested := ledger.next_trial()) is not None:
            number = suggested.number

            def decide(report: EpochReport, number: int = number) -> bool:
                affordable = budget.charge(loops, report.val_loss)
                goes_on = ledger.report(number, report) == "continue"
                if 2 * budget.spent <= budget.loops:
                    half.clear()
                    half.update(_front(ledger, space))
                return goes_on and affordable

            ledger.started(number)
            ledger.finish(number, train(space, suggested.settings, cache, decide))
        ledger.close()
    tried = ledger.history.trials.values()
    return Found(_front(ledger, space), len(tried), sum(trial.status == "stopped" for trial in tried), half)


def _front(ledger: Ledger, space: Space) -> dict[int, float]:
    return {point.positions: point.val_loss for point in Front.of(ledger.history, space).points()}


def without_context(space: Space, cache: Path) -> float:
    """The text control's loss with no token kept, after as many loops as a trial has."""
    settings = extra_settings(space, TrialRecord(CONTROL, control_sample(space), 0.0, role="control"))
    session = LocalSession()
    folder = (cache / "trials" / "control").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    run_trial(TrialPlan(CONTROL, settings, space.window, folder, role="control"), session)
    return session.reports[-1].val_loss


def rows(space: Space, seeds: int, trials: int, cache: Path, worst: float) -> Iterator[dict[str, Any]]:
    """One row for each search, then the means of both objectives."""
    found: dict[str, list[dict[str, Any]]] = {objective: [] for objective in OBJECTIVES}
    for seed in range(seeds):
        for objective in OBJECTIVES:
            row = search(space, objective, seed, trials, cache).row(worst)
            found[objective].append(row)
            yield {"objective": objective, "seed": seed, **row}
    for objective, runs in found.items():
        yield {"objective": objective, "seed": "mean", **{name: _mean(runs, name) for name in runs[0]}}


def _mean(runs: list[dict[str, Any]], name: str) -> float | None:
    """None where a search found nothing: a mean of the others would not compare."""
    values = [run[name] for run in runs]
    return None if None in values else round(statistics.fmean(values), 4)


def main() -> None:
    """Train, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the backbone: a folder or hub id")
    parser.add_argument("--dataset", required=True, help="its texts: files, a folder, a hub data set")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=8, help="whole trials whose loops each search may spend")
    parser.add_argument("--loops-per-epoch", type=int, default=SPACE["n_train_loops"])
    parser.add_argument("--cache", type=Path, default=Path("results/benchmark-front"))
    parser.add_argument("--record", metavar="NAME", help="write the table to results/NAME.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    plain = {**SPACE, "model_string": args.model, "dataset": args.dataset, "n_train_loops": args.loops_per_epoch}
    space = Space.from_dict({**plain, "data_root": str(args.cache / "data")})
    prepare_data(space.trial_settings(control_sample(space)), space.window)
    worst = without_context(space, args.cache)
    print(f"without context {worst:.4f}", flush=True)
    found = []
    for row in rows(space, args.seeds, args.trials, args.cache, worst):
        found.append(row)
        print(row, flush=True)
    if args.record is not None:
        record(args.record, "tests.benchmarks.front", NOTES.format(trials=args.trials, worst=worst), found)


if __name__ == "__main__":
    main()
