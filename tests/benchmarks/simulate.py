"""How the search behaves where this machine cannot go: hundreds of trials on 1 to 256 slots, without training.

    python -m tests.benchmarks.simulate [--slots 1 16 256] [--epochs 600] [--seeds 3] [--results F | --curves F]
        [--target LOSS] [--trusted SHARE]
    python -m tests.benchmarks.simulate --front --slots 4 --seeds 30 [--record NAME]

Drives the real ledger, sampler and ASHA with a simulated clock over learning curves from a formula, or from what a
results folder or `tests.benchmarks.search` recorded. Every method may spend the same number of epochs (`--epochs`, all
trials together), so they are compared at equal work; trials that run when it is spent are finished.

With `--sweep` the default method runs with one of its four settings changed at a time: how far the best is behind, mean
and standard error over the seeds.

Columns, medians over the seeds: `best` is the lowest val_loss found; `behind` how far that is from the lowest that
10,000 random settings have; `trials` how many were tried; `wasted` the share of all epochs that went into trials that,
trained to the end, would not be among the best tenth of random ones; `hours` the simulated time; `to target` the epochs
that all trials together had spent when one was at `--target` or below, with the quartiles.

With `--front`: the area that the front covers in log positions and loss after a quarter, half and all of the epochs, in
% of what 10,000 random settings cover; the lowest loss; of the trials that would end on the front, how many were
stopped early; and the epochs after which a method covers what `objective: loss` covers in the end, seed by seed.
"""

import argparse
import dataclasses
import functools
import heapq
import itertools
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from cmp.results import agreement
from cmp.results.folder import ResultsFolder
from cmp.results.front import hypervolume
from cmp.results.history import History
from cmp.search.decide.ledger import Ledger, Suggested
from cmp.search.decide.sampler import Sampler
from cmp.space.settings import SearchSettings
from cmp.space.space import Space
from cmp.train.session import TrialOutcome
from tests.benchmarks.curves import Curves, FormulaCurves, InterpolatedCurves, PricedCurves, RecordedCurves
from tests.benchmarks.record import record

NEVER = 10**9
Method = Callable[[SearchSettings], SearchSettings]

METHODS: dict[str, Method] = {
    "random": lambda search: dataclasses.replace(search, startup_trials=NEVER, min_peers=NEVER),
    "TPE": lambda search: dataclasses.replace(search, min_peers=NEVER),
    "ASHA": lambda search: dataclasses.replace(search, startup_trials=NEVER),
    "TPE + ASHA": lambda search: search,
}


SWEPT = {
    "startup_trials": (2, 4, 6, 8, 12, 16),
    "grace_period": (1, 2, 3),
    "reduction_factor": (2, 3, 4),
    "min_peers": (1, 2, 3, 5, 8),
}


@dataclass(frozen=True)
class Outcome:
    """What one simulated search came to."""

    best: float
    trials: int
    epochs: int
    wasted: float
    hours: float
    decision_seconds: float
    epochs_to_target: float


