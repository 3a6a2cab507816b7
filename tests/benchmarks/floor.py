"""Is the text control a floor? Whatever carries nothing of its context must not beat T(keep_len) by more than noise.

    python -m tests.benchmarks.floor --name stories --model DIR --dataset FILE

Trains one text control, then for each kind of memory a trial, and one more whose contexts are those of other documents
while it trains (its kept tokens stay its own). All have the same loops, and are scored on the test windows: with their
own memories, with those of other documents, with one constant memory. What each of these is below T(keep_len), with
95 % intervals by a bootstrap over documents, is in `--out` and should not be above zero beyond its interval.
"""

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from cmp.model.api import Compressor
from cmp.model.batch import Batch
from cmp.results.scores import CompressorScores, DocumentSums, Draws, Interval, SplitScores, interval
from cmp.space.settings import TrialSettings, Window
from cmp.train import trial as trial_module
from cmp.train.data import TrialData, WindowSet, open_data, prepare_data
from cmp.train.evaluation import strangers, validation_batches
from cmp.train.scoring import WaySums
from cmp.train.session import LocalSession, Role, TrialPlan
from cmp.train.testing import score_compressor
from cmp.train.trial import run_trial
from tests.benchmarks.record import record

KINDS: dict[str, dict[str, Any]] = {
    "hidden": {"memory": "hidden", "lora_rank": 0},
    "hidden + LoRA": {"memory": "hidden", "lora_rank": 16},
    "kv + LoRA": {"memory": "kv", "lora_rank": 16},
    "pooled": {"memory": "pooled", "lora_rank": 16},
}
NOTES = (
    "Whatever carries nothing of its context against the text control, on test windows, nats per token. "
    "'below T(keep)' is T(keep_len) minus the loss, with its 95 % interval by a bootstrap over documents: above zero "
    "would be adaptation that passes for memory. 'shuffled': trained with other documents' contexts. The "
    "control was trained once per set and seed: kv memory, LoRA, as many vectors and loops. 'constant' is the mean "
    "over a batch of 32, its own memory among them."
)


class Shuffled:
    """Windows whose contexts come from other windows of their batch, but for the last `kept` tokens."""

    def __init__(self, windows: WindowSet, kept: int) -> None:
        self._windows = windows
        self._kept = kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._windows, name)

    def __len__(self) -> int:
        return len(self._windows)

    def batch(self, indices: np.ndarray, passes: np.ndarray | None = None) -> Batch:
        """As of the windows, with other contexts."""
        batch = self._windows.batch(indices, passes)
        assert batch.context_mask is None, "consecutive text has no padding"
        others = batch.context_ids[torch.from_numpy(strangers(self._windows.documents(indices)))]
        boundary = others.shape[1] - self._kept
        context = torch.cat([others[:, :boundary], batch.context_ids[:, boundary:]], dim=1)
        return dataclasses.replace(batch, context_ids=context)


