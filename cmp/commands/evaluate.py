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
from cmp.results.costs import cost_lines
from cmp.results.recovered import recovered_fraction
from cmp.results.worth import headline
from cmp.results.written import WAYS, AnswerScores, Written, measures
from cmp.space.errors import UserError
from cmp.space.settings import TrialSettings

if TYPE_CHECKING:
    from cmp.model.api import Compressor
    from cmp.results.scores import SplitScores
    from cmp.train.data import WindowSet
    from cmp.train.positions import PositionSums
    from cmp.train.scoring import WaySums


# What described the data of its search, and is forgotten with them. How prompts are written stays: it was trained so.
_OF_ITS_DATA = (
    "dataset_config", "text_column", "context_column", "prompt_column", "answer_column", "answer_choices",
    "abbrev_len", "max_val_loops",
)  # fmt: skip
_COLUMN_OPTIONS = {"context": "what is compressed", "prompt": "what is asked", "answer": "what is to be said"}


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
class LossRow:
    """One way of reading a context.

    Args:
        read: what the model reads before the target.
        loss: nats per target token.
        recovered: share of the gap between no context and full context; None where the context does not help.
    """

    read: str
    loss: float
    recovered: float | None


@dataclass(frozen=True)
class Evaluation:
    """What `cmp evaluate` measures, as its JSON holds it.

    Args:
        folder: the compressor.
        dataset: what it was scored on.
        split: "validation" or "test" (held-out documents), "train" or "all" of the data set.
        windows: how many windows were scored.
        context_len: tokens of the context of each.
        target_len: tokens that were scored in each.
        n_cmps: vectors of a memory's piece.
        positions: what the decoder reads in the context's place, vectors and kept tokens.
        compression_ratio: `context_len / positions`.
        val_loss: after the memory.
        recovered: share of the gap between the bounds; None where the context does not help.
        no_context: the backbone alone.
        memory: the compressor.
        full_context: the backbone with the whole context.
        reconstruction: of the compressed tokens; None where it was not trained.
        ways: every way of reading beside each other.
        scores: worth, gain and carried with their intervals, losses by kind of token, and costs.
        answers: how right what is written is, by what is read; None where nothing was asked.
        answers_kept: the memory's share of each full-context score of `answers`, as BenchPress reports it.
        written: the answers themselves.
    """

    folder: str
    dataset: str
    split: str
    windows: int
    context_len: int
    target_len: int
    n_cmps: int
    positions: int
    compression_ratio: float
    val_loss: float
    recovered: float | None
    no_context: Scores
    memory: Scores
    full_context: Scores
    reconstruction: Scores | None
    ways: list[LossRow]
    scores: "SplitScores"
    answers: dict[str, AnswerScores] | None = None
    answers_kept: dict[str, float | None] | None = None
    written: Written | None = None


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
    from cmp.model.api import Compressor
    from cmp.train.evaluation import validation_batches
    from cmp.train.testing import score_compressor

    settings = _data_settings(compressor.settings, args)
    if args.last and (settings.rmb_only or max(args.last) > settings.context_len):
        raise UserError("--last", "there is no such text: " + _text_there_is(settings))
    parts = []
    for windows in _window_sets(compressor, settings, args):
        batches = validation_batches(windows, settings.val_batch_size, settings.max_val_loops)
        parts.append((windows, batches))
    control = Compressor.text_control(args.folder, compressor.backbone)
    scores, sums = score_compressor(
        compressor, control, parts, split=args.split, n_cmps=args.vectors, also_text=args.last, show_progress=True
    )
    found = _put_together(compressor, settings.dataset, args, scores, sums)
    return _with_answers(found, compressor, control, [windows for windows, _ in parts], args)


def _text_there_is(settings: TrialSettings) -> str:
    if settings.rmb_only:
        return "the context itself is predicted (rmb_only)"
    return f"contexts have {settings.context_len} tokens"


