"""Score a saved compressor on any data set: its bounds, its losses, position by position.

    python -m cmp evaluate results/demo/best --dataset other.txt --json scores.json

Without --dataset it is the data that its search validated on, cut and ordered in the same way, so that val_loss is the
one that the search reported.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from cmp.commands.shared import add_loading_options, load_compressor, positive_int, run
from cmp.results.recovered import recovered_fraction
from cmp.space.errors import UserError
from cmp.space.settings import TrialSettings

if TYPE_CHECKING:
    from cmp.model.api import Compressor
    from cmp.train.data import WindowSet
    from cmp.train.positions import PositionSums

LABELS = {
    "no_context": "no context",
    "memory": "the memory",
    "full_context": "full context",
    "reconstruction": "reconstruction",
}


@dataclass(frozen=True)
class Scores:
    """Teacher-forced scores over all kept tokens. Losses are nats per token; `loss_by_position` starts at the first."""

    loss: float
    perplexity: float
    accuracy: float
    top5: float
    tokens: int
    loss_by_position: list[float | None]


@dataclass(frozen=True)
class Evaluation:
    """What `cmp evaluate` measures, as its JSON holds it.

    Args:
        folder: the compressor.
        dataset: what it was scored on.
        split: "validation" or "test" (held-out documents), "train" or "all" of the data set.
        windows: how many windows were scored.
        context_len: tokens that were compressed in each.
        target_len: tokens that were scored in each.
        n_cmps: memory vectors.
        compression_ratio: `context_len / n_cmps`.
        val_loss: the memory's loss.
        recovered: share of the context's value that survives; None where the context does not help.
        no_context: scores of the backbone alone on the target.
        memory: scores after the memory; of the reconstruction, with `rmb_only`.
        full_context: scores after the uncompressed context.
        reconstruction: of the context itself, read back from the memory; None when not trained to beside the target.
    """

    folder: str
    dataset: str
    split: str
    windows: int
    context_len: int
    target_len: int
    n_cmps: int
    compression_ratio: float
    val_loss: float
    recovered: float | None
    no_context: Scores
    memory: Scores
    full_context: Scores
    reconstruction: Scores | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, score, print and save; returns the exit code."""
    args = _parser().parse_args(arguments)

    def work() -> None:
        found = evaluate(load_compressor(args), args)
        if args.json != "-":
            print_evaluation(found, Console(highlight=False))
        if args.json is not None:
            save_json(found, args.json)

    return run(work)


def evaluate(compressor: "Compressor", args: argparse.Namespace) -> Evaluation:
    """Score the windows that the command line asks for.

    Raises:
        DataError: the data cannot be read, or no document is as long as a window.
        UserError: the test split was asked of a compressor that was trained on it.
    """
    from cmp.train.data.progress import progress_bar
    from cmp.train.evaluation import validation_batches
    from cmp.train.positions import position_sums, scored_batches

    settings = _data_settings(compressor.settings, args)
    parts = []
    for windows in _window_sets(compressor, settings, args):
        batches = validation_batches(len(windows), settings.val_batch_size, settings.max_val_loops)
        parts.append((windows, batches))
    n_batches = sum(len(batches) for _, batches in parts)
    scored = (one for windows, batches in parts for one in scored_batches(compressor.model, windows, batches))
    sums = position_sums(progress_bar(scored, "scoring", n_batches, show=True))
    n_windows = sum(len(indices) for _, batches in parts for indices in batches)
    return _put_together(compressor, settings.dataset, args, n_windows, sums)


def print_evaluation(found: Evaluation, console: Console) -> None:
    """The scores as a table, and the losses along the target."""
    console.print(
        f"{found.windows:,} windows of {found.dataset} ({found.split}): {found.context_len} context tokens -> "
        f"{found.n_cmps} memory vectors (ratio {found.compression_ratio:.1f}), {found.target_len} target tokens",
        markup=False,
        soft_wrap=True,
    )
    rows = {name: getattr(found, name) for name in LABELS if getattr(found, name) is not None}
    console.print()
    console.print(_scores_table(rows))
    recovered = "undefined: the context does not help" if found.recovered is None else f"{found.recovered:.3f}"
    console.print(f"\nrecovered: {recovered}\n")
    console.print(_positions_table(rows))


def save_json(found: Evaluation, name: str) -> None:
    """Write the evaluation to a file, or to standard output for "-"; numbers that JSON does not know become null."""
    from cmp.store import write_json

    content = _finite(dataclasses.asdict(found))
    if name == "-":
        print(json.dumps(content, indent=2))
    else:
        write_json(Path(name), content)


