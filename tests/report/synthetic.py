"""Results folders as a search would leave them, made up: any number of trials, any outcome, no training.

Those here are of searches before there was a text control; `honest` makes the others.

The numbers behave like real ones (losses fall along a curve whose floor depends on the settings, ASHA stops the worse
two thirds at each rung, slots run side by side), so that the page can be judged by eye. `python -m
tests.report.synthetic FOLDER KIND` writes one to look at.
"""

import json
import math
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmp.results.space_file import write_space_file
from cmp.space.space import Space

NO_CONTEXT, FULL_CONTEXT = 2.5214, 1.5271
EPOCHS, LOOPS_PER_EPOCH = 9, 100
START = 1_790_000_000.0
KINDS = ("none", "suggested", "one", "failed", "typical", "running", "interrupted", "harmful", "many")

SPACE: dict[str, Any] = {
    "exp_name": "stories <b>&",
    "save_root": "results",
    "model_string": "stories260K",
    "dataset": "tinystories/stories.txt",
    "seed": 0,
    "cmp_len": {"choice": [50, 100]},
    "seq_len": 40,
    "n_cmps": {"logint": [1, 16]},
    "cmp_layer": {"choice": ["half", -1, 2]},
    "lr": {"loguniform": [1e-4, 3e-2]},
    "memory": {"choice": ["hidden", "kv"]},
    "l2": {"uniform": [0.0, 0.1]},
    "batch_size": 32,
    "n_train_loops": LOOPS_PER_EPOCH,
    "n_epochs": EPOCHS,
    "search": {"num_samples": 12, "grace_period": 1, "reduction_factor": 3, "min_peers": 2, "seed": 0},
    "resources": {"workers": 1},
}


@dataclass
class Trial:
    """One simulated trial and its place in time."""

    number: int
    settings: dict[str, Any]
    slot: int
    end: float = 0.0
    losses: list[float] = field(default_factory=list)


def sample(rng: random.Random) -> dict[str, Any]:
    """Settings drawn from `SPACE` by hand, without the package under test."""
    return {
        "cmp_len": rng.choice([50, 100]),
        "n_cmps": round(math.exp(rng.uniform(0, math.log(16)))),
        "cmp_layer": rng.choice(["half", -1, 2]),
        "lr": math.exp(rng.uniform(math.log(1e-4), math.log(3e-2))),
        "memory": rng.choice(["hidden", "kv"]),
        "l2": rng.uniform(0.0, 0.1),
    }


def full_context(settings: dict[str, Any]) -> float:
    """The upper bound depends on how much context there is."""
    return FULL_CONTEXT + (0.06 if settings["cmp_len"] == 50 else 0.0)


def loss_at(settings: dict[str, Any], epoch: int, rng: random.Random) -> float:
    """A falling curve; its floor has an optimum in lr and falls with the number of vectors."""
    off_lr = (math.log10(settings["lr"]) - math.log10(5e-3)) ** 2
    floor = 0.22 + 0.12 * off_lr + 0.16 / math.sqrt(settings["n_cmps"]) + (0.05 if settings["memory"] == "kv" else 0)
    floor += {"half": 0.0, -1: 0.03, 2: 0.07}[settings["cmp_layer"]]
    share = floor + (0.9 - min(floor, 0.9)) * math.exp(-epoch / 2.2)
    full = full_context(settings)
    return full + share * (NO_CONTEXT - full) + rng.gauss(0, 0.008)


def metrics(settings: dict[str, Any], epoch: int, val_loss: float, seconds: float) -> dict[str, Any]:
    """What a trial reports after an epoch."""
    full = full_context(settings)
    return {
        "epoch": epoch,
        "loops": epoch * LOOPS_PER_EPOCH,
        "tokens": epoch * LOOPS_PER_EPOCH * 32 * 40,
        "train_loss": val_loss - 0.03,
        "val_loss": val_loss,
        "val_ppl": math.exp(val_loss),
        "val_acc": 0.61 - 0.1 * (val_loss - 1.5),
        "val_top5": 0.84 - 0.1 * (val_loss - 1.5),
        "no_context_loss": NO_CONTEXT,
        "full_context_loss": full,
        "recovered": (NO_CONTEXT - val_loss) / (NO_CONTEXT - full),
        "compression_ratio": settings["cmp_len"] / settings["n_cmps"],
        "tokens_per_second": 32 * 40 * LOOPS_PER_EPOCH / seconds,
        "peak_memory_bytes": 512_000_000,
        "seconds": seconds * epoch,
        "lr": settings["lr"],
        "val_rmb_loss": None,
        "val_rmb_acc": None,
    }


