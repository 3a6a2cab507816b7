"""Copy a trial's best compressor, with its card, out of a results folder.

    python -m cmp export results/demo --trial 7 --to my-compressor

Without --trial it is the best trial's. The folder is checked before it is copied; nothing is overwritten.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from cmp.commands.shared import run
from cmp.results.best import NOTE
from cmp.results.folder import ResultsFolder
from cmp.space.errors import UserError


def export(results: ResultsFolder, trial: int | None, target: Path) -> Path:
    """Copy a compressor's folder.

    Args:
        results: the search's folder.
        trial: whose best epoch; None is the search's best.
        target: must not exist, or be empty.

    Returns:
        The folder that was copied.

    Raises:
        UserError: no such trial, one that has no compressor, a damaged one, or a target that holds something.
    """
    from cmp.model.saving import CONFIG, read_config, read_tensors
    from cmp.store import replace_folder

    source = _source(results, trial, CONFIG)
    read_tensors(source, read_config(source))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError("--to", f"{target} exists and is not empty; nothing is overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(target, lambda new: _copy(source, new))
    return source


def _copy(source: Path, target: Path) -> None:
    """Everything but the note that the search keeps about its own best/."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*", NOTE))


def _source(results: ResultsFolder, trial: int | None, config: str) -> Path:
    if not results.has_history():
        raise UserError(None, f"{results.path}: not a results folder, it has no {results.journal.name}")
    source = results.best if trial is None else results.trial(trial) / "best"
    if (source / config).is_file():
        return source
    saved = [int(path.parent.parent.name) for path in sorted(results.trials.glob(f"[0-9]*/best/{config}"))]
    found = ", ".join(map(str, saved)) if saved else "none yet"
    if trial is None:
        raise UserError(None, f"{results.path}: no best compressor yet; trials with one: {found}")
    state = "has saved no compressor" if results.trial(trial).is_dir() else "does not exist"
    raise UserError("--trial", f"trial {trial} {state}; trials with one: {found}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and copy; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cmp export", description="Copy a trial's best compressor, with its card, out of a search."
    )
    parser.add_argument("results", help="the search's results folder")
    parser.add_argument("--trial", type=int, help="its number; the best trial by default")
    parser.add_argument("--to", required=True, help="the folder to make")
    args = parser.parse_args(arguments)

    def work() -> None:
        source = export(ResultsFolder(Path(args.results)), args.trial, Path(args.to))
        print(f"{source} -> {args.to}\n{Path(args.to) / 'README.md'} says what it is and how to use it.")

    return run(work)