def _data_settings(settings: TrialSettings, args: argparse.Namespace) -> TrialSettings:
    """The trial's own settings; with another data set, nothing that described the old one."""
    changes: dict[str, Any] = {
        "data_root": args.data_root,
        "dataset_config": args.dataset_config,
        "text_column": args.text_column,
        "abbrev_len": args.abbrev_len,
        "val_batch_size": args.batch_size,
        "max_val_loops": args.max_loops,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if args.dataset is not None and args.dataset != settings.dataset:
        forgotten = {"dataset_config": None, "text_column": None, "abbrev_len": None, "max_val_loops": None}
        changes = {**forgotten, **changes, "dataset": args.dataset}
    if args.all_windows:
        changes["max_val_loops"] = None
    return dataclasses.replace(settings, **changes)


def _window_sets(compressor: "Compressor", settings: TrialSettings, args: argparse.Namespace) -> list["WindowSet"]:
    """The windows to score: as the search cut its own data, and just as long as needed from another data set."""
    from cmp.space.settings import Window
    from cmp.train.data import open_data, prepare_data
    from cmp.train.examples import own_window

    own = settings.dataset == compressor.settings.dataset
    if own and args.split == "test" and compressor.origin.data and "test_windows" not in compressor.origin.data:
        raise UserError("--split", "this compressor is older than the test split; it was trained on these documents")
    known = compressor.origin.window if own else None
    window = Window(**known) if known else own_window(compressor)
    prepare_data(settings, window, progress=True, tokenizer=compressor.tokenizer)
    data = open_data(settings, window, tokenizer=compressor.tokenizer)
    splits = {"train": [data.train], "validation": [data.validation], "test": [data.test]}
    return splits.get(args.split, [windows for some in splits.values() for windows in some])


def _put_together(
    compressor: "Compressor",
    dataset: str,
    args: argparse.Namespace,
    n_windows: int,
    sums: Mapping[str, "PositionSums"],
) -> Evaluation:
    settings = compressor.settings
    scores = {name: _scores(one) for name, one in sums.items()}
    no_context, full_context, loss = (scores[name].loss for name in ("no_context", "full_context", "memory"))
    return Evaluation(
        folder=str(args.folder),
        dataset=dataset,
        split=args.split,
        windows=n_windows,
        context_len=settings.context_len,
        target_len=settings.seq_len,
        n_cmps=settings.n_cmps,
        compression_ratio=settings.context_len / settings.n_cmps,
        val_loss=loss,
        recovered=recovered_fraction(no_context, full_context, loss),
        no_context=scores["no_context"],
        memory=scores["memory"],
        full_context=scores["full_context"],
        reconstruction=scores.get("reconstruction"),
    )


def _scores(sums: "PositionSums") -> Scores:
    from cmp.train.metrics import perplexity

    tokens = int(sums.tokens.sum())
    return Scores(sums.loss, perplexity(sums.loss), sums.accuracy, sums.top5_accuracy, tokens, sums.by_position())


def _scores_table(rows: Mapping[str, Scores]) -> Table:
    table = Table(title="After", title_justify="left")
    for name in ("", "loss", "perplexity", "accuracy", "top 5", "tokens"):
        table.add_column(name, justify="left" if not name else "right")
    for name, row in rows.items():
        cells = (
            f"{row.loss:.4f}",
            f"{row.perplexity:.2f}",
            f"{row.accuracy:.3f}",
            f"{row.top5:.3f}",
            f"{row.tokens:,}",
        )
        table.add_row(LABELS[name], *cells)
    return table


def _positions_table(rows: Mapping[str, Scores]) -> Table:
    """Losses along the target, in stretches that double in length."""
    table = Table(title="Loss by position, nats per token", title_justify="left")
    table.add_column("tokens")
    for name in rows:
        table.add_column(LABELS[name], justify="right")
    longest = max(len(row.loss_by_position) for row in rows.values())
    start = 0
    while start < longest:
        end = min(longest, max(1, 2 * start))
        cells = [_mean(row.loss_by_position[start:end]) for row in rows.values()]
        table.add_row(f"{start + 1}" if end == start + 1 else f"{start + 1}-{end}", *cells)
        start = end
    return table


def _mean(losses: Sequence[float | None]) -> str:
    known = [loss for loss in losses if loss is not None]
    return f"{sum(known) / len(known):.4f}" if known else ""


def _finite(content: Any) -> Any:
    """The same content, with null for infinities and NaN, which JSON does not know."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cmp evaluate",
        description="Score a saved compressor on a data set, as a table and as JSON.",
    )
    add_loading_options(parser)
    parser.add_argument("--dataset", help="as in a space file; the data of its search by default")
    parser.add_argument("--dataset-config", metavar="NAME", help="the data set's configuration, such as glue's task")
    parser.add_argument("--text-column", metavar="NAME", help="the column to read")
    parser.add_argument("--abbrev-len", type=positive_int, metavar="N", help="use at most this many documents")
    parser.add_argument("--data-root", metavar="FOLDER", help="the folder for tokenized data")
    parser.add_argument(
        "--split",
        choices=["validation", "test", "train", "all"],
        default="validation",
        help="the documents that its search decided by (the default), those that decided nothing, the others, or all",
    )
    parser.add_argument(
        "--batch-size", type=positive_int, metavar="N", help="windows per batch; val_batch_size by default"
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--max-loops",
        type=positive_int,
        metavar="N",
        help="score at most this many batches; max_val_loops of its search by default, all of another data set",
    )
    amount.add_argument("--all-windows", action="store_true", help="score all of them")
    parser.add_argument("--json", metavar="FILE", help="also write the scores as JSON; - prints JSON only")
    return parser