class Simulation:
    """A search in simulated time: `slots` trials at once, ASHA, some failures."""

    def __init__(
        self,
        n_trials: int,
        *,
        slots: int,
        seed: int,
        failures: dict[int, str],
        harmful: bool = False,
        from_epoch: int = 2,
    ) -> None:
        self.rng = random.Random(seed)
        self.n_trials, self.failures, self.harmful = n_trials, failures, harmful
        self.from_epoch = from_epoch
        self.free_at = [START + 5.0] * slots
        self.rungs: dict[int, list[float]] = {1: [], 3: []}
        self.events: list[dict[str, Any]] = []

    def run(self) -> list[dict[str, Any]]:
        """All events, in order of time, the opening session event first."""
        for number in range(self.n_trials):
            slot = min(range(len(self.free_at)), key=lambda s: self.free_at[s])
            self.free_at[slot] = self.play(number, self.free_at[slot])
        events = sorted(self.events, key=lambda e: e["time"])
        end = max(self.free_at) + 1.0
        return [session(START, 1), *events, {"time": end, "event": "completed"}]

    def play(self, number: int, start: float) -> float:
        """One trial from its suggestion to its end; the time at which its slot is free again."""
        settings = self.settings()
        self.add(start, "suggested", trial=number, settings=settings)
        self.add(start + 0.1, "started", trial=number, attempt=1, node="127.0.0.1", pid=4000 + number)
        seconds, now = self.rng.uniform(7.0, 11.0), start + 0.5
        for epoch in range(1, EPOCHS + 1):
            now += seconds
            if number in self.failures and epoch >= self.from_epoch:
                return self.fail(number, epoch - 1, now)
            loss = self.loss(settings, epoch)
            reported = self.metrics(settings, epoch, loss, seconds)
            self.add(now, "reported", trial=number, epoch=epoch, metrics=reported)
            if self.stops(epoch, loss):
                self.add(now + 0.01, "stopped", trial=number, epoch=epoch, rung=epoch)
                return now + 0.3
        self.add(now + 0.05, "finished", trial=number, epoch=EPOCHS)
        return now + 0.3

    def settings(self) -> dict[str, Any]:
        """Of the next trial."""
        return sample(self.rng)

    def loss(self, settings: dict[str, Any], epoch: int) -> float:
        """After an epoch."""
        return loss_at(settings, epoch, self.rng) + (1.4 if self.harmful else 0.0)

    def metrics(self, settings: dict[str, Any], epoch: int, loss: float, seconds: float) -> dict[str, Any]:
        """Of a report."""
        return metrics(settings, epoch, loss, seconds)

    def fail(self, number: int, epoch: int, now: float) -> float:
        kind = self.failures[number]
        reason = {
            "diverged": "val_loss is not finite at loop 137: try a smaller lr (0.0291)",
            "out_of_memory": "out of memory: <CUDA> wanted 2.1 GiB; try a smaller batch_size or more n_grad_loops",
        }.get(kind, "RuntimeError: the <script>alert('tokenizer')</script> & friends")
        log = f"trials/{number:04d}/log.txt"
        self.add(now, "failed", trial=number, kind=kind, reason=reason, log=log, epoch=epoch)
        return now + 0.3

    def stops(self, epoch: int, loss: float) -> bool:
        """ASHA: stop unless among the best third of the rung so far."""
        if epoch not in self.rungs:
            return False
        peers = self.rungs[epoch]
        peers.append(loss)
        return len(peers) >= 3 and sorted(peers).index(loss) >= max(1, len(peers) // 3)

    def add(self, time: float, event: str, **fields: Any) -> None:
        self.events.append({"time": round(time, 3), "event": event, **fields})


def session(time: float, run: int) -> dict[str, Any]:
    """The event that every start writes."""
    return {
        "time": time,
        "event": "session",
        "run": run,
        "host": "workstation",
        "pid": 999_999,
        "versions": {"python": "3.11.9", "torch": "2.13.0", "ray": "2.60.0", "optuna": "5.0.0"},
        "commit": "5e18127",
        "num_samples": 12,
        "max_concurrent": 2,
        "resources": {"workers": 1, "cpus_per_worker": 1.0, "gpus_per_worker": 0.0, "max_concurrent": 2},
        "hardware": {"processor": "AMD EPYC", "cores": 2, "memory": "24 GiB"},
        "data": {
            "documents": 317,
            "tokens": 104_502,
            "train_windows": 599,
            "validation_windows": 72,
            "test_windows": 72,
        },
        "facts": {"model": "5a3c1f", "data": "09bd7e"},
        "time_budget_seconds": None,
        "space": Space.from_dict(SPACE).to_dict(),
    }


def events_of(kind: str) -> list[dict[str, Any]]:
    """The journal of one of `KINDS`."""
    if kind in ("none", "suggested"):
        suggested = {"time": START + 1, "event": "suggested", "trial": 0, "settings": sample(random.Random(0))}
        return [session(START, 1), suggested][: 1 if kind == "none" else 2]
    if kind == "one":
        return Simulation(1, slots=1, seed=4, failures={}).run()
    if kind == "failed":
        kinds = ["diverged", "out_of_memory", "failed"]
        return Simulation(5, slots=2, seed=5, failures={n: kinds[n % 3] for n in range(5)}, from_epoch=1).run()
    if kind == "harmful":
        return Simulation(8, slots=2, seed=3, failures={}, harmful=True).run()
    if kind == "many":
        return Simulation(500, slots=8, seed=7, failures=dict.fromkeys(range(11, 500, 40), "diverged")).run()
    typical = Simulation(12, slots=2, seed=2, failures={3: "diverged"}).run()
    if kind == "typical":
        return typical
    cut = typical[: int(len(typical) * 0.62)]
    if kind == "interrupted":
        return [*cut, {"time": cut[-1]["time"] + 2, "event": "interrupted", "signal": "SIGINT"}]
    return cut


def examples() -> dict[str, Any]:
    """best/examples.json as the producer writes it, with text that must be escaped."""
    context = (
        "Once upon a time there was a little girl named Lily. She had a red ball & a <b>small</b> dog. One day the "
        "dog took the ball and ran into the dark forest. Lily was sad, but she was brave. She put on her boots and"
    )
    target = " went to find him. Behind a big tree she saw the dog, fast asleep on the ball. Lily laughed."
    rows = [(1, 2.31, 1.22, 1.20), (57, 2.50, 1.71, 1.51), (191, 2.66, 1.95, 1.58), (384, 2.12, 2.05, 1.31)]
    return {
        "trial": 5,
        "epoch": 8,
        "scored": 384,
        "examples": [
            {
                "window": 3 * place,
                "place": place,
                "context": context,
                "target": target,
                "continuations": {
                    "no_context": ' the boy was very happy. He said, "I want to play with you." They played all day.',
                    "memory": " went into the forest to look for her dog. She found him under a tree with the ball.",
                    "full_context": " went to find the dog. She looked behind a big tree and saw the ball.",
                },
                "losses": {"no_context": no, "memory": memory, "full_context": full, "reconstruction": 0.84},
                "reconstruction": context.replace("red ball", "blue ball").replace("boots", "shoes"),
            }
            for place, no, memory, full in rows
        ],
    }


def write_folder(folder: Path, kind: str) -> Path:
    """Write space.yaml, journal.jsonl, logs and (where a trial succeeded) examples; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    events = events_of(kind)
    space = Space.from_dict(SPACE | {"search": {**SPACE["search"], "num_samples": 500 if kind == "many" else 12}})
    write_space_file(folder / "space.yaml", space.to_dict(), events[0]["versions"], events[0]["commit"])
    lines = [json.dumps(event) + "\n" for event in events]
    (folder / "journal.jsonl").write_text("".join(lines), encoding="utf-8")
    for event in events:
        if event["event"] == "failed":
            log = folder / event["log"]
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(f"Traceback: {event['reason']}\n", encoding="utf-8")
    if kind in ("typical", "running", "many"):
        (folder / "best").mkdir(exist_ok=True)
        (folder / "best" / "config.json").write_text("{}", encoding="utf-8")
        (folder / "best" / "examples.json").write_text(json.dumps(examples()), encoding="utf-8")
    return folder


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]), sys.argv[2])