class Floor:
    """One measuring set."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._base = TrialSettings(
            args.model, args.dataset, data_root=args.data_root, cmp_len=args.cmp_len, seq_len=40, n_cmps=args.n_cmps,
            keep_len=args.keep_len, lr=args.lr, batch_size=args.batch_size, n_epochs=args.epochs,
            n_train_loops=args.loops // args.epochs, max_val_loops=args.max_val_loops, seed=args.seed,
            **KINDS["kv + LoRA"],
        )  # fmt: skip
        self._window = Window(args.cmp_len, 40)
        prepare_data(self._base, self._window)

    def rows(self) -> Iterator[dict[str, Any]]:
        """For each kind of memory what it is worth, and everything without content below T(keep_len)."""
        control = self._trained(dataclasses.replace(self._base, keep_len=0), "control")
        for kind in self._args.kinds:
            settings = dataclasses.replace(self._base, **KINDS[kind])
            scores, sums, seconds = self._scored(self._trained(settings), control)
            shuffled = None
            if kind in self._args.shuffled:
                shuffled = self._scored(self._trained(settings, shuffled=True), control)
            yield self._row(kind, scores, sums, seconds, shuffled and shuffled[1])

    def _row(
        self,
        kind: str,
        scores: SplitScores,
        sums: dict[str, WaySums],
        seconds: float,
        shuffled: dict[str, WaySums] | None,
    ) -> dict[str, Any]:
        (found,) = scores.compressors
        text = sums[f"text {self._args.keep_len}"].document_sums
        nothing = {"swapped": sums["swapped"], "constant": sums["mean"]}
        if shuffled is not None:
            nothing |= {"shuffled": shuffled["memory"]}
        row = {
            "set": self._args.name,
            "memory": kind,
            "seed": self._args.seed,
            "loops": self._args.loops,
            "positions": found.candidate.positions,
            "T": {str(kept): round(loss, 3) for kept, loss in scores.text_curve.items()},
            "T(keep)": scores.text_curve[str(self._args.keep_len)],
            "loss": found.loss.value,
            **{name: one.positions.loss for name, one in nothing.items()},
            **_worth(found),
        }
        below = {name: str(below_text(text, one.document_sums)) for name, one in nothing.items()}
        return {**row, "below T(keep)": below, "seconds": round(seconds)}

    def _scored(self, place: tuple[Path, float], control: tuple[Path, float]) -> Any:
        compressor = Compressor.from_pretrained(place[0], device="cpu")
        measure = Compressor.from_pretrained(control[0], device="cpu", backbone=compressor.backbone)
        test = open_data(compressor.settings, self._window, tokenizer=compressor.tokenizer).test
        batches = validation_batches(test, 32, self._args.max_test_loops)
        keep = [self._args.keep_len] if self._args.keep_len else []
        scores, sums = score_compressor(compressor, measure, [(test, batches)], split="test", also_text=keep)
        return scores, sums, place[1]

    def _trained(self, settings: TrialSettings, role: Role = "search", *, shuffled: bool = False) -> tuple[Path, float]:
        """The folder of a trial's best epoch, and the processor's seconds that it took."""
        name = f"{role}-{settings.memory}-{settings.lora_rank}-{settings.seed}{'-shuffled' if shuffled else ''}"
        folder = self._args.cache.absolute() / self._args.name / name
        began, session = time.process_time(), LocalSession()
        plan = TrialPlan(0, settings, self._window, folder, role=role)
        with other_contexts(settings.keep_len) if shuffled else patch.dict({}):
            outcome = run_trial(plan, session)
        if outcome.status != "finished":
            raise SystemExit(f"{folder}: {outcome.status}: {outcome.reason}")
        return folder / "best", time.process_time() - began


@contextmanager
def other_contexts(kept: int) -> Iterator[None]:
    """Trials train on contexts of other documents, but for the last `kept` tokens; they are validated as ever."""

    def opened(*args: Any, **options: Any) -> TrialData:
        data = open_data(*args, **options)
        return dataclasses.replace(data, train=Shuffled(data.train, kept))

    trial_module.DATA.clear()
    with patch.object(trial_module, "open_data", functools.wraps(open_data)(opened)):
        yield
    trial_module.DATA.clear()


def below_text(text: DocumentSums, other: DocumentSums) -> Interval:
    """How far a loss is below that of text, on the same documents."""
    draws = Draws(len(text.tokens))
    return interval(draws.losses(text) - draws.losses(other))


def _worth(found: CompressorScores) -> dict[str, float | None]:
    worth = found.worth
    return {} if worth is None else {"worth": worth.tokens, "gain": worth.gain, "carried": worth.carried}


def main() -> None:
    """Train, print and keep the rows of other sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="pydoc", help="what the rows call the measuring set")
    parser.add_argument("--model", default="pydoc")
    parser.add_argument("--dataset", default="pydoc")
    parser.add_argument("--data-root", help="tokens are kept there")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["hidden", "kv + LoRA", "pooled"])
    parser.add_argument("--shuffled", nargs="*", choices=KINDS, default=["kv + LoRA"])
    parser.add_argument("--cmp-len", type=int, default=100)
    parser.add_argument("--n-cmps", type=int, default=4)
    parser.add_argument("--keep-len", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loops", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-val-loops", type=int, default=4)
    parser.add_argument("--max-test-loops", type=int)
    parser.add_argument("--cache", type=Path, default=Path("results/benchmark-floor"))
    parser.add_argument("--out", type=Path, default=Path("tests/benchmarks/results/floor.json"))
    args = parser.parse_args()
    for row in Floor(args).rows():
        print({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}, flush=True)
        keep(args.out, row)


def keep(path: Path, row: dict[str, Any]) -> None:
    """Add a row, in the place of an older one of the same set, memory and seed."""
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    others = [old for old in before if any(old[name] != row[name] for name in ("set", "memory", "seed"))]
    record(path.stem, "tests.benchmarks.floor", NOTES, [*others, row], folder=path.parent)


if __name__ == "__main__":
    main()
