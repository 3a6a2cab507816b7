"""Is a technique worth its code? A base recipe, plus one change each, trained with the same loops under several seeds.

    python -m tests.benchmarks.techniques --loops 100 --base memory=kv lora_rank=16 --change kl kl_scale=0.5

The measuring set is the built-in pydoc, or a model and a data set that are given (`--name stories --model DIR --dataset
FILE`). Each recipe is trained without Ray and scored on the test windows with the weights of its best epoch, beside the
text control of its own kind of memory and objective, trained once with the same loops. Prints a row for each recipe and
appends it to `--out`; trials are kept in `--cache` by their settings, so that a command that is repeated goes on.
"""

import argparse
import dataclasses
import hashlib
import json
import shlex
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from cmp.model.api import Compressor
from cmp.model.compression import CompressionModel
from cmp.model.steps import ScoreStep
from cmp.results.provenance import git_commit, hardware, versions
from cmp.results.worth import TextCurve, worth_of
from cmp.space.settings import TrialSettings, Window
from cmp.store import write_json
from cmp.train.data import TrialData, open_data
from cmp.train.evaluation import mean_scores, validation_batches
from cmp.train.session import LocalSession, Role, TrialPlan
from cmp.train.sync import Workers
from cmp.train.trial import run_trial
from cmp.train.validation import validate_compressor, validate_control

# A change of one of these needs a text control of its own; the control takes all else from the base.
CONTROLLED = ("memory", "kl_scale", "rmb_task", "rmb_scale")
# What a text control has no use for.
UNCONTROLLED = {"keep_len": 0, "nested": False, "recursive": False, "piece_len": None}
TEST_BATCH_SIZE = 32


@dataclass(frozen=True)
class Measured:
    """One trained trial on the test windows, nats per token.

    `constant` is the loss after one memory for all, the mean over the batch.
    """

    test: float
    swapped: float | None
    constant: float
    validation: float
    train: float
    seconds: float
    nested: dict[str, float]


