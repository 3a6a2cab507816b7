"""Checks a journal against the promises of a search, from the file alone: nothing is imported from the program.

    python tests/search/check_journal.py results/demo/journal.jsonl

prints one line per broken promise and exits 1, or a summary and exits 0. The crash harness calls `violations` after
every kill, and `trajectory` to compare an interrupted search with an unbroken one.
"""

import itertools
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FAILURES = {"diverged", "out_of_memory", "failed", "worker_died"}
ENDS = {"stopped", "finished", "failed"}
MAY_CHANGE = {
    *("control", "confirm", "num_samples", "max_concurrent", "time_budget_seconds", "tracker", "best_positions"),
    *("gpu_hours", "trial_time_limit_seconds", "first", "learn_from"),
}


@dataclass
class TrialState:
    """What the journal has said of one trial so far."""

    settings: dict[str, Any]
    n_epochs: int
    running: bool = False
    attempts: int = 0
    losses: dict[int, float | None] = field(default_factory=dict)
    end: dict[str, Any] | None = None
    must_end: str | None = None
    why: str | None = None
    asked: bool = False
    since: float = 0.0
    seconds: float = 0.0
    extra: bool = False


class Checker:
    """Walks through the events once and collects what is wrong."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.trials: dict[int, TrialState] = {}
        self.spaces: list[dict[str, Any]] = []
        self.rung_losses: dict[int, list[dict[int, float]]] = {}
        self.finalists: set[tuple[int, int]] = set()
        self.line = 0
        self.leaving = False
        self.completed = False
        self.suggested_here = False

    def check(self, condition: bool, message: str) -> bool:
        """Note a broken promise."""
        if not condition:
            self.problems.append(f"line {self.line}: {message}")
        return condition

    def walk(self, event: dict[str, Any]) -> None:
        """Check one event against all before it."""
        self.line += 1
        kind = event.get("event")
        self.check(isinstance(event.get("time"), float | int), "no time")
        if kind != "session":
            self.check(bool(self.spaces), f"{kind} before the first session")
            self.check(not self.completed, f"{kind} after completed")
        number = event.get("trial")
        for other, trial in self.trials.items():
            if trial.must_end is not None and kind != "session" and (other != number or kind != trial.must_end):
                self.check(False, f"trial {other} had to be {trial.must_end} at once")
                trial.must_end = None
        if kind in ("session", "interrupted", "completed", "learned"):
            getattr(self, f"on_{kind}")(event)
        elif kind == "suggested":
            self.on_suggested(event)
        elif self.check(number in self.trials, f"{kind} of trial {number}, which was never suggested"):
            trial = self.trials[number]
            if kind == "retried":
                self.on_retried(event, trial)
            elif self.check(
                trial.end is None, f"{kind} of trial {number} after it had {(trial.end or {}).get('event')}"
            ):
                getattr(self, f"on_{kind}", self.on_unknown)(event, trial)

    def on_unknown(self, event: dict[str, Any], trial: TrialState) -> None:
        self.check(False, f"unknown event {event.get('event')!r}")

    def on_session(self, event: dict[str, Any]) -> None:
        self.check(event["run"] == len(self.spaces) + 1, f"session {event['run']} follows {len(self.spaces)} sessions")
        self.spaces.append(event["space"])
        changed = [
            name
            for name, value in self.spaces[0].items()
            if name not in ("search", "resources") and event["space"].get(name) != value
        ]
        changed += [
            f"search.{name}"
            for name, value in self.spaces[0]["search"].items()
            if name not in MAY_CHANGE and event["space"]["search"][name] != value
        ]
        allowed = {"exp_name", "save_root", "data_root", "testing", "n_data_procs", "checkpt_mod"}
        allowed |= {"multi_gpu", "model_parallel"}
        self.check(not set(changed) - allowed, f"the session changed {changed}")
        self.leaving = self.completed = self.suggested_here = False
        for trial in self.trials.values():
            trial.running = False

    def on_learned(self, event: dict[str, Any]) -> None:
        wanted = self.spaces[-1]["search"].get("learn_from", [])
        self.check(event["from"] in wanted, f"learned from {event['from']}, which the space does not name")
        self.check(not self.suggested_here, f"learned from {event['from']} after a suggestion of this session")

    def on_interrupted(self, event: dict[str, Any]) -> None:
        self.leaving = True

    def on_completed(self, event: dict[str, Any]) -> None:
        open_trials = [number for number, trial in self.trials.items() if trial.end is None]
        budgets = ("time_budget_seconds", "gpu_hours")
        in_time = all(self.spaces[-1]["search"].get(budget) is None for budget in budgets)
        self.check(not (open_trials and in_time), f"completed, but trials {open_trials} had not ended")
        self.completed = True

    def on_suggested(self, event: dict[str, Any]) -> None:
        number, settings, space = event["trial"], event["settings"], self.spaces[-1]
        self.suggested_here = True
        if (wanted := event.get("first")) is not None:
            known = wanted in space["search"]["first"] and wanted.items() <= settings.items()
            self.check(known, f"trial {number} is not {wanted}, or search.first does not have it")
        chosen = [other for other in self.trials if other >= 0]
        if number < 0:
            self.on_extra(event, chosen)
        else:
            self.check(number == len(chosen), f"trial {number} suggested after {len(chosen)} trials")
            self.check(number < space["search"]["num_samples"], f"trial {number} is beyond num_samples")
        self.check(not self.leaving, f"trial {number} suggested after the interruption")
        searched = {name for name, value in space.items() if is_domain(name, value)}
        self.check(set(settings) == searched, f"trial {number} has settings {sorted(settings)}")
        for name in searched & set(settings):
            self.check(inside(space[name], settings[name]), f"{name}={settings[name]} is outside {space[name]}")
        if space["search"]["max_concurrent"] == 1:
            unfinished = [other for other, trial in self.trials.items() if trial.end is None]
            self.check(not unfinished, f"trial {number} suggested before {unfinished} were continued")
        self.trials[number] = TrialState(settings, settings.get("n_epochs", space["n_epochs"]), extra=number < 0)

    def on_extra(self, event: dict[str, Any], chosen: list[int]) -> None:
        """The text control is number -1 and comes once; finalists come when all trials have ended, each seed once."""
        number, role = event["trial"], event["role"]
        self.check(number not in self.trials, f"extra trial {number} suggested twice")
        self.check(role in ("control", "confirm"), f"extra trial {number} is a {role}")
        self.check((number == -1) == (role == "control"), f"number {number} for a {role}")
        if role == "confirm":
            unfinished = [other for other in chosen if self.trials[other].end is None]
            self.check(not unfinished, f"finalist {number} before {unfinished} had ended")
            self.check(event["settings"] == self.trials[event["of"]].settings, f"finalist {number} has other settings")
            self.check((event["of"], event["seed"]) not in self.finalists, f"finalist {number} was there before")
            self.finalists.add((event["of"], event["seed"]))

    def on_started(self, event: dict[str, Any], trial: TrialState) -> None:
        trial.attempts += 1
        self.check(event["attempt"] == trial.attempts, f"attempt {event['attempt']} of trial {event['trial']}")
        trial.running, trial.since = True, event["time"]

    def on_retried(self, event: dict[str, Any], trial: TrialState) -> None:
        end = trial.end or {}
        failed = end.get("event") == "failed" and end.get("kind") != "diverged"
        self.check(failed, f"trial {event['trial']} retried after {end.get('kind', end.get('event'))}")
        trial.end = None

    def on_stop_asked(self, event: dict[str, Any], trial: TrialState) -> None:
        self.check(not trial.asked, f"trial {event['trial']} was asked to stop twice")
        trial.asked = True

    def on_reported(self, event: dict[str, Any], trial: TrialState) -> None:
        number, epoch, loss = event["trial"], event["epoch"], event["metrics"].get("val_loss")
        self.check(trial.running, f"trial {number} reported without having been started in this session")
        self.check(epoch not in trial.losses, f"trial {number} reported epoch {epoch} twice")
        wanted = max(trial.losses, default=0) + 1
        self.check(epoch <= wanted, f"trial {number} reported epoch {epoch} where {wanted} was due: a report is lost")
        self.check(epoch <= trial.n_epochs, f"trial {number} reported epoch {epoch} of {trial.n_epochs}")
        self.check(event["metrics"].get("epoch", epoch) == epoch, f"trial {number}: metrics of another epoch")
        trial.losses[epoch] = loss
        if trial.running:
            trial.seconds += event["time"] - trial.since
            trial.since = event["time"]
        if loss is None or not math.isfinite(loss):
            trial.must_end = "failed"
        elif not trial.extra:
            trial.why = self.reason_to_stop(trial, epoch, event["metrics"])
            trial.must_end = "stopped" if trial.why is not None and epoch < trial.n_epochs else None

    def reason_to_stop(self, trial: TrialState, epoch: int, metrics: dict[str, Any]) -> str | None:
        """Whose wish comes first; a trial that the user stops is not compared with others."""
        if trial.asked:
            return "user"
        if self.asha_stops(epoch, self.by_price(trial, metrics)):
            return "asha"
        limit = self.spaces[-1]["search"].get("trial_time_limit_seconds")
        return "time limit" if limit is not None and trial.seconds >= limit else None

    def by_price(self, trial: TrialState, metrics: dict[str, Any]) -> dict[int, float]:
        """Losses by positions, of all vectors and of each prefix; at one price for all where only the loss counts."""
        space = self.spaces[-1]
        if space["search"].get("objective") != "front":
            return {0: metrics["val_loss"]}
        value = {name: trial.settings.get(name, space.get(name)) for name in ("n_cmps", "keep_len", "piece_len")}
        context = trial.settings.get("cmp_len", space["cmp_len"])
        if space["rmb_only"]:
            context = trial.settings.get("seq_len", space["seq_len"])
        pieces = math.ceil((context - value["keep_len"]) / value["piece_len"]) if value["piece_len"] else 1
        losses = {value["n_cmps"]: metrics["val_loss"]}
        losses |= {int(n): loss for n, loss in (metrics.get("nested") or {}).items() if loss is not None}
        return {n * pieces + value["keep_len"]: loss for n, loss in losses.items()}

    def asha_stops(self, epoch: int, losses: dict[int, float]) -> bool:
        """The rule once more: at a rung with enough peers only the best 1/factor, rounded up, go on.

        Peers at a price are those that have a loss at it or below, with the lowest of these; a trial stops when it is
        not among the best at any of its prices.

        Unless six trials or more went on from there, and in over a quarter of their pairs the better one was another
        at the next rung, or at the end.
        """
        search = self.spaces[-1]["search"]
        power = math.log(epoch / search["grace_period"], search["reduction_factor"]) if epoch else 0.5
        on_rung = power > -1e-9 and abs(power - round(power)) < 1e-9
        if not on_rung or epoch >= self.longest():
            return False
        later = min(epoch * search["reduction_factor"], self.longest())
        others = self.rung_losses.setdefault(epoch, [])
        beaten = []
        for price, loss in losses.items():
            within = ([at for cost, at in other.items() if cost <= price] for other in others)
            peers = [min(found) for found in within if found]
            number = len(peers) + 1
            is_worse = sum(peer < loss for peer in peers) * search["reduction_factor"] >= number + (
                -number % search["reduction_factor"]
            )
            beaten.append(is_worse and len(peers) >= search["min_peers"])
        others.append(losses)
        return all(beaten) and not self.is_misleading(epoch, later)

    def is_misleading(self, epoch: int, later: int) -> bool:
        known = [
            (trial.losses.get(epoch), trial.losses.get(later)) for trial in self.trials.values() if not trial.extra
        ]
        both = [(a, b) for a, b in known if a is not None and b is not None and math.isfinite(a + b)]
        if len(both) < 6:
            return False
        pairs = list(itertools.combinations(both, 2))
        swapped = sum((a - c) * (b - d) < 0 for (a, b), (c, d) in pairs)
        tied = sum((a - c) * (b - d) == 0 for (a, b), (c, d) in pairs)
        return swapped + tied / 2 > len(pairs) / 4

    def longest(self) -> int:
        n_epochs = self.spaces[-1]["n_epochs"]
        if not isinstance(n_epochs, dict):
            return n_epochs
        return max(next(value for name, value in n_epochs.items() if name != "step"))

    def on_stopped(self, event: dict[str, Any], trial: TrialState) -> None:
        number, why = event["trial"], event.get("reason", "asha")
        if why == "user":
            self.check(trial.asked, f"trial {number} was stopped by the user, who did not ask for it")
        else:
            due = trial.must_end == "stopped" and trial.why == why
            self.check(due, f"trial {number} was stopped ({why}), but its losses do not ask for it")
        last = max(trial.losses, default=0)
        self.check(event["epoch"] == last, f"trial {number} stopped at {event['epoch']}, not at {last}")
        rung = last if why == "asha" else None
        self.check(event["rung"] == rung, f"trial {number} stopped at rung {event['rung']}, not {rung}")
        self.end(event, trial)

    def on_finished(self, event: dict[str, Any], trial: TrialState) -> None:
        complete = sorted(trial.losses) == list(range(1, trial.n_epochs + 1))
        self.check(complete, f"trial {event['trial']} finished with epochs {sorted(trial.losses)} of {trial.n_epochs}")
        self.check(event["epoch"] == trial.n_epochs, f"trial {event['trial']} finished at epoch {event['epoch']}")
        self.end(event, trial)

    def on_failed(self, event: dict[str, Any], trial: TrialState) -> None:
        self.check(event["kind"] in FAILURES, f"trial {event['trial']} failed by {event['kind']!r}")
        self.check(bool(event["reason"]), f"trial {event['trial']} failed without a reason")
        self.end(event, trial)

    def end(self, event: dict[str, Any], trial: TrialState) -> None:
        trial.end, trial.must_end, trial.running = event, None, False


def is_domain(name: str, value: Any) -> bool:
    return isinstance(value, dict) and name not in ("search", "resources")


def inside(domain: dict[str, Any], value: Any) -> bool:
    """Whether a value can come from a domain as a space file writes it."""
    if "choice" in domain:
        return value in domain["choice"]
    low, high = next(body for word, body in domain.items() if word != "step")
    on_step = (value - low) % domain.get("step", 1) == 0 if "int" in domain else True
    whole = isinstance(value, int) if "int" in domain or "logint" in domain else True
    return low <= value <= high and on_step and whole


def read(path: Path) -> list[dict[str, Any]]:
    """The events; a torn last line is left out, as the program does at its next start."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def violations(path: Path, *, ended: bool = False) -> list[str]:
    """Broken promises, one line each. `ended` also demands that the search has completed."""
    checker = Checker()
    for event in read(path):
        checker.walk(event)
    if ended:
        checker.check(checker.completed, "the search did not complete")
        due = [number for number, trial in checker.trials.items() if trial.must_end is not None]
        checker.check(not due, f"trials {due} had to end")
    return checker.problems


def trajectory(path: Path) -> dict[int, tuple[dict[str, Any], dict[int, float | None], tuple[Any, ...] | None]]:
    """What a search did, without when and where: by trial its settings, its losses and its end."""
    checker = Checker()
    for event in read(path):
        checker.walk(event)
    return {
        number: (
            trial.settings,
            trial.losses,
            trial.end and tuple(trial.end.get(key) for key in ("event", "epoch", "kind")),
        )
        for number, trial in checker.trials.items()
    }


def main(path: str) -> int:
    """Print what is wrong."""
    problems = violations(Path(path))
    for problem in problems:
        print(problem)
    if not problems:
        trials = trajectory(Path(path))
        epochs = sum(len(losses) for _, losses, _ in trials.values())
        print(f"{len(trials)} trials, {epochs} epochs: no promise broken")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
