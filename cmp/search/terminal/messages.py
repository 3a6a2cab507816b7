"""What the program says at its start and at its end, from the journal's history alone."""

import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from cmp.results.best import BestNote, read_note
from cmp.results.controls import ReadingLoss, readings_on_test, readings_on_validation, runner_up_words, worth_caveat
from cmp.results.finalists import finalist_lines
from cmp.results.folder import ResultsFolder
from cmp.results.front import Front, Point, best_point
from cmp.results.history import History, TrialRecord
from cmp.results.scores import Candidate, CompressorScores, Interval, SplitScores, load_scores
from cmp.results.worth import headline
from cmp.results.written import ANSWERS, WAYS, Written, load_written, measures
from cmp.search.terminal.display import best_line, duration, short, trials_table
from cmp.space.space import Space


def say(console: Console, text: str) -> None:
    """Print plain text: nothing in it is markup, and long lines may be copied whole."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def found_line(history: History, num_samples: int) -> str:
    """What an earlier session left, in one line."""
    unfinished = history.unfinished()
    epochs = sum(trial.epoch for trial in history.trials.values())
    parts = [f"{history.count('finished')} trials finished", f"{history.count('stopped')} stopped early"]
    if history.count("failed"):
        parts.append(f"{history.count('failed')} failed")
    parts.append(f"{len(unfinished)} unfinished")
    new = max(0, num_samples - len(history.trials))
    return (
        f"Going on: {', '.join(parts)}; {epochs} epochs and {duration(history.seconds)} already spent; "
        f"{len(unfinished)} to continue, {new} new ones to come."
    )


def learned_lines(history: History) -> list[str]:
    """What suggestions know from earlier searches."""
    if not history.learned_from:
        return []
    return [f"Suggestions learn from {len(history.learned)} trials of {', '.join(history.learned_from)}."]


def same_command(arguments: Sequence[str] | None = None) -> str:
    """The command that goes on from here: the one that was typed, without --fresh."""
    words = list(sys.argv if arguments is None else arguments)
    return shlex.join(["python", *(word for word in words if word != "--fresh")])


def print_results(console: Console, space: Space, history: History, folder: ResultsFolder) -> None:
    """The table best first, the best trial between its bounds, where everything is and how to use it."""
    console.print()
    console.print(trials_table(space, history, history.ranked(), _table_width(console), over=True))
    console.print()
    best = best_point(space, history)
    if best is None and history.best() is None:
        say(
            console,
            f"No trial succeeded; the reasons are in {folder}/{folder.trials_csv.name} and in each trial's log.txt.",
        )
        return
    if history.mostly_failed:
        say(console, failures_text(history))
    if best is None:
        say(console, f"No compressor has at most {space.search.best_positions} positions (search.best_positions).")
    else:
        say(console, best_text(best, history, space, load_scores(folder.test_scores)))
    if (written := load_written(folder.best / ANSWERS)) is not None:
        say(console, answers_text(written))
    if front := front_text(space, history):
        say(console, front)
    note = read_note(folder.best)
    if best is None or (note is not None and (note.trial, note.epoch) == (best.trial, best.candidate.epoch)):
        say(console, places_text(folder))
    else:
        say(console, missing_text(folder, best.candidate, note))


def answers_text(written: Written) -> str:
    """How right what is written is, with each way of reading, on the test split."""
    names, kept = measures(written), written.kept()
    lines = [f"  answers to {len(written.rows):,} test prompts: {', '.join(names.values())}"]
    for way, words in WAYS.items():
        scores = written.mean(way)
        lines.append("    " + "  ".join(f"{getattr(scores, name):.3f}" for name in names) + f"  {words}")
    shares = [f"{share:.0%} of the {names[name]}" for name in names if (share := kept[name]) is not None]
    if shares:
        lines.append(f"  the memory keeps {', '.join(shares)} that the full context has")
    return "\n".join(lines)


def print_partial(
    console: Console, space: Space, history: History, folder: ResultsFolder, why: str = "Interrupted"
) -> None:
    """What a search that is not over has so far, and why it ended; it names no winner."""
    console.print()
    if history.trials:
        table = trials_table(
            space, history, history.ranked(), _table_width(console), title="Partial results", over=True
        )
        console.print(table)
    left = space.search.num_samples - sum(trial.has_ended for trial in history.trials.values())
    say(
        console,
        f"\n{why} with {left} of {space.search.num_samples} trials still to end; these results are partial.",
    )
    if history.best() is not None:
        say(console, f"Partial: {best_line(history)}.")
    say(console, f"Everything is in {folder}. To go on from here:\n\n    {same_command()}\n")


def front_text(space: Space, history: History) -> str:
    """The lowest loss for every price, where there are several prices."""
    points = Front.of(history, space).points()
    if len(points) < 2:
        return ""
    rows = [
        f"    {point.positions:>4} position{'s' if point.positions > 1 else ' '}  val_loss {point.val_loss:.4f}  "
        f"trial {point.trial}{f', its first {point.n_cmps} vectors' if point.is_prefix else ''}"
        for point in points
    ]
    return "\n".join(["\n  The front, the lowest val_loss for every price (in front/):", *rows])


def failures_text(history: History) -> str:
    """That most trials failed, and why, before anything is said of the others."""
    failed = [trial for trial in history.trials.values() if trial.status == "failed"]
    ended = sum(trial.has_ended for trial in history.trials.values())
    reasons = Counter(f"{trial.outcome}: {trial.reason}" for trial in failed)
    lines = [
        f"Most trials failed: {len(failed)} of {ended}. What is best among the others says little about this space."
    ]
    return "\n".join([*lines, *(f"  {number} x {reason}" for reason, number in reasons.most_common(3))]) + "\n"


def best_text(best: Point, history: History, space: Space, scores: SplitScores | None = None) -> str:
    """The best compressor: what it is worth on documents that decided nothing, beside the controls, and what it took.

    Args:
        best: what best/ holds.
        history: of the search.
        space: of the search.
        scores: on the test split; without them the numbers are those that the trial was selected on.
    """
    trial = history.trials[best.trial]
    report = best.report(trial.best_report or {})
    settings = ", ".join(f"{name} {short(value)}" for name, value in trial.settings.items()) or "nothing was searched"
    candidate = best.candidate
    tested = None if scores is None or not scores.compressors else scores.compressors[0]
    if scores is None or tested is None or tested.candidate != candidate:
        lines = _selected_lines(report, history, space, candidate)
    else:
        lines = _tested_lines(scores, tested)
        lines.append(f"  selected on val_loss {report['val_loss']:.4f} (recovered {_number(report.get('recovered'))})")
    part = f", its first {best.n_cmps} vectors" if best.is_prefix else ""
    lines.append(f"  trial {best.trial} at epoch {best.epoch}{part}: {settings}")
    lines += finalist_lines(history)
    epochs = sum(trial.epoch for trial in history.trials.values())
    spared = sum(_spared(trial, space) for trial in history.trials.values())
    lines.append(f"  {epochs} epochs in {duration(history.seconds)}; early stopping spared {spared}")
    return "\n".join(lines)


def _tested_lines(scores: SplitScores, tested: CompressorScores) -> list[str]:
    candidate, worth = tested.candidate, tested.worth
    lines = ["Best: worth nothing that can be measured, because the context itself does not help on this text"]
    if worth is not None and tested.gain and tested.worth_tokens and tested.carried:
        lines = [f"Best: {headline(worth, candidate.vectors, candidate.kept)}"]
        lines.append(
            f"  95 % intervals: worth {_range(tested.worth_tokens, 1)} tokens, gain {_range(tested.gain, 2)}, carried "
            f"{_range(tested.carried, 2)} of the context's value"
        )
    if not scores.trained:
        lines.append("  by the untrained model's text curve: there is no text control, so adaptation counts as memory")
    lines.append(f"  on {scores.documents:,} test documents that decided nothing, nats per target token:")
    lines += [_reading_line(reading) for reading in readings_on_test(scores, tested)]
    if scores.difference is not None:
        lines.append(f"  trial {scores.runner_up}, the runner-up, is {runner_up_words(scores.difference)}")
    return lines


def _reading_line(reading: ReadingLoss) -> str:
    interval = "" if reading.interval is None or reading.kind != "own" else f" ({_range(reading.interval, 4)})"
    return f"    {reading.loss:.4f}  {reading.read}{interval}"


def _selected_lines(report: Mapping[str, Any], history: History, space: Space, candidate: Candidate) -> list[str]:
    worth, caveat = history.worth_of(report), worth_caveat(space, history)
    first = "Best" if worth is None else f"Best: {headline(worth, candidate.vectors, candidate.kept)}"
    lines = [f"{first}, by the numbers it was selected on (no scores on the test split)"]
    lines += [] if caveat is None else [f"  {caveat}"]
    lines.append("  on the validation documents, nats per target token:")
    lines += [_reading_line(reading) for reading in readings_on_validation(history, report, candidate)]
    lines.append(
        f"  recovered {_number(report.get('recovered'))} of the gap between no and whole context; adaptation counts"
    )
    return lines


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _range(found: Interval, digits: int) -> str:
    return f"{found.low:.{digits}f} to {found.high:.{digits}f}"


def _spared(trial: TrialRecord, space: Space) -> int:
    return max(0, space.largest("n_epochs") - trial.epoch) if trial.status == "stopped" else 0


def places_text(folder: ResultsFolder) -> str:
    """Where everything is and how to use the best compressor."""
    path = str(folder)
    return (
        f"\n  {path}/report.html   open it in a browser"
        f"\n  {path}/trials.csv    one row per trial, best first"
        f"\n  {path}/best          the best compressor:\n"
        f"\n    from cmp import Compressor"
        f'\n    compressor = Compressor.from_pretrained("{path}/best")'
        f'\n    memory = compressor.compress("a long text ...")'
        f"\n    print(compressor.generate(memory, max_new_tokens=40))\n"
    )


def missing_text(folder: ResultsFolder, best: Candidate, note: BestNote | None) -> str:
    """What to do where `best/` does not hold the best compressor, which is then not named."""
    held = "does not exist" if note is None else f"holds trial {note.trial} at epoch {note.epoch}"
    return (
        f"\n  {folder}/report.html   open it in a browser"
        f"\n  {folder}/trials.csv    one row per trial, best first\n"
        f"\n  {folder}/best {held}: the weights of trial {best.trial} at epoch {best.epoch} could not be"
        f"\n  written, or are on another machine; its folder is {folder.trial(best.trial)}\n"
    )


def dashboard_text(dashboard: str | None, token_file: object) -> str | None:
    """Where Ray's dashboard is and what to do about its token."""
    if dashboard is None:
        return None
    token = "" if token_file is None else f" (it asks for a token: paste what is in {token_file})"
    return f"Ray dashboard: http://{dashboard}{token}"


def withheld_text(names: Sequence[str]) -> str:
    """What does not travel to other machines, and how they get it."""
    verb = "stays" if len(names) == 1 else "stay"
    return (
        f"{', '.join(names)} {verb} on this machine, because everybody on the cluster could read it; other machines "
        "take a token from their own file (`hf auth login` there), or from the secrets of the cluster"
    )


def print_warning(console: Console, text: str) -> None:
    """A line that should be noticed."""
    console.print(Text(text, style="yellow"), soft_wrap=True)


def _table_width(console: Console) -> int:
    return console.width if console.is_terminal else 10_000