class Bench:
    """One measuring set and base recipe."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.base = self._settings(parsed(args.base))
        self.window = Window(args.window or self.base.cmp_len, self.base.seq_len)
        self._largest = self.base.n_cmps

    def run(self) -> None:
        """Train and print everything."""
        changes = {"base": {}} | {name: parsed(words) for name, *words in self.args.change}
        self._largest = max({**dataclasses.asdict(self.base), **change}["n_cmps"] for change in changes.values())
        print(
            f"{'change':28}{'loss':>8}{'spread':>8}{'swapped':>9}{'constant':>9}{'T(keep)':>9}{'worth':>7}{'gain':>6}"
            f"{'carried':>8}{'val':>8}{'train':>8}{'seconds':>8}"
        )
        for name, change in changes.items():
            if name != "base" or not self.args.no_base:
                self._report(name, change)

    def _report(self, name: str, change: dict[str, Any]) -> None:
        settings = dataclasses.replace(self.base, **change)
        curve = TextCurve.from_losses(self._curve(settings), trained=True)
        assert curve is not None
        runs = [self._trial(dataclasses.replace(settings, seed=seed)) for seed in self.args.seeds]
        loss, spread = mean_and_spread([run.test for run in runs])
        swapped = mean_and_spread([run.swapped for run in runs if run.swapped is not None])[0]
        constant = mean_and_spread([run.constant for run in runs])[0]
        worth = worth_of(curve, loss, settings.positions)
        means = [statistics.fmean(getattr(run, name) for run in runs) for name in ("validation", "train", "seconds")]
        row = {
            "set": self.args.name,
            "change": name,
            "changed": change,
            "base": self._told(self.base),
            "loops": settings.n_train_loops * settings.n_epochs,
            "seeds": len(self.args.seeds),
            "loss": loss,
            "spread": spread,
            "swapped": swapped,
            "constant": constant,
            "text at keep_len": curve.loss(settings.keep_len),
            "positions": settings.positions,
            "worth": worth.tokens,
            "gain": worth.gain,
            "gains": [worth_of(curve, run.test, settings.positions).gain for run in runs],
            "carried": worth.carried,
            "nested": {n: mean_and_spread([run.nested[n] for run in runs])[0] for n in runs[0].nested},
            "validation": means[0],
            "training": means[1],
            "seconds": means[2],
            "text": {str(kept): loss for kept, loss in curve.points},
        }
        append(self.args.out, row)
        print(
            f"{name:28}{loss:8.4f}{spread:8.4f}{swapped:9.4f}{constant:9.4f}{row['text at keep_len']:9.4f}"
            f"{worth.tokens:7.1f}{worth.gain:6.2f}{worth.carried or float('nan'):8.3f}"
            f"{means[0]:8.4f}{means[1]:8.4f}{means[2]:8.0f}",
            flush=True,
        )
        for size, value in row["nested"].items():
            positions = int(size) * settings.n_pieces + settings.keep_len
            found = worth_of(curve, value, positions)
            print(f"{'  ' + size + ' vectors':28}{value:8.4f}{'':34}{found.tokens:7.1f}{found.gain:6.2f}", flush=True)

    def _curve(self, settings: TrialSettings) -> dict[str, float]:
        """The text curve of the control that belongs to a recipe."""
        own = {name: getattr(settings, name) for name in CONTROLLED}
        kind = dataclasses.replace(self.base, **own)
        like = {"base": self.base, "kind": kind, "own": settings}[self.args.control]
        control = dataclasses.replace(like, **UNCONTROLLED, n_cmps=self._largest, cmp_len=self.window.context_len)
        model, data, _ = self._trained(control, "control")
        batches = validation_batches(data.test, TEST_BATCH_SIZE, None)
        workers = Workers(LocalSession(), control)
        return validate_control(ScoreStep(model), data.test, batches, workers, whole_curve=True).text_curve

    def _trial(self, settings: TrialSettings) -> Measured:
        model, data, folder = self._trained(settings, "search")
        batches = validation_batches(data.test, TEST_BATCH_SIZE, None)
        workers = Workers(LocalSession(), settings)
        found = validate_compressor(ScoreStep(model), data.test, batches, workers, swapped_every=1)
        constant = mean_scores(
            lambda batch: model.score_variants(batch, None, with_mean=True)["mean"], data.test, batches, workers
        )
        said = json.loads((folder / "said.json").read_text())
        swapped = None if found.swapped is None else found.swapped.loss
        return Measured(
            found.target.loss, swapped, constant.loss, said["val_loss"], said["train_loss"], said["seconds"],
            found.nested,
        )  # fmt: skip

    def _trained(self, settings: TrialSettings, role: Role) -> tuple[CompressionModel, TrialData, Path]:
        """The compressor of a trial's best epoch, its data, and the folder that says how training went."""
        told = [role, self._told(settings), dataclasses.asdict(self.window), self.args.key]
        key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
        folder = self.args.cache.absolute() / self.args.name / "trials" / key
        if not (folder / "said.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            session, began = LocalSession(), time.process_time()
            outcome = run_trial(TrialPlan(0, settings, self.window, folder, role=role), session)
            if outcome.status != "finished":
                raise SystemExit(f"{folder}: {outcome.status}: {outcome.reason}")
            best = min(session.reports, key=lambda report: report.val_loss)
            write_json(
                folder / "said.json",
                {
                    "val_loss": best.val_loss,
                    "epoch": best.epoch,
                    "train_loss": session.reports[-1].train_loss,
                    "seconds": time.process_time() - began,
                    "curve": [(report.loops, report.train_loss, report.val_loss) for report in session.reports],
                },
            )
        model = Compressor.from_pretrained(folder / "best", device="cpu").model
        return model, open_data(settings, self.window, tokenizer=model.backbone.tokenizer), folder

    def _settings(self, given: dict[str, Any]) -> TrialSettings:
        epochs = given.pop("n_epochs", 6)
        options: dict[str, Any] = {"n_epochs": epochs, "n_train_loops": max(1, self.args.loops // epochs)} | given
        return TrialSettings(self.args.model, self.args.dataset, data_root=self.args.data_root, **options)

    @staticmethod
    def _told(settings: TrialSettings) -> dict[str, Any]:
        """The settings that differ from the defaults, without places of this machine."""
        fields = [field for field in dataclasses.fields(settings) if field.default is not dataclasses.MISSING]
        values = {field.name: getattr(settings, field.name) for field in fields if field.name != "data_root"}
        return {
            field.name: values[field.name] for field in fields if values.get(field.name, field.default) != field.default
        }


def parsed(words: list[str]) -> dict[str, Any]:
    """`setting=value` words; values as JSON has them, or plain texts."""

    def value(text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            return text

    return {name: value(text) for name, _, text in (word.partition("=") for word in words)}


def mean_and_spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation; no deviation of one value."""
    if not values:
        return float("nan"), float("nan")
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a file of results; command, date and commit are those of the newest row."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"notes": "", "rows": []}
    measured = {
        "command": shlex.join(["python", "-m", "tests.benchmarks.techniques", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "machine": hardware(),
        "versions": versions(),
    }
    write_json(path, {**measured, "notes": before["notes"], "rows": [*before["rows"], row]})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="pydoc", help="what the rows call the measuring set")
    parser.add_argument("--model", default="pydoc", help="the backbone: a folder or hub id")
    parser.add_argument("--dataset", default="pydoc", help="its texts: files, a folder, a hub data set")
    parser.add_argument("--data-root", help="tokens are kept there")
    parser.add_argument("--loops", type=int, default=108, help="of every trial and control")
    parser.add_argument("--window", type=int, help="context tokens of a window; cmp_len of the base if left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--base", nargs="*", default=[], metavar="SETTING=VALUE")
    parser.add_argument(
        "--change", nargs="+", action="append", default=[], metavar=("NAME", "SETTING=VALUE"),
        help="a recipe: its name, and what differs from the base",
    )  # fmt: skip
    parser.add_argument("--no-base", action="store_true", help="only the changes")
    parser.add_argument(
        "--control", choices=("base", "kind", "own"), default="kind",
        help="settings of the text control: the base's, with the change's kind and objective, or all of the change's",
    )  # fmt: skip
    parser.add_argument("--key", default="", help="names what the settings do not say, such as a version of the code")
    parser.add_argument("--cache", type=Path, default=Path("results/benchmark-techniques"))
    parser.add_argument("--out", type=Path, default=Path("tests/benchmarks/results/techniques.json"))
    return parser.parse_args()


def main() -> None:
    """Measure what the command line asks for."""
    torch.set_num_threads(torch.get_num_threads())
    Bench(_arguments()).run()


if __name__ == "__main__":
    main()