def _with_answers(
    found: Evaluation,
    compressor: "Compressor",
    control: "Compressor | None",
    sets: Sequence["WindowSet"],
    args: argparse.Namespace,
) -> Evaluation:
    """The same, with what is written in answer to the first `--answers` rows, where the data are rows."""
    from cmp.train.written import is_answerable, score_written

    answerable = [windows for windows in sets if is_answerable(windows, compressor)]
    if not answerable or not args.answers:
        return found
    parts: list[Written] = []
    for windows in answerable:
        count = args.answers - sum(len(part.rows) for part in parts)
        if count > 0:
            parts.append(
                score_written(compressor, windows, control=control, n_cmps=args.vectors, count=count, progress=True)
            )
    written = dataclasses.replace(parts[0], rows=tuple(row for part in parts for row in part.rows))
    answers = {way: written.mean(way) for way in WAYS}
    return dataclasses.replace(found, answers=answers, answers_kept=written.kept(), written=written)


def print_evaluation(found: Evaluation, console: Console) -> None:
    """What it is worth, every way of reading beside it, losses by kind of token and along the target, and costs."""
    scores, first = found.scores, found.scores.compressors[0]
    vectors, kept = first.candidate.vectors, first.candidate.kept
    and_text = f" and {_text_words(kept)}" if kept else ""
    console.print(
        f"{found.windows:,} windows of {found.dataset} ({found.split}): {found.context_len} context tokens -> "
        f"{vectors} vectors{and_text} (ratio {found.compression_ratio:.1f}), {found.target_len} target tokens",
        markup=False,
        soft_wrap=True,
    )
    if first.worth is not None:
        measured = "" if scores.trained else ", by the untrained model's text: no text control was found"
        console.print(f"\n{headline(first.worth, vectors, kept)}{measured}", style="bold", markup=False, soft_wrap=True)
        console.print(f"worth {first.worth_tokens}, gain {first.gain}, carried {first.carried}", markup=False)
    recovered = "undefined: the context does not help" if found.recovered is None else f"{found.recovered:.3f}"
    console.print(f"recovered: {recovered}\n")
    console.print(_ways_table(found.ways))
    if len(scores.compressors) > 1:
        console.print(_sizes_table(scores))
    if found.written is not None:
        console.print(_answers_table(found.written))
    console.print(_kinds_table(scores))
    console.print(_positions_table(_main_rows(found)))
    console.print("\n".join(cost_lines(scores.costs)), markup=False, soft_wrap=True)


def _main_rows(found: Evaluation) -> dict[str, Scores]:
    rows = {"no context": found.no_context, "the memory": found.memory, "full context": found.full_context}
    return rows if found.reconstruction is None else {**rows, "reconstruction": found.reconstruction}


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
        "context_column": args.context_column,
        "prompt_column": args.prompt_column,
        "answer_column": args.answer_column,
        "prompt_template": args.prompt_template,
        "abbrev_len": args.abbrev_len,
        "val_batch_size": args.batch_size,
        "max_val_loops": args.max_loops,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if args.dataset is not None and args.dataset not in (settings.dataset, settings.dataset.partition("@")[0]):
        forgotten: dict[str, Any] = dict.fromkeys(_OF_ITS_DATA)
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
    scores: "SplitScores",
    sums: Mapping[str, "WaySums"],
) -> Evaluation:
    settings, candidate = compressor.settings, scores.compressors[0].candidate
    chosen = candidate.vectors // settings.n_pieces
    main = "memory" if chosen == settings.n_cmps else f"{chosen} vectors"
    losses = {name: _scores(one.positions) for name, one in sums.items()}
    low, high = losses["no_context"].loss, losses["full_context"].loss
    return Evaluation(
        folder=str(args.folder),
        dataset=dataset,
        split=args.split,
        windows=scores.windows,
        context_len=settings.context_len,
        target_len=settings.seq_len,
        n_cmps=chosen,
        positions=candidate.positions,
        compression_ratio=settings.context_len / candidate.positions,
        val_loss=losses[main].loss,
        recovered=recovered_fraction(low, high, losses[main].loss),
        no_context=losses["no_context"],
        memory=losses[main],
        full_context=losses["full_context"],
        reconstruction=losses.get("reconstruction"),
        ways=[
            LossRow(label, losses[name].loss, recovered_fraction(low, high, losses[name].loss))
            for name, label in _labels(sums, settings.keep_len)
        ],
        scores=scores,
    )