@dataclass
class Reference:
    """What random settings are worth when trained to the end."""

    lowest: float
    best_tenth: float

    @classmethod
    def of(cls, curves: Curves, draws: int) -> "Reference":
        """From this many random settings."""
        rng = random.Random(0)
        finals = sorted(min(curves.losses(curves.space.sample(rng), seed=0)) for _ in range(draws))
        return cls(finals[0], finals[draws // 10])


def simulate(
    curves: Curves, space: Space, *, slots: int, epochs: int, reference: Reference, target: float = -math.inf
) -> Outcome:
    """Search until `epochs` epochs were trained; trials that still run then are finished."""
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as folder:
        return _Run(curves, space, Path(folder), slots, epochs, target).outcome(reference)


class _Run:
    """A loop over the moments at which some trial ends an epoch."""

    def __init__(
        self,
        curves: Curves,
        space: Space,
        folder: Path,
        slots: int,
        epochs: int,
        target: float,
        area: Callable[[Mapping[int, float]], float] | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self.now = 0.0
        self.spent = 0
        self.epochs_to_target = math.inf
        self.rises: list[tuple[int, float]] = []
        self._found: dict[int, float] = {}
        self._area = area
        self._target = target
        self._curves = curves
        self._seed = space.search.seed
        self._losses: dict[int, list[float]] = {}
        self._due: list[tuple[float, int, int]] = []
        # a text control decides nothing, and there is no text here
        space = dataclasses.replace(space, search=dataclasses.replace(space.search, control=False))
        self.ledger = Ledger(space, ResultsFolder(folder), lambda: self.now, views=False)
        if sampler is not None:
            self.ledger._sampler = sampler
        started = time.perf_counter()
        self._fill(slots, epochs)
        while self._due:
            self._next()
            self._fill(slots, epochs)
        self.decision_seconds = time.perf_counter() - started
        self.ledger.close()

    def _fill(self, slots: int, epochs: int) -> None:
        while len(self._due) < slots and self.spent < epochs and (suggested := self.ledger.next_trial()) is not None:
            self._start(suggested)

    def _start(self, suggested: Suggested) -> None:
        self.ledger.started(suggested.number)
        self._losses[suggested.number] = self._curves.losses(suggested.settings, self._seed)
        self._schedule(suggested.number, 1)

    def _schedule(self, number: int, epoch: int) -> None:
        settings = self.ledger.history.trials[number].settings
        heapq.heappush(self._due, (self.now + self._curves.epoch_seconds(settings, self._seed), number, epoch))

    def _next(self) -> None:
        self.now, number, epoch = heapq.heappop(self._due)
        self.spent += 1
        losses = self._losses[number]
        if losses[epoch - 1] <= self._target:
            self.epochs_to_target = min(self.epochs_to_target, self.spent)
        self._note_front(number, losses[epoch - 1])
        answer = self.ledger.report(number, {"epoch": epoch, "val_loss": losses[epoch - 1]})
        if answer == "stop":
            return
        if epoch == len(losses):
            self.ledger.finish(number, TrialOutcome("finished", epoch))
        else:
            self._schedule(number, epoch + 1)

    def _note_front(self, number: int, loss: float) -> None:
        """The lowest loss by positions so far, and how much area that covers."""
        if self._area is None:
            return
        positions = self.ledger.space.settings_of(self.ledger.history.trials[number].settings).positions
        if loss < self._found.get(positions, math.inf):
            self._found[positions] = loss
            self.rises.append((self.spent, self._area(self._found)))

    def finals(self) -> dict[int, tuple[int, float]]:
        """By trial its positions and the lowest loss of its whole curve, run to the end or not."""
        trials = self.ledger.history.trials
        positions = {
            number: self.ledger.space.settings_of(trial.settings).positions for number, trial in trials.items()
        }
        return {number: (positions[number], min(losses)) for number, losses in self._losses.items()}

    def outcome(self, reference: Reference) -> Outcome:
        trials = self.ledger.history.trials
        best = self.ledger.history.best()
        assert best is not None and best.val_loss is not None, "a simulated trial never fails"
        bad = sum(trial.epoch for trial in trials.values() if min(self._losses[trial.number]) > reference.best_tenth)
        hours = self.now / 3600
        return Outcome(
            best.val_loss,
            len(trials),
            self.spent,
            bad / self.spent,
            hours,
            self.decision_seconds,
            self.epochs_to_target,
        )


def table(
    curves: Curves,
    search: SearchSettings,
    *,
    slots: Iterable[int],
    epochs: int,
    seeds: int,
    target: float = -math.inf,
) -> Iterable[str]:
    """The lines of the table, as they become known."""
    reference = Reference.of(curves, draws=10_000)
    asha = f"grace {search.grace_period}, factor {search.reduction_factor}, peers {search.min_peers}"
    yield f"{curves.space.largest('n_epochs')} epochs a trial, {epochs} in all, {seeds} seeds; ASHA: {asha}"
    yield f"10,000 random settings: lowest {reference.lowest:.4f}, best tenth below {reference.best_tenth:.4f}"
    head = f"{'slots':>5}  {'method':<12}{'best':>8}{'behind':>9}{'trials':>8}{'wasted':>8}{'hours':>8}{'ms/trial':>10}"
    yield head + (f"{'to target':>16}" if target > -math.inf else "")
    for count, (name, method) in itertools.product(slots, METHODS.items()):
        outcomes = []
        for seed in range(seeds):
            chosen = dataclasses.replace(method(search), seed=seed, num_samples=NEVER)
            space = dataclasses.replace(curves.space, search=chosen)
            outcomes.append(simulate(curves, space, slots=count, epochs=epochs, reference=reference, target=target))
        yield f"{count:>5}  {name:<12}" + _row(outcomes, reference, has_target=target > -math.inf)


FRONT_METHODS: dict[str, Method] = {
    "random": lambda search: dataclasses.replace(search, objective="loss", startup_trials=NEVER, min_peers=NEVER),
    "loss": lambda search: dataclasses.replace(search, objective="loss"),
    "MOTPE": lambda search: dataclasses.replace(search, objective="front", min_peers=NEVER),
    "no stopping": lambda search: dataclasses.replace(search, objective="front", min_peers=NEVER),
    "front": lambda search: dataclasses.replace(search, objective="front"),
    "MOTPE, stopping": lambda search: dataclasses.replace(search, objective="front"),
}
"""Ways to search a front: at random, for the loss alone, with Optuna's TPE for two objectives, and with ours without
stopping and with it. Optuna itself stops no trial where there are two objectives; with `stopping` our rule does."""


class TwoObjectives(Sampler):
    """Optuna's TPE for positions and loss, in the place of the ledger's sampler; it is told what has finished."""

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        search = space.search
        startup, seed = search.startup_trials, search.seed
        tpe = optuna.samplers.TPESampler(n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed)
        self._study = optuna.create_study(directions=["minimize", "minimize"], sampler=tpe)
        self._asked: dict[int, optuna.Trial] = {}

    def event(self, number: int, history: History) -> dict[str, Any]:
        """See `Sampler`; not a pure function of the history, which a simulation does not need."""
        for other, trial in list(self._asked.items()):
            if (record := history.trials[other]).has_ended and record.val_loss is not None:
                positions = self._space.settings_of(record.settings).positions
                self._study.tell(trial, [math.log(positions), record.val_loss])
                del self._asked[other]
        self._asked[number] = self._study.ask(self._domains)
        return {"event": "suggested", "trial": number, "settings": self._asked[number].params}


SHARES = (0.25, 0.5, 1.0)
FRONT_NOTES = (
    "Searches of a front through the real ledger, over made-up curves with `n_cmps` and `keep_len` searched: the area"
    " that the front covers in (log positions, val_loss), in % of what 10,000 random settings cover. `loss` is what"
    " `search.objective: loss` does; `MOTPE` is Optuna's TPE for two objectives, alone and with our stopping;"
    " `no stopping` is `front` without it. Medians; quartiles in brackets. Epochs are those of all trials together;"
)


@dataclass(frozen=True)
class FrontOutcome:
    """What one simulated search of a front came to.

    Args:
        rises: (epochs spent, area) whenever the area grew, as a share of what 10,000 random settings cover.
        lowest: the lowest loss.
        trials: how many were tried.
        front: how many of them would be on their front if all ran to the end.
        stopped: how many of those were stopped early.
    """

    rises: tuple[tuple[int, float], ...]
    lowest: float
    trials: int
    front: int
    stopped: int

    def area(self, epochs: float) -> float:
        """After so many epochs."""
        return max((area for spent, area in self.rises if spent <= epochs), default=0.0)

    def epochs_to(self, area: float) -> float:
        """Epochs after which the area was at least this."""
        return next((spent for spent, reached in self.rises if reached >= area), math.inf)


class FrontReference:
    """What the area of a front is measured against: the front of random settings, each trained to its end.

    The area is below the median loss of those settings, and between their cheapest and their dearest price.
    """

    def __init__(self, curves: Curves, draws: int) -> None:
        rng = random.Random(0)
        losses: dict[int, float] = {}
        every = []
        for _ in range(draws):
            settings = curves.space.sample(rng)
            final = min(curves.losses(settings, seed=0))
            positions = curves.space.settings_of(settings).positions
            losses[positions] = min(final, losses.get(positions, math.inf))
            every.append(final)
        self._most = 2 * max(losses)  # the dearest price counts, too
        self._worst = statistics.median(every)
        self._whole = hypervolume(losses, self._most, self._worst)

    def area(self, losses: Mapping[int, float]) -> float:
        """As a share of the reference."""
        return hypervolume(losses, self._most, self._worst) / self._whole


def simulate_front(
    curves: Curves,
    space: Space,
    *,
    slots: int,
    epochs: int,
    reference: FrontReference,
    sampler: Sampler | None = None,
) -> FrontOutcome:
    """Search until `epochs` epochs were trained; trials that still run then are finished."""
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as folder:
        run = _Run(curves, space, Path(folder), slots, epochs, -math.inf, reference.area, sampler)
    finals, trials = run.finals(), run.ledger.history.trials
    front = [number for number, final in finals.items() if not any(_beats(other, final) for other in finals.values())]
    stopped = sum(trials[number].status == "stopped" for number in front)
    lowest = run.ledger.history.best()
    assert lowest is not None and lowest.val_loss is not None
    return FrontOutcome(tuple(run.rises), lowest.val_loss, len(trials), len(front), stopped)


def _beats(one: tuple[int, float], other: tuple[int, float]) -> bool:
    """Whether (positions, loss) is better in one and worse in none."""
    return one != other and one[0] <= other[0] and one[1] <= other[1]


def front_rows(
    curves: Curves,
    search: SearchSettings,
    *,
    slots: Iterable[int],
    epochs: int,
    seeds: int,
    methods: Iterable[str] = tuple(FRONT_METHODS),
) -> Iterator[dict[str, Any]]:
    """The rows of the table of fronts, as they become known; medians over the seeds."""
    reference = FrontReference(curves, draws=10_000)
    for count in slots:
        target = None
        for name in sorted(methods, key=lambda name: name != "loss"):
            outcomes = []
            for seed in range(seeds):
                chosen = dataclasses.replace(FRONT_METHODS[name](search), seed=seed, num_samples=NEVER)
                space = dataclasses.replace(curves.space, search=chosen)
                sampler = TwoObjectives(space) if name.startswith("MOTPE") else None
                outcomes.append(
                    simulate_front(curves, space, slots=count, epochs=epochs, reference=reference, sampler=sampler)
                )
            target = target or [outcome.area(math.inf) for outcome in outcomes]
            yield {"slots": count, "search": name, **_front_row(outcomes, target, epochs)}


def _front_row(outcomes: list[FrontOutcome], targets: list[float], epochs: int) -> dict[str, Any]:
    areas = {
        f"area after {share * epochs:.0f} epochs, %": round(
            100 * statistics.median(outcome.area(share * epochs) for outcome in outcomes), 1
        )
        for share in SHARES
    }
    lowest = [outcome.lowest for outcome in outcomes]
    needed = sorted(outcome.epochs_to(target) for outcome, target in zip(outcomes, targets, strict=True))
    quarter = len(needed) // 4
    quartiles = [statistics.median(needed), needed[quarter], needed[-1 - quarter]]
    middle, low, high = ("never" if math.isinf(value) else f"{value:.0f}" for value in quartiles)
    stopped = sum(outcome.stopped for outcome in outcomes) / sum(outcome.front for outcome in outcomes)
    return {
        **areas,
        "epochs to the final area of loss": f"{middle} ({low}-{high})",
        "lowest loss": round(statistics.median(lowest), 4),
        "its spread": round(statistics.stdev(lowest), 4) if len(lowest) > 1 else 0.0,
        "trials": statistics.median(outcome.trials for outcome in outcomes),
        "of the front stopped early, %": round(100 * stopped, 1),
    }


def sweep(curves: Curves, search: SearchSettings, *, slots: Iterable[int], epochs: int, seeds: int) -> Iterable[str]:
    """The lines of the other table: one setting at a time, everything else as in `search`."""
    reference = Reference.of(curves, draws=10_000)
    yield f"{epochs} epochs in all, {seeds} seeds; thousandths of a nat behind the lowest of 10,000 random settings"
    yield f"{'':<22}" + "".join(f"{f'{count} slots':>18}" for count in slots)
    for name, values in SWEPT.items():
        for value in values:
            changed = dataclasses.replace(search, num_samples=NEVER, **{name: value})
            cells = []
            for count in slots:
                spaces = [
                    dataclasses.replace(curves.space, search=dataclasses.replace(changed, seed=s)) for s in range(seeds)
                ]
                outcomes = [
                    simulate(curves, space, slots=count, epochs=epochs, reference=reference) for space in spaces
                ]
                behind = [1000 * (outcome.best - reference.lowest) for outcome in outcomes]
                error = statistics.stdev(behind) / seeds**0.5 if seeds > 1 else 0.0
                cells.append(f"{statistics.mean(behind):>11.1f} ± {error:>4.1f}")
            yield f"{name:<17}{value:>4}{'*' if value == getattr(search, name) else ' '}" + "".join(cells)


def _row(outcomes: list[Outcome], reference: Reference, *, has_target: bool) -> str:
    def median(value: Callable[[Outcome], float]) -> float:
        return statistics.median(value(outcome) for outcome in outcomes)

    best = median(lambda outcome: outcome.best)
    cost = median(lambda outcome: 1000 * outcome.decision_seconds / outcome.trials)
    reached = sorted(outcome.epochs_to_target for outcome in outcomes)
    quarter = len(reached) // 4
    to_target = f"{statistics.median(reached):.0f} ({reached[quarter]:.0f}-{reached[-1 - quarter]:.0f})"
    return (
        f"{best:>8.4f}{best - reference.lowest:>9.4f}{median(lambda o: o.trials):>8.0f}"
        f"{median(lambda o: o.wasted):>8.0%}{median(lambda o: o.hours):>8.2f}{cost:>10.1f}"
        + (f"{to_target:>16}" if has_target else "")
    )


def _fast_folder() -> str | None:
    """Memory instead of a disk: a simulated search has nothing to lose in a power cut."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _curves(options: argparse.Namespace) -> Curves:
    if options.results:
        return RecordedCurves.of_results(options.results)
    if options.front:
        return PricedCurves.default(options.trial_epochs)
    if options.curves:
        return InterpolatedCurves.of_benchmark(options.curves)
    return FormulaCurves.default(options.trial_epochs)


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, help="a results folder whose curves are used instead of the formula")
    parser.add_argument("--curves", type=Path, help="the --cache of tests.benchmarks.search, likewise")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--epochs", type=int, default=600, help="epochs that each method may spend, over all trials")
    parser.add_argument("--trial-epochs", type=int, default=10, help="epochs of a whole trial (formula only)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--target", type=float, default=-math.inf, help="a val_loss, for the last column")
    parser.add_argument(
        "--trusted",
        type=float,
        default=agreement.TRUSTED,
        help="agreement a rung needs to stop trials; 0 is plain ASHA",
    )
    parser.add_argument("--sweep", action="store_true", help="one setting of the default method at a time")
    defaults = SearchSettings()
    for name in ("startup_trials", "grace_period", "reduction_factor", "min_peers"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name))
    parser.add_argument("--front", action="store_true", help="searches of a front")
    parser.add_argument("--methods", nargs="+", choices=list(FRONT_METHODS), default=list(FRONT_METHODS))
    parser.add_argument("--record", metavar="NAME", help="write the table of fronts to results/NAME.json")
    options = parser.parse_args()
    agreement.TRUSTED = options.trusted
    curves = _curves(options)
    search = SearchSettings(
        startup_trials=options.startup_trials,
        grace_period=options.grace_period,
        reduction_factor=options.reduction_factor,
        min_peers=options.min_peers,
    )
    if options.front:
        rows = []
        for row in front_rows(
            curves, search, slots=options.slots, epochs=options.epochs, seeds=options.seeds, methods=options.methods
        ):
            rows.append(row)
            print(row, flush=True)
        if options.record is not None:
            budget = f"{curves.space.largest('n_epochs')} epochs a trial, {options.seeds} seeds"
            record(options.record, "tests.benchmarks.simulate", f"{FRONT_NOTES} {budget}.", rows)
        return
    show = sweep if options.sweep else functools.partial(table, target=options.target)
    for line in show(curves, search, slots=options.slots, epochs=options.epochs, seeds=options.seeds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
