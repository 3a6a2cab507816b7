"""What a person sees while a search runs: one calm table in a terminal, plain lines in a pipe or a log file.

A listener of the ledger; it knows the journal's history and nothing of Ray.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cmp.results.history import History, TrialRecord
from cmp.results.journal import Event
from cmp.space.space import Space

# Rows of the live table; trials that are left out are counted below it.
MAX_ROWS = 16
REFRESHES_PER_SECOND = 2.0
PIPE_WIDTH_COLUMNS = 100
BAR_COLUMNS = 60
# A setting's name as a column head, shortened to this.
HEAD_COLUMNS = 10


class Display:
    """Shows a search until it is left; `say` puts single lines above the table.

    Args:
        space: names, domains and the budget.
        history: of the ledger; read at every refresh.
        console: where to write.
        max_concurrent: trials at once, for the estimate of the time left.
        clock: unix seconds.
    """

    def __init__(
        self,
        space: Space,
        history: History,
        console: Console,
        *,
        max_concurrent: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._space = space
        self._history = history
        self._console = console
        self._max_concurrent = max_concurrent
        self._clock = clock
        self._started = clock()
        self._status = ""
        self._live = (
            Live(get_renderable=self._render, console=console, refresh_per_second=REFRESHES_PER_SECOND, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        """Begin to refresh, in a terminal."""
        if self._live is not None:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *error: object) -> None:
        """Take the live table away; the final table is printed by the caller."""
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """One line that stays."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def status(self, text: str) -> None:
        """A word on what is being waited for, shown below the table; a line of its own in a pipe."""
        is_news, self._status = text != self._status, text
        if text and is_news and self._live is None:
            self.say(text)

    def slots(self, max_concurrent: int) -> None:
        """So many trials run at once now."""
        self._max_concurrent = max_concurrent

    def on_event(self, event: Event) -> None:
        """In a pipe, one line for each event that people care about; the live table refreshes itself."""
        self._status = "" if event["event"] in ("started", "reported") else self._status
        if self._live is None:
            line = event_line(event, self._space, self._history)
            if line is not None:
                self.say(line)

    def _render(self) -> RenderableType:
        now = self._clock()
        lines: list[RenderableType] = [live_table(self._space, self._history, self._console.width)]
        lines.append(Text(best_line(self._history), style="bold", overflow="fold"))
        left = seconds_left(self._space, self._history, self._max_concurrent, now)
        times = f"{duration(now - self._started)} elapsed"
        if left is not None:
            times += f", about {duration(left)} left"
        lines.append(Text(times))
        if left is not None:
            passed = now - self._started
            lines.append(ProgressBar(total=passed + left, completed=passed, width=BAR_COLUMNS))
        if self._status:
            lines.append(Text(self._status, style="dim", overflow="fold"))
        return Group(*lines)


def live_table(space: Space, history: History, width: int) -> Table:
    """Running trials and the best of the others, in at most `width` columns."""
    running = [trial for trial in history.trials.values() if trial.status == "running"]
    others = [trial for trial in history.ranked() if trial.status not in ("running", "waiting")]
    shown = others[: max(0, MAX_ROWS - len(running))] + running
    ended = sum(trial.has_ended for trial in history.trials.values())
    title = f"{space.name}: {ended} of {space.search.num_samples} trials done, {len(running)} running"
    table = trials_table(space, history, shown, width, title=title)
    if len(shown) < len(running) + len(others):
        table.caption = f"and {len(running) + len(others) - len(shown)} more, in trials.csv"
    return table


