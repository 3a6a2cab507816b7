"""Search for the best context compressor: one space file in, one results folder out.

    python search.py spaces/demo.yaml

Exit codes: 0 finished, 1 no trial succeeded, 2 the input is wrong, 3 most trials failed, 75 Ray is gone, 130
interrupted. Heavy libraries are imported only once the space is right, so that a typing mistake is answered at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cmp.space.errors import EXIT_FINISHED, EXIT_INTERRUPTED, EXIT_WRONG_INPUT, SpaceError, UserError
from cmp.space.loading import load_space
from cmp.space.reference import settings_help
from cmp.space.settings import RULES

if TYPE_CHECKING:
    from cmp.space.space import Space


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, load the space, search; returns the exit code."""
    args = _parser().parse_args(arguments)
    space: Space | None = None
    try:
        space = load_space(args.space, args.set)
        for note in space.notes:
            print(f"note: {note}", file=sys.stderr)
        if args.stop_trial is not None:
            return _stop_trial(space, args.stop_trial)
        if args.test:
            space = _rehearsal(space, args.address)
        return _dry_run(space, args) if args.dry_run else _search(space, args)
    except UserError as error:
        print(_message(error, space), file=sys.stderr)
        return EXIT_WRONG_INPUT
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED


def _search(space: "Space", args: argparse.Namespace) -> int:
    from cmp.search.run import run_search

    return run_search(space, address=args.address, fresh=args.fresh or args.test, retry_failed=args.retry_failed)


def _stop_trial(space: "Space", number: int) -> int:
    from cmp.search.api import stop_trial

    stop_trial(space.results_place, number)
    print(f"Trial {number} leaves after its next report, as soon as the search that runs it has seen this.")
    return EXIT_FINISHED


def _dry_run(space: "Space", args: argparse.Namespace) -> int:
    from cmp.search.dry_run import dry_run

    dry_run(space, address=args.address, fresh=args.fresh or args.test)
    return 0


def _rehearsal(space: "Space", address: str | None) -> "Space":
    """The space in miniature, fitted to its testing model and to the machines at hand."""
    from cmp.search.engine.cluster import cluster_nodes
    from cmp.search.model_check import facts_of
    from cmp.space.rehearsal import rehearse

    miniature = rehearse(space).fixed
    facts = facts_of(miniature["model_string"], "testing", trust_remote_code=miniature["trust_remote_code"])
    return rehearse(space, facts, sum(node.gpus for node in cluster_nodes(address)))


def _message(error: UserError, space: "Space | None") -> str:
    """The error with the line of the setting that it is about, where that is known."""
    if space is None or isinstance(error, SpaceError) or error.setting not in RULES:
        return str(error)
    return str(space.problem(error.setting, error.message))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="search.py",
        description="Search for the best context compressor. The same command continues an interrupted search.",
        epilog=settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("space", metavar="SPACE", help="a space file in YAML, or hyperparameters in JSON")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="put VALUE (in YAML) in the file's place; KEY may be search.num_samples; may be repeated",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, print what would happen, train nothing"
    )
    parser.add_argument("--test", action="store_true", help="a rehearsal: the testing model, two trials, a few loops")
    parser.add_argument(
        "--address", help="a running Ray cluster, or auto; by default RAY_ADDRESS, or a Ray started on this machine"
    )
    parser.add_argument("--fresh", action="store_true", help="start over; the old results folder is moved aside")
    parser.add_argument(
        "--retry-failed", action="store_true", help="put failed trials back to work, but for diverged ones"
    )
    parser.add_argument(
        "--stop-trial", type=int, metavar="N", help="stop a trial of the search that runs elsewhere; starts nothing"
    )
    return parser


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `search.py ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
