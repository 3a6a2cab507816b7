"""What the program says at its start and at its end, from the journal's history alone."""

import shlex
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from cmp.results.folder import ResultsFolder
from cmp.results.history import History, TrialRecord
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


def same_command(arguments: Sequence[str] | None = None) -> str:
    """The command that goes on from here: the one that was typed, without --fresh."""
    words = list(sys.argv if arguments is None else arguments)
    return shlex.join(["python", *(word for word in words if word != "--fresh")])


def print_results(console: Console, space: Space, history: History, folder: ResultsFolder) -> None:
    """The table best first, the best trial between its bounds, where everything is and how to use it."""
    console.print()
    console.print(trials_table(space, history.ranked(), _table_width(console), over=True))
    console.print()
    best = history.best()
    if best is None:
        say(console, f"No trial succeeded; the reasons are in {folder.trials_csv} and in each trial's log.txt.")
        return
    say(console, best_text(best, history, space))
    say(console, places_text(folder))


def print_partial(console: Console, space: Space, history: History, folder: ResultsFolder) -> None:
    """What an interrupted search has so far; it names no winner."""
    console.print()
    if history.trials:
        table = trials_table(space, history.ranked(), _table_width(console), title="Partial results", over=True)
        console.print(table)
    left = space.search.num_samples - sum(trial.has_ended for trial in history.trials.values())
    say(
        console,
        f"\nInterrupted with {left} of {space.search.num_samples} trials still to end; these results are partial.",
    )
    if history.best() is not None:
        say(console, f"Partial: {best_line(history)}.")
    say(console, f"Everything is in {folder.path}. To go on from here:\n\n    {same_command()}\n")


def best_text(best: TrialRecord, history: History, space: Space) -> str:
    """The best trial: its settings, its loss between the two bounds, what it took."""
    report = best.best_report or {}
    settings = ", ".join(f"{name} {short(value)}" for name, value in best.settings.items()) or "nothing was searched"
    lines = [f"Best: trial {best.number} at epoch {report['epoch']}: {settings}"]
    lines.append(f"  val_loss {report['val_loss']:.4f} nats per token, between")
    lines.append(f"    {report['no_context_loss']:.4f}  the model without the context, and")
    lines.append(f"    {report['full_context_loss']:.4f}  the model with the whole context")
    if report.get("recovered") is None:
        lines.append("  recovered is undefined: the context itself does not help this model on this text")
    else:
        ratio = report.get("compression_ratio")
        at = "" if ratio is None else f", at compression ratio {ratio:.1f}"
        lines.append(f"  recovered {report['recovered']:.3f} of what the context is worth{at}")
    epochs = sum(trial.epoch for trial in history.trials.values())
    spared = sum(_spared(trial, space) for trial in history.trials.values())
    lines.append(f"  {epochs} epochs in {duration(history.seconds)}; early stopping spared {spared}")
    return "\n".join(lines)


def _spared(trial: TrialRecord, space: Space) -> int:
    return max(0, space.largest("n_epochs") - trial.epoch) if trial.status == "stopped" else 0


def places_text(folder: ResultsFolder) -> str:
    """Where everything is and how to use the best compressor."""
    path = folder.path
    return (
        f"\n  {path}/report.html   open it in a browser"
        f"\n  {path}/trials.csv    one row per trial, best first"
        f"\n  {path}/best          the best compressor:\n"
        f"\n    from cmp import Compressor"
        f'\n    compressor = Compressor.from_pretrained("{path}/best")'
        f'\n    memory = compressor.compress("a long text ...")'
        f"\n    print(compressor.generate(memory, max_new_tokens=40))\n"
    )


def dashboard_text(dashboard: str | None, token_file: object) -> str | None:
    """Where Ray's dashboard is and what to do about its token."""
    if dashboard is None:
        return None
    token = "" if token_file is None else f" (it asks for a token: paste what is in {token_file})"
    return f"Ray dashboard: http://{dashboard}{token}"


def print_warning(console: Console, text: str) -> None:
    """A line that should be noticed."""
    console.print(Text(text, style="yellow"), soft_wrap=True)


def _table_width(console: Console) -> int:
    return console.width if console.is_terminal else 10_000
