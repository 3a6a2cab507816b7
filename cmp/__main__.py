"""`python -m cmp COMMAND ...`: the commands for what a search has left. `python -m cmp --help` lists them."""

import sys
from collections.abc import Sequence
from importlib import import_module

from cmp.space.errors import EXIT_FINISHED, EXIT_WRONG_INPUT

# Only the module of the command that is called is imported: some need torch, which takes seconds.
COMMANDS = {
    "compress": "compress a text and continue from it",
    "evaluate": "score a compressor on a text, beside its controls",
    "export": "copy a compressor out of a search's results",
    "report": "rebuild a search's report.html from its journal",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Call the command that is named first with the rest of the line; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return EXIT_FINISHED if words else EXIT_WRONG_INPUT
    if words[0] not in COMMANDS:
        print(f"{words[0]}: no such command\n\n{_help()}", file=sys.stderr)
        return EXIT_WRONG_INPUT
    return import_module(f"cmp.commands.{words[0]}").main(words[1:])


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: python -m cmp COMMAND [--help | ...]", "", *lines])


if __name__ == "__main__":
    sys.exit(main())
