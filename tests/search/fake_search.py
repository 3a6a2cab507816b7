"""A search without training: losses are a formula of settings and epoch, trials are a few numbers in memory.

Drives the real ledger the way `engine.tuner` does, in an order that a seed decides, and can be cut off anywhere.
"""

import math
import random
from pathlib import Path
from typing import Any

from cmp.results.folder import ResultsFolder
from cmp.search.decide.ledger import Ledger, Suggested
from cmp.space.space import Space
from cmp.train.session import TrialOutcome


class Clock:
    """Unix seconds that go on by a little at every look."""

    def __init__(self, now: float = 1_000_000.0, step: float = 0.01) -> None:
        self.now = now
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def make_space(
    *, n_epochs: int = 4, searched: dict[str, Any] | None = None, nested: bool = False, **search: Any
) -> Space:
    """A space over three kinds of domains, 8 trials, rungs at 1 and 3."""
    domains = {
        "lr": {"loguniform": [1e-4, 1e-1]},
        "n_cmps": {"int": [2, 16], "step": 2},
        "cmp_layer": {"choice": ["half", -1, 6]},
    }
    settings = {"model_string": "m", "dataset": "d", "exp_name": "fake", "n_epochs": n_epochs, "nested": nested}
    defaults = {"num_samples": 8, "startup_trials": 3, "min_peers": 2, "control": False}
    return Space.from_dict(
        {**settings, **(domains if searched is None else searched), "search": {**defaults, **search}}
    )


def fake_loss(settings: dict[str, Any], epoch: int) -> float:
    """A learning curve: better near lr 5e-3 and with more vectors; diverges at high learning rates."""
    lr, layer = settings.get("lr", 5e-3), settings.get("cmp_layer", "half")
    if lr > 0.04 and epoch == (1 if lr > 0.06 else 2):
        return math.nan
    wiggle = math.sin(1e4 * lr + settings.get("n_cmps", 4) * epoch) / 50
    return 2.0 + abs(math.log(lr / 5e-3)) / 4 + {"half": 0.0, -1: 0.1, 6: 0.2}[layer] + 1.0 / epoch + wiggle


class FakeTrial:
    """A trial at work: reports every epoch from its checkpoint's history on, then its outcome."""

    def __init__(self, suggested: Suggested) -> None:
        self.suggested = suggested
        self.number = suggested.number
        self.next_epoch = 1
        self.fails = suggested.settings.get("cmp_layer") == 6 and suggested.settings.get("n_cmps", 0) >= 14

    def step(self, ledger: Ledger) -> bool:
        """Report one epoch, or end; returns whether the trial is still at work."""
        if self.fails and self.next_epoch == 2:
            ledger.finish(self.number, TrialOutcome("failed", 1, "cannot do this"))
            return False
        if self.next_epoch > self.suggested.trial_settings.n_epochs:
            ledger.finish(self.number, TrialOutcome("finished", self.next_epoch - 1))
            return False
        loss = fake_loss(self.suggested.settings, self.next_epoch)
        report = {"epoch": self.next_epoch, "loops": 10 * self.next_epoch, "val_loss": loss}
        if self.suggested.trial_settings.nested:
            report["nested"] = {
                str(n): loss + 0.2 / n for n in (1, 2, 4, 8) if n < self.suggested.trial_settings.n_cmps
            }
        self.next_epoch += 1
        return ledger.report(self.number, report) == "continue"


class KilledError(Exception):
    """The process is gone at this point."""


def run(
    space: Space,
    path: Path | ResultsFolder,
    *,
    slots: int = 1,
    seed: int = 0,
    kill_after_events: int | None = None,
    views: bool = False,
) -> Ledger:
    """Search until nothing is left, `slots` trials at once, in an order that `seed` decides.

    Args:
        kill_after_events: raise KilledError once this session has journalled so many events, before they have any
            effect outside the journal.
    """
    folder = path if isinstance(path, ResultsFolder) else ResultsFolder(path)
    ledger = Ledger(space, folder, Clock(), views=views)
    if kill_after_events is not None:
        _kill_after(ledger, kill_after_events)
    rng = random.Random(seed)
    working: list[FakeTrial] = []
    while True:
        while len(working) < slots and (suggested := ledger.next_trial()) is not None:
            ledger.started(suggested.number, node="here", pid=1)
            working.append(FakeTrial(suggested))
        if not working:
            break
        trial = rng.choice(working)
        if not trial.step(ledger):
            working.remove(trial)
    ledger.complete()
    ledger.close()
    return ledger


def _kill_after(ledger: Ledger, events: int) -> None:
    append = ledger._journal.append
    left = events

    def append_then_die(event: Any) -> Any:
        nonlocal left
        written = append(event)
        left -= 1
        if left <= 0:
            ledger._journal.close()
            raise KilledError
        return written

    ledger._journal.append = append_then_die  # type: ignore[method-assign]
