"""Results folders with the honest numbers: text control, swapped memories, nested ones, finalists, test scores.

As `synthetic`, whose folders are those of searches that knew none of this. The losses follow one rule, so that tests
can work them out: plain text has T(k) = 1.55 + 0.40 (1 - log(1 + k) / log 65) nats, and a memory is worth its kept
tokens and some more for each vector. `python -m tests.report.honest FOLDER KIND` writes one to look at.
"""

import json
import math
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmp.results.front import best_point
from cmp.results.history import History
from cmp.results.scores import Candidate, CompressorScores, Interval, SplitScores, save_scores
from cmp.results.space_file import write_space_file
from cmp.results.worth import TextCurve, worth_of
from cmp.space.space import Space
from tests.report.synthetic import EPOCHS, LOOPS_PER_EPOCH, SPACE, START, Simulation, examples, session

CONTEXT = 64
LENGTHS = (0, 1, 2, 4, 8, 16, 32, 64)
NO_CONTEXT, FULL_CONTEXT = 2.5214, 1.54
KINDS = ("tested", "untested", "control-running", "no-control", "useless-text", "worthless")
"""Of a search with a control: with and without test scores, while the control trains, without one, where the context
does not help, and where nothing is better than no memory."""


def text_loss(kept: float) -> float:
    """T(k), of the text control."""
    return 1.55 + 0.40 * (1 - math.log(1 + kept) / math.log(1 + CONTEXT))


def plain_loss(kept: float) -> float:
    """The bare model's: it does not know the text as well, most of all without any context."""
    return NO_CONTEXT - (NO_CONTEXT - FULL_CONTEXT) * math.log(1 + kept) / math.log(1 + CONTEXT)


def space(kind: str) -> Space:
    """Positions are searched in three ways."""
    fixed = {name: value for name, value in SPACE.items() if name not in ("cmp_len", "l2")}
    searched = {"keep_len": {"choice": [0, 4]}, "nested": {"choice": [True, False]}}
    search = {**SPACE["search"], "control": kind != "no-control", "confirm": 2}
    return Space.from_dict({**fixed, "exp_name": "honest", "cmp_len": CONTEXT, **searched, "search": search})


class HonestSimulation(Simulation):
    """A search whose reports have controls."""

    def __init__(self, kind: str) -> None:
        super().__init__(12, slots=2, seed=6, failures={3: "diverged"})
        self.kind = kind

    def run(self) -> list[dict[str, Any]]:
        """The control first, then the trials, then the two best again."""
        if self.kind != "no-control":
            self.free_at[0] = self.play_extra(-1, self.free_at[0], {"n_cmps": 16}, role="control")
        events = super().run()[1:-1]
        if self.kind == "control-running":
            end = next(e["time"] for e in events if e["event"] == "finished" and e["trial"] == -1) - 20
            return [session(START, 1), *(e for e in events if e["time"] < end)]
        history = History.from_events(events)
        finalists = [trial.number for trial in history.ranked()[:2]]
        self.events.clear()
        for place, (seed, of) in enumerate((s, n) for s in (1, 2) for n in finalists):
            role = {"role": "confirm", "of": of, "seed": seed}
            self.free_at[place % 2] = self.play_extra(
                -2 - place, self.free_at[place % 2], history.trials[of].settings, **role
            )
        events = sorted([*events, *self.events], key=lambda e: e["time"])
        return [session(START, 1), *events, {"time": events[-1]["time"] + 1, "event": "completed"}]

    def settings(self) -> dict[str, Any]:
        rng = self.rng
        return {
            "n_cmps": 2 ** rng.randrange(5),
            "keep_len": rng.choice([0, 4]),
            "nested": rng.random() < 0.5,
            "cmp_layer": rng.choice(["half", -1, 2]),
            "lr": math.exp(rng.uniform(math.log(1e-4), math.log(3e-2))),
            "memory": "hidden",
        }

    def loss(self, settings: Mapping[str, Any], epoch: int) -> float:
        return self.loss_of(settings, settings["n_cmps"], epoch) + self.rng.gauss(0, 0.003)

    def loss_of(self, settings: Mapping[str, Any], vectors: int, epoch: int) -> float:
        off_lr = (math.log10(settings["lr"]) - math.log10(5e-3)) ** 2
        worth = 0.0 if self.kind == "worthless" else settings["keep_len"] + 6.0 * math.sqrt(vectors) / (1 + off_lr)
        return text_loss(worth) + 0.02 * (1 + off_lr) + 0.3 * math.exp(-epoch / 1.5)

    def metrics(self, settings: Mapping[str, Any], epoch: int, loss: float, seconds: float) -> dict[str, Any]:
        vectors, kept = settings["n_cmps"], settings["keep_len"]
        sizes = [2**power for power in range(5) if 2**power < vectors] if settings["nested"] else []
        useless = self.kind == "useless-text"
        full = NO_CONTEXT + 0.1 if useless else FULL_CONTEXT
        plain = {str(k): NO_CONTEXT + k / 640 if useless else plain_loss(k) for k in LENGTHS}
        return {
            "epoch": epoch,
            "loops": epoch * LOOPS_PER_EPOCH,
            "train_loss": loss - 0.03,
            "val_loss": loss,
            "val_acc": 0.61 - 0.1 * (loss - 1.5),
            "no_context_loss": NO_CONTEXT,
            "full_context_loss": full,
            "recovered": None if useless else (NO_CONTEXT - loss) / (NO_CONTEXT - full),
            "compression_ratio": CONTEXT / (vectors + kept),
            "positions": vectors + kept,
            "swapped_loss": text_loss(kept) + 0.02,
            "nested": {str(n): self.loss_of(settings, n, epoch) for n in sizes} or None,
            "plain_curve": plain if epoch == 1 else None,
            "tokens_per_second": 32 * 40 * LOOPS_PER_EPOCH / seconds,
            "seconds": seconds * epoch,
            "lr": settings["lr"],
        }

    def play_extra(self, number: int, start: float, settings: dict[str, Any], **role: Any) -> float:
        """The control, or a finalist under another seed."""
        self.add(start, "suggested", trial=number, settings=settings, **role)
        self.add(start + 0.1, "started", trial=number, attempt=1, node="127.0.0.1", pid=5000 - number)
        rng = random.Random(number)
        for epoch in range(1, EPOCHS + 1):
            moment = start + 10.0 * epoch
            if role["role"] == "control":
                metrics = self.control_metrics(epoch)
            else:
                loss = self.loss_of(settings, settings["n_cmps"], epoch) + rng.gauss(0, 0.004)
                metrics = self.metrics(settings, epoch, loss, 10.0)
            self.add(moment, "reported", trial=number, epoch=epoch, metrics=metrics)
        self.add(moment + 0.05, "finished", trial=number, epoch=EPOCHS)
        return moment + 0.3

    def control_metrics(self, epoch: int) -> dict[str, Any]:
        loss = text_loss(0) + 0.3 * math.exp(-epoch / 1.5)
        curve = {str(k): 2.6 if self.kind == "useless-text" else text_loss(k) for k in LENGTHS}
        return {
            "epoch": epoch,
            "loops": epoch * LOOPS_PER_EPOCH,
            "val_loss": loss,
            "no_context_loss": NO_CONTEXT,
            "full_context_loss": FULL_CONTEXT,
            "positions": 16,
            "tokens_per_second": 14_000.0,
            "text_curve": curve if epoch == EPOCHS else None,
        }