def _labels(sums: Mapping[str, "WaySums"], kept: int) -> list[tuple[str, str]]:
    """Each way that was read and what to call it, in the order of the table."""
    text = f", and {_text_words(kept)}" if kept else ""
    names = [("no_context", "nothing"), ("memory", f"its own memory{text}")]
    names += [
        (name, f"{name.removesuffix(' vectors')} of its vectors{text}") for name in sums if name.endswith("vectors")
    ]
    names += [("swapped", f"the memory of another document{text}"), ("mean", f"one constant memory, the mean{text}")]
    for word, who in (("text", "the text control"), ("plain", "the bare model")):
        lengths = sorted(int(name.split()[1]) for name in sums if name.startswith(f"{word} "))
        names += [
            (f"{word} {length}", f"{who}: {_text_words(length)}") for length in lengths if length or word == "text"
        ]
    names.append(("full_context", "the whole context"))
    return [(name, label) for name, label in names if name in sums]


def _text_words(length: int) -> str:
    """Of the context as plain text."""
    if length == 0:
        return "no text"
    return f"the last {f'{length} tokens' if length > 1 else 'token'}"


def _scores(sums: "PositionSums") -> Scores:
    from cmp.train.metrics import perplexity

    tokens = int(sums.tokens.sum())
    return Scores(sums.loss, perplexity(sums.loss), sums.accuracy, sums.top5_accuracy, tokens, sums.by_position())


def _ways_table(rows: Sequence[LossRow]) -> Table:
    table = Table(title="What the model reads before the target", title_justify="left")
    table.add_column("")
    for name in ("loss", "recovered"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.read, f"{row.loss:.4f}", "" if row.recovered is None else f"{row.recovered:.3f}")
    return table


def _answers_table(written: Written) -> Table:
    who = "the text control's" if written.text_by == "control" else "the bare model's"
    table = Table(
        title=f"What is written in answer to {len(written.rows):,} prompts, greedily; text is {who}",
        title_justify="left",
    )
    names = measures(written)
    table.add_column("")
    for name in names.values():
        table.add_column(name, justify="right")
    for way, label in WAYS.items():
        scores = written.mean(way)
        table.add_row(label, *(f"{getattr(scores, name):.3f}" for name in names))
    kept = written.kept()
    shares = ["" if (share := kept[name]) is None else f"{share:.0%}" for name in names]
    table.add_row("kept of the full context's", *shares, style="bold")
    return table


def _sizes_table(scores: "SplitScores") -> Table:
    table = Table(title="By number of vectors", title_justify="left")
    for name in ("vectors", "positions", "loss", "worth", "gain"):
        table.add_column(name, justify="right")
    for one in scores.compressors:
        worth = one.worth
        cells = ["", ""] if worth is None else [f"{worth.tokens:.1f}", f"{worth.gain:.2f}"]
        table.add_row(str(one.candidate.vectors), str(one.candidate.positions), f"{one.loss.value:.4f}", *cells)
    return table


def _kinds_table(scores: "SplitScores") -> Table:
    table = Table(title="Loss by kind of target token, nats per token", title_justify="left")
    columns = list(next(iter(scores.kinds.values())))
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for kind, row in scores.kinds.items():
        losses = ["" if (loss := row[name]) is None else f"{loss:.4f}" for name in columns[1:]]
        table.add_row(kind, f"{row['tokens'] or 0:,.0f}", *losses)
    return table


def _positions_table(rows: Mapping[str, Scores]) -> Table:
    """Losses along the target, in stretches that double in length."""
    table = Table(title="Loss by position, nats per token", title_justify="left")
    table.add_column("tokens")
    for name in rows:
        table.add_column(name, justify="right")
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
    for name, what in _COLUMN_OPTIONS.items():
        parser.add_argument(f"--{name}-column", metavar="NAME", help=f"of rows, the column of {what}")
    parser.add_argument("--prompt-template", metavar="TEXT", help="how a prompt is written, with {prompt} in it")
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
    parser.add_argument(
        "--vectors", type=positive_int, metavar="N", help="score fewer vectors than trained, with nested: true"
    )
    parser.add_argument(
        "--last",
        type=positive_int,
        nargs="+",
        default=[],
        metavar="N",
        help="also read the last N tokens of the context as plain text; 0, 1, 2, 4, ... are always read",
    )
    parser.add_argument(
        "--answers",
        type=int,
        default=256,
        metavar="N",
        help="of rows, let it answer this many in four ways and score what is written; 0 for none",
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
