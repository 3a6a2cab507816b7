"""Copy a compressor, with its card, out of a results folder.

    python -m cmp export results/demo --to my-compressor                  # best/
    python -m cmp export results/demo --trial 7 --to my-compressor        # a trial's best epoch
    python -m cmp export results/demo --positions 8 --to my-compressor    # the best of at most 8 positions

The folder is checked before it is copied; nothing is overwritten.
"""

import argparse
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from cmp.commands.shared import positive_int, run
from cmp.results.best import CARD, NOTE
from cmp.results.folder import ResultsFolder, trial_label
from cmp.results.front import Front
from cmp.results.history import CONTROL, History
from cmp.results.journal import each_event
from cmp.results.opening import reading
from cmp.results.scores import Candidate, load_scores
from cmp.results.space_file import read_space_file
from cmp.space.errors import UserError
from cmp.space.space import Space
from cmp.store import write_text


def export(results: ResultsFolder, trial: int | None, target: Path, positions: int | None = None) -> str:
    """Copy a compressor's folder.

    Args:
        results: the search's folder.
        trial: whose best epoch; None is the search's best.
        target: must not exist, or be empty.
        positions: the lowest val_loss at no more than this price instead.

    Returns:
        The place that was copied.

    Raises:
        UserError: no such trial, one that has no compressor, nothing at that price, a damaged one, or a target that
            holds something.
    """
    from cmp.model.saving import CONFIG, add_control, opened, read_config, read_tensors
    from cmp.store import replace_folder

    if not results.has_history():
        raise UserError(None, f"{results}: not a results folder, it has no {results.journal.name}")
    place = f"{results}/{_place(results, trial, positions)}"
    with opened(place) as source, opened(f"{results}/trials/{trial_label(CONTROL)}/best") as control:
        if not (source / CONFIG).is_file():
            raise _nothing_there(results, trial)
        read_tensors(source, read_config(source))
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError("--to", f"{target} exists and is not empty; nothing is overwritten")
        target.parent.mkdir(parents=True, exist_ok=True)

        def write(new: Path) -> None:
            _copy(source, new)
            add_control(new, control)
            _begin_with_scores(new, results)

        replace_folder(target, write)
    return place


def _begin_with_scores(folder: Path, results: ResultsFolder) -> None:
    """Let the card of a trial's compressor begin with its test scores, where these very weights were scored."""
    from cmp.model.saving import read_config
    from cmp.train.testing import scored_card

    config, scores = read_config(folder), load_scores(results.test_scores)
    settings, origin = config.settings, config.origin
    if scores is None or origin.trial is None or config.n_cmps not in (None, settings.n_cmps):
        return
    candidate = Candidate(origin.trial, int(origin.metrics.get("epoch") or 0), settings.n_vectors, settings.keep_len)
    if scores.find(candidate) is not None:
        write_text(folder / CARD, scored_card(folder, scores, candidate))


def _place(results: ResultsFolder, trial: int | None, positions: int | None) -> str:
    if positions is None:
        return "best" if trial is None else f"trials/{trial:04d}/best"
    history = History.from_events(each_event(results.journal))
    front = Front.of(history, Space.from_dict(read_space_file(results.space)))
    point = front.best_within(positions)
    if point is not None:
        return f"front/{point.positions}"
    found = ", ".join(str(point.positions) for point in front.points()) or "nothing yet"
    raise UserError("--positions", f"no compressor has at most {positions} positions; the front has: {found}")


def _copy(source: Path, target: Path) -> None:
    """Everything but the note that the search keeps about its own best/."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*", NOTE))


def _nothing_there(results: ResultsFolder, trial: int | None) -> UserError:
    trials, saved = _trials(results)
    found = ", ".join(map(str, saved)) if saved else "none yet"
    if trial is None:
        return UserError(None, f"{results}: no best compressor yet; trials with one: {found}")
    state = "has saved no compressor" if trial in trials else "does not exist"
    return UserError("--trial", f"trial {trial} {state}; trials with one: {found}")


def _trials(results: ResultsFolder) -> tuple[set[int], list[int]]:
    """The trials that have begun, and those that have saved a compressor."""
    here = [path.relative_to(results.path).as_posix() for path in results.trials.rglob("*")]
    names = [name.split("/") for name in [*here, *results.home.names()] if re.match(r"trials/\d+", name)]
    return {int(name[1]) for name in names}, sorted({int(name[1]) for name in names if "best" in name})


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and copy; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cmp export", description="Copy a trial's best compressor, with its card, out of a search."
    )
    parser.add_argument("results", help="the search's results folder, or its URL")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--trial", type=int, help="its number; the best trial by default")
    chosen.add_argument("--positions", type=positive_int, metavar="N", help="the best of at most N positions")
    parser.add_argument("--to", required=True, help="the folder to make")
    args = parser.parse_args(arguments)

    def work() -> None:
        with reading(args.results) as results:
            source = export(results, args.trial, Path(args.to), args.positions)
        print(f"{source} -> {args.to}\n{Path(args.to) / 'README.md'} says what it is and how to use it.")

    return run(work)