def scores_for(kind: str, candidate: Candidate, loss: float, runner_up: int) -> SplitScores:
    """Test scores of a best compressor, and of a cheaper one."""
    curve = {str(k): 2.6 if kind == "useless-text" else text_loss(k) + 0.01 for k in LENGTHS}
    rows = [(candidate, loss), (Candidate(runner_up, EPOCHS, 1, 4), loss + 0.08)]
    ways = ("no context", "memory", "text at equal positions", "full context")
    losses = {
        "in the context": (2.20, 1.41, 1.45, 1.33),
        "not in the context": (3.10, 2.61, 2.66, 2.55),
        "first token": (5.40, 2.02, 2.00, 1.96),
        "later tokens": (2.44, 1.70, 1.74, 1.60),
    }
    return SplitScores(
        split="test",
        documents=41,
        windows=150,
        tokens=6000,
        no_context_loss=NO_CONTEXT + 0.02,
        full_context_loss=FULL_CONTEXT + 0.01,
        text_curve=curve,
        trained=kind != "no-control",
        plain_curve={str(k): plain_loss(k) for k in LENGTHS},
        compressors=tuple(_scored(curve, *row) for row in rows),
        runner_up=runner_up,
        difference=Interval(-0.021, -0.030, -0.012),
        kinds={name: {"tokens": 1500, **dict(zip(ways, found, strict=True))} for name, found in losses.items()},
        costs={
            "memory_bytes": 2_080,
            "context_bytes": 133_120,
            "compress_operations": 1.21e9,
            "prefill_operations": 1.00e9,
            "operations_saved_per_token": 2.4e6,
            "pays_after_tokens": 87.5,
        },
    )


def _scored(curve: Mapping[str, float], candidate: Candidate, loss: float) -> CompressorScores:
    known = TextCurve.from_losses(curve, trained=True)
    worth = None if known is None else worth_of(known, loss, candidate.positions)

    def around(value: float | None, width: float) -> Interval | None:
        return None if value is None else Interval(value, value - width, value + width)

    return CompressorScores(
        candidate=candidate,
        loss=Interval(loss, loss - 0.03, loss + 0.03),
        swapped_loss=around(1.80, 0.03),
        mean_loss=around(1.77, 0.03),
        text_loss=None if known is None else known.loss(candidate.positions),
        recovered=around((NO_CONTEXT - loss) / (NO_CONTEXT - FULL_CONTEXT), 0.02),
        worth_tokens=around(worth and worth.tokens, 2.0),
        gain=around(worth and worth.gain, 0.2),
        carried=around(worth and worth.carried, 0.05),
    )


def write_honest_folder(folder: Path, kind: str) -> Path:
    """Write space.yaml, journal.jsonl, best/ and, where the search has ended, test.json; returns `folder`."""
    (folder / "best").mkdir(parents=True, exist_ok=True)
    events, what = HonestSimulation(kind).run(), space(kind)
    write_space_file(folder / "space.yaml", what.to_dict(), events[0]["versions"], events[0]["commit"])
    (folder / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    (folder / "best" / "config.json").write_text("{}", encoding="utf-8")
    (folder / "best" / "examples.json").write_text(json.dumps(examples()), encoding="utf-8")
    history = History.from_events(events)
    best = best_point(what, history)
    if best is not None and kind not in ("untested", "control-running"):
        second = next(trial.number for trial in history.ranked() if trial.number != best.trial)
        save_scores(folder / "test.json", scores_for(kind, best.candidate, best.val_loss + 0.006, second))
    return folder


if __name__ == "__main__":
    write_honest_folder(Path(sys.argv[1]), sys.argv[2])
