"""Compress a text and continue from it.

    python -m cmp compress results/demo/best --text-file story.txt --prompt "Then" --continuation-file rest.txt

Prints what the backbone writes after the memory, and, when a continuation is given, its loss after the memory between
the two bounds: the backbone without the text and with all of it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from cmp.commands.shared import add_loading_options, load_compressor, positive_float, positive_int, run, share
from cmp.results.recovered import recovered_fraction
from cmp.space.errors import UserError

if TYPE_CHECKING:
    from cmp.model.api import Compressor, Memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, compress, print; returns the exit code."""
    args = _parser().parse_args(arguments)
    return run(lambda: compress(args, Console(highlight=False)))


def compress(args: argparse.Namespace, console: Console) -> None:
    """All that the command does, after its line was read."""
    text = read_text("--text-file", args.text_file)
    continuation = _continuation(args)
    compressor = load_compressor(args)
    if continuation is not None and not compressor.can_continue:
        raise UserError("--continuation", "this compressor was trained with rmb_only; it can only reconstruct")
    _seed(args.seed)
    memory = compressor.compress(text, n_cmps=args.vectors)
    _say(console, _size_line(compressor, text, memory))
    if compressor.can_continue:
        _print_texts(console, compressor, args, text, memory)
    if args.reconstruct or not compressor.can_continue:
        _heading(console, "Reconstruction from the memory")
        _say(console, str(compressor.reconstruct(memory)))
    if continuation is not None:
        console.print()
        console.print(loss_table(compressor, text, memory, continuation))


def read_text(option: str, name: str) -> str:
    """A UTF-8 file, or standard input for "-".

    Raises:
        UserError: it cannot be read, or holds nothing.
    """
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(option, f"{name}: {reason}") from None
    if not text.strip():
        raise UserError(option, f"{name}: empty; there is nothing to compress or to score")
    return text


def loss_table(compressor: "Compressor", text: str, memory: "Memory", continuation: str) -> Table:
    """The continuation's loss after the memory, between its bounds."""
    bounds, loss = compressor.bounds(text, continuation), compressor.loss(memory, continuation)
    table = Table(title="Loss of the continuation, nats per token", title_justify="left")
    table.add_column("after")
    table.add_column("loss", justify="right")
    table.add_row("no context", f"{bounds.no_context:.4f}")
    table.add_row("the memory", f"{loss:.4f}")
    full = "longer than the model's positions" if bounds.full_context is None else f"{bounds.full_context:.4f}"
    table.add_row("the full text", full)
    recovered = recovered_fraction(bounds.no_context, bounds.full_context, loss)
    if recovered is not None:
        table.add_row("recovered", f"{recovered:.3f}")
    return table


def _print_texts(
    console: Console, compressor: "Compressor", args: argparse.Namespace, text: str, memory: "Memory"
) -> None:
    settings = _generation_settings(args)
    settings.setdefault("max_new_tokens", compressor.settings.seq_len)
    _heading(console, "Continuation from the memory")
    _say(console, args.prompt + str(compressor.generate(memory, args.prompt, **settings)))
    if not args.compare:
        return
    _heading(console, "Continuation from no context")
    _say(console, args.prompt + compressor.continue_text("", args.prompt, **settings))
    _heading(console, "Continuation from the full text")
    n_tokens = _count(compressor, text) + _count(compressor, args.prompt) + settings["max_new_tokens"]
    if compressor.fits(n_tokens):
        _say(console, args.prompt + compressor.continue_text(text, args.prompt, **settings))
    else:
        _say(console, f"(the text is longer than the model's {compressor.backbone.max_positions} positions)")


def _size_line(compressor: "Compressor", text: str, memory: "Memory") -> str:
    tokens, vectors, kept = _count(compressor, text), memory.vectors.shape[1], len(memory.kept[0])
    pieces = vectors // memory.n_cmps
    split = "" if pieces == 1 else f", in {pieces} pieces of at most {compressor.piece_len} tokens"
    text_too = f" and the last {kept:,} tokens as text" if kept else ""
    each = f"{tokens / (vectors + kept):.1f} tokens for each position"
    return f"{tokens:,} tokens -> {vectors:,} memory vectors{text_too} ({each}{split})"


def _count(compressor: "Compressor", text: str) -> int:
    """Tokens of a text."""
    return len(compressor.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _generation_settings(args: argparse.Namespace) -> dict[str, Any]:
    sampled = any(value is not None for value in (args.temperature, args.top_k, args.top_p))
    given = {
        "max_new_tokens": args.max_new_tokens,
        "num_beams": args.num_beams,
        "temperature": args.temperature,
        "top_k": args.top_k,
        "top_p": args.top_p,
    }
    return {"do_sample": args.sample or sampled, **{name: value for name, value in given.items() if value is not None}}


def _continuation(args: argparse.Namespace) -> str | None:
    if args.continuation_file is not None:
        return read_text("--continuation-file", args.continuation_file)
    if args.continuation is not None and not args.continuation.strip():
        raise UserError("--continuation", "empty; there is nothing to score")
    return args.continuation


def _seed(seed: int) -> None:
    import torch

    torch.manual_seed(seed)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(text, style="bold")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cmp compress",
        description="Compress a text and continue from it; with a continuation, its loss between the two bounds.",
    )
    add_loading_options(parser)
    parser.add_argument("--vectors", type=positive_int, metavar="N", help="fewer than trained, with nested: true")
    parser.add_argument("--text-file", required=True, metavar="FILE", help="the text to compress; - is standard input")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="comes after the memory; empty by default")
    following = parser.add_mutually_exclusive_group()
    following.add_argument("--continuation", metavar="TEXT", help="what really follows the text: print its loss")
    following.add_argument("--continuation-file", metavar="FILE", help="the same from a file")
    parser.add_argument("--compare", action="store_true", help="also continue from no context and from the full text")
    parser.add_argument("--reconstruct", action="store_true", help="also write the text back from its memory")
    writing = parser.add_argument_group("writing (greedy unless one of the sampling options is given)")
    writing.add_argument("--max-new-tokens", type=positive_int, metavar="N", help="seq_len by default")
    writing.add_argument("--num-beams", type=positive_int, metavar="N")
    writing.add_argument("--sample", action="store_true", help="sample at temperature 1")
    writing.add_argument("--temperature", type=positive_float, metavar="T")
    writing.add_argument("--top-k", type=positive_int, metavar="K")
    writing.add_argument("--top-p", type=share, metavar="P")
    writing.add_argument("--seed", type=int, default=0, help="of the sampling; 0 by default")
    return parser