def trials_table(
    space: Space,
    history: History,
    trials: list[TrialRecord],
    width: int,
    *,
    title: str | None = None,
    over: bool = False,
) -> Table:
    """The text control and one row per trial.

    Searched settings that do not fit into `width` columns are left out, the last first.

    Args:
        space: has the searched settings, in the order of the file.
        history: has the text control, and what losses are worth.
        trials: in the order of the rows.
        width: columns of the terminal.
        title: a line above the heads.
        over: nothing runs any more, so what has not ended is unfinished.
    """
    names = list(space.searched)
    head, tail = ["trial"], ["epoch", "val_loss", "worth", "gain", "tokens/s", "status"]
    extras = [] if history.control is None else [history.control]
    while True:
        rows = [_row(history, trial, names, over=over) for trial in (*extras, *trials)]
        heads = [*head, *(name[:HEAD_COLUMNS] for name in names), *tail]
        if not names or _width(heads, rows) <= width:
            break
        names.pop()
    table = Table(
        title=title, title_justify="left", caption_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for name in heads:
        table.add_column(name, justify="left" if name == "status" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _width(heads: list[str], rows: list[list[str]]) -> int:
    columns = zip(heads, *rows, strict=True)
    return sum(max(len(cell) for cell in column) + 2 for column in columns)


def _row(history: History, trial: TrialRecord, names: list[str], *, over: bool) -> list[str]:
    best = trial.best_report
    last = trial.reports[-1] if trial.reports else {}
    worth = history.worth_of(best) if best and trial.role != "control" else None
    return [
        trial_name(trial),
        *(short(trial.own_settings[name]) if name in trial.own_settings else "" for name in names),
        str(trial.epoch) if trial.reports else "",
        _fixed(best and best.get("val_loss")),
        _fixed(worth and worth.tokens, digits=1),
        _fixed(worth and worth.gain, digits=1),
        _thousands(last.get("tokens_per_second")),
        "unfinished" if over and not trial.has_ended else trial.outcome,
    ]


def event_line(event: Mapping[str, Any], space: Space, history: History) -> str | None:
    """The plain line for an event; None for those nobody waits for."""
    kind, number = event["event"], event.get("trial")
    if number is None:
        return None
    trial = f"trial {trial_name(history.record(number))}" if number >= 0 else trial_name(history.record(number))
    if kind == "started":
        settings = " ".join(f"{name}={short(value)}" for name, value in history.record(number).own_settings.items())
        return f"{trial}  started  {settings}".rstrip()
    if kind == "reported":
        return f"{trial}  {_report_text(history, event['metrics'], event['epoch'])}"
    if kind == "stopped":
        reasons = {"user": "as you asked", "time limit": "its time was up"}
        why = reasons.get(event.get("reason", ""), "others were better there")
        return f"{trial}  stopped after epoch {event['epoch']}: {why}"
    if kind == "finished":
        return f"{trial}  finished after epoch {event['epoch']}; {best_line(history)}"
    if kind == "failed":
        return f"{trial}  {event['kind']}: {event['reason']} (see {event['log']})"
    return None


def trial_name(trial: TrialRecord) -> str:
    """A trial as people call it: its number, the text control by what it is, a finalist by trial and seed."""
    if trial.role == "control":
        return "text"
    return str(trial.number) if trial.role == "search" else f"{trial.of} seed {trial.seed}"


def _report_text(history: History, metrics: Mapping[str, Any], epoch: int) -> str:
    text = f"epoch {epoch}  val_loss {_fixed(metrics.get('val_loss'))}"
    worth = history.worth_of(metrics) if metrics.get("swapped_loss") is not None else None
    if worth is not None:
        text += f"  worth {worth.tokens:.1f}  gain {worth.gain:.1f}"
    elif metrics.get("swapped_loss") is None and metrics.get("recovered") is not None:
        text += f"  recovered {_fixed(metrics['recovered'], digits=2)}"
    return f"{text}  {_thousands(metrics.get('tokens_per_second'))} tokens/s"


def best_line(history: History) -> str:
    """The best trial so far in one line."""
    trial = history.best()
    if trial is None or trial.best_report is None:
        return "no result yet"
    report = trial.best_report
    line = f"best so far: trial {trial.number}, val_loss {_fixed(report['val_loss'])} at epoch {report['epoch']}"
    worth = history.worth_of(report)
    if worth is None:
        return line
    line += f", worth {worth.tokens:.1f} tokens of text at {report['positions']} positions (gain {worth.gain:.1f})"
    return line if history.text_curve is not None and history.text_curve.trained else f"{line}, by the untrained model"


def seconds_left(space: Space, history: History, max_concurrent: int, now: float) -> float | None:
    """An estimate from the mean length of the trials that ended, before that from epochs; None before the first."""
    lengths = [trial.seconds for trial in history.trials.values() if trial.has_ended and trial.seconds > 0]
    lengths = lengths or [
        space.max_epochs * trial.seconds / trial.epoch for trial in history.trials.values() if trial.epoch
    ]
    if not lengths:
        return None
    mean = sum(lengths) / len(lengths)
    running = [trial for trial in history.trials.values() if trial.status == "running"]
    spent = sum(min(mean, _at_work(trial, now)) for trial in running)
    to_come = space.search.num_samples - sum(trial.has_ended for trial in history.trials.values())
    left = max(0.0, to_come * mean - spent) / max(1, min(max_concurrent, to_come))
    budget = space.search.time_budget_seconds
    return left if budget is None else min(left, max(0.0, budget - history.seconds))


def _at_work(trial: TrialRecord, now: float) -> float:
    before = sum(attempt.last_seen - attempt.started for attempt in trial.attempts[:-1])
    return before + (now - trial.attempts[-1].started if trial.attempts else 0.0)


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(75), duration(7300)
    ('1 min 15 s', '2 h 2 min')
    """
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def short(value: Any) -> str:
    """A setting's value in a few characters."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _fixed(value: Any, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) and math.isfinite(value) else ""


def _thousands(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) and math.isfinite(value) else ""
