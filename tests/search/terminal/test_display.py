"""What people see: a table that fits their terminal, plain lines in a pipe, honest words at the end."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from cmp.results.best import BestNote, write_note
from cmp.results.folder import ResultsFolder
from cmp.results.front import best_point
from cmp.results.history import History
from cmp.results.scores import Candidate, CompressorScores, Interval, SplitScores
from cmp.results.written import ANSWERS, AnswerScores, Written, WrittenRow, save_written
from cmp.search.run import standard_output
from cmp.search.terminal import messages
from cmp.search.terminal.display import Display, best_line, duration, event_line, live_table, seconds_left, trials_table
from cmp.space.space import Space
from tests.search.fake_search import make_space


def report(trial: int, epoch: int, loss: float, at: float, **more: Any) -> dict[str, Any]:
    metrics = {
        "epoch": epoch,
        "val_loss": loss,
        "no_context_loss": 3.0,
        "full_context_loss": 2.0,
        "recovered": 3.0 - loss,
        "compression_ratio": 12.5,
        "tokens_per_second": 12345.6,
        **more,
    }
    return {"event": "reported", "trial": trial, "epoch": epoch, "metrics": metrics, "time": at}


def suggested(trial: int, at: float, lr: float = 0.001234) -> list[dict[str, Any]]:
    settings = {"lr": lr, "n_cmps": 4, "cmp_layer": "half"}
    return [
        {"event": "suggested", "trial": trial, "settings": settings, "time": at},
        {"event": "started", "trial": trial, "attempt": 1, "node": "a", "pid": 1, "time": at},
    ]


EVENTS = [
    {"event": "session", "run": 1, "time": 0.0},
    *suggested(0, 0.0),
    *suggested(1, 0.0),
    report(0, 1, 2.5, 10.0),
    report(1, 1, 2.9, 10.0),
    {"event": "stopped", "trial": 1, "epoch": 1, "rung": 1, "time": 10.0},
    report(0, 2, 2.4, 20.0),
    {"event": "finished", "trial": 0, "epoch": 2, "time": 20.0},
    *suggested(2, 20.0),
    {
        "event": "failed",
        "trial": 2,
        "kind": "out_of_memory",
        "reason": "use a smaller batch_size",
        "log": "trials/0002/log.txt",
        "epoch": 0,
        "time": 30.0,
    },
    *suggested(3, 30.0),
    report(3, 1, 2.45, 40.0),
]


@pytest.fixture
def space() -> Space:
    return make_space(n_epochs=4)


@pytest.fixture
def history() -> History:
    return History.from_events(EVENTS)


def rendered(thing: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(thing)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [200, 100, 80, 60])
def test_the_live_table_fits_the_terminal(space: Space, history: History, width: int) -> None:
    text = rendered(live_table(space, history, width), width)

    assert max(len(line) for line in text.splitlines()) <= width
    for word in ("trial", "val_loss", "2.4000", "running", "out_of_memory"):
        assert word in text
    assert "…" not in text, "nothing is cut off: settings that do not fit are left out as a whole"


def test_a_narrow_terminal_leaves_out_settings_not_results(space: Space, history: History) -> None:
    wide = rendered(trials_table(space, history, history.ranked(), 200), 200)
    narrow = rendered(trials_table(space, history, history.ranked(), 60), 60)

    assert "lr" in wide and "n_cmps" in wide and "cmp_layer" in wide
    assert "cmp_layer" not in narrow and "val_loss" in narrow


def test_many_trials_keep_the_table_short(space: Space) -> None:
    events = [{"event": "session", "run": 1, "time": 0.0}]
    for number in range(300):
        events += [*suggested(number, 0.0), report(number, 1, 2.0 + number / 1000, 1.0)]
        events += [{"event": "finished", "trial": number, "epoch": 1, "time": 1.0}] if number < 298 else []
    text = rendered(live_table(space, History.from_events(events), 80))

    assert len(text.splitlines()) < 24
    assert "and 284 more, in trials.csv" in text
    assert text.count("running") == 3, "the two that run are shown, and counted in the title"


def test_in_a_pipe_every_line_stands_alone(space: Space, history: History) -> None:
    lines = [event_line(event, space, history) for event in EVENTS]

    assert [line for line in lines if line is not None] == [
        "trial 0  started  lr=0.00123 n_cmps=4 cmp_layer=half",
        "trial 1  started  lr=0.00123 n_cmps=4 cmp_layer=half",
        "trial 0  epoch 1  val_loss 2.5000  recovered 0.50  12,346 tokens/s",
        "trial 1  epoch 1  val_loss 2.9000  recovered 0.10  12,346 tokens/s",
        "trial 1  stopped after epoch 1: others were better there",
        "trial 0  epoch 2  val_loss 2.4000  recovered 0.60  12,346 tokens/s",
        "trial 0  finished after epoch 2; best so far: trial 0, val_loss 2.4000 at epoch 2",
        "trial 2  started  lr=0.00123 n_cmps=4 cmp_layer=half",
        "trial 2  out_of_memory: use a smaller batch_size (see trials/0002/log.txt)",
        "trial 3  started  lr=0.00123 n_cmps=4 cmp_layer=half",
        "trial 3  epoch 1  val_loss 2.4500  recovered 0.55  12,346 tokens/s",
    ]


def test_a_pipe_gets_no_control_characters(space: Space, history: History) -> None:
    console = Console(file=io.StringIO(), width=80)
    with Display(space, history, console, max_concurrent=2) as display:
        display.status("Starting ...")
        for event in EVENTS:
            display.on_event(event)
        display.say("a [bold]bracket[/bold] stays a bracket")

    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in text
    assert "a [bold]bracket[/bold] stays a bracket\n" in text


def test_a_terminal_is_left_clean(space: Space, history: History) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with Display(space, history, console, max_concurrent=2) as display:
        display.on_event(EVENTS[-1])
        display.say("a line that stays")

    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0, "the cursor is shown again"
    assert "a line that stays" in text


def test_the_time_left_is_that_of_the_trials_that_ended(history: History) -> None:
    """Trials took 20, 10 and 10 s; of 8, 5 are to come, one of them for 10 s already, two at a time."""
    space = make_space(n_epochs=4)
    left = seconds_left(space, history, max_concurrent=2, now=40.0)

    mean = (20 + 10 + 10) / 3
    assert left == pytest.approx((5 * mean - 10) / 2)
    assert seconds_left(space, History.from_events(EVENTS[:3]), max_concurrent=2, now=1.0) is None


def test_before_any_trial_ended_the_time_left_is_known_from_epochs() -> None:
    """Two of 4 epochs took 10 s, so 8 trials take 20 s each, and the one that runs has worked for 10."""
    events = [{"event": "session", "run": 1, "time": 0.0}, *suggested(0, 0.0), report(0, 2, 2.5, 10.0)]
    left = seconds_left(make_space(n_epochs=4), History.from_events(events), max_concurrent=1, now=10.0)

    assert left == pytest.approx(8 * 20 - 10)


def test_a_terminal_shows_a_bar_as_soon_as_the_time_left_is_known(space: Space, history: History) -> None:
    for known, bars in ((history, 1), (History.from_events(EVENTS[:3]), 0)):
        console = Console(file=io.StringIO(), width=80, force_terminal=True)
        with Display(space, known, console, max_concurrent=2):
            pass
        assert ("━" in console.file.getvalue()) == bool(bars)  # type: ignore[attr-defined]


def test_durations_read_like_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 59, 75, 7300)] == ["0 s", "59 s", "1 min 15 s", "2 h 1 min"]


def test_the_best_trial_is_named_once_there_is_one(history: History) -> None:
    assert best_line(History()) == "no result yet"
    assert best_line(history) == "best so far: trial 0, val_loss 2.4000 at epoch 2"


def printed(write: Any, space: Space, history: History, path: Path) -> str:
    console = Console(file=io.StringIO(), width=80)
    write(console, space, history, ResultsFolder(path))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder whose best/ holds the best trial of `history`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "fake" / "best").mkdir(parents=True)
    write_note(tmp_path / "results" / "fake" / "best", BestNote(0, 2, 2.4, False, {}))
    return Path("results/fake")


def test_a_best_that_is_not_in_its_folder_is_not_named_as_if_it_were(
    space: Space, history: History, results: Path
) -> None:
    """The weights were on another machine, or the disk was full: the folder held another epoch, or nothing."""
    write_note(results / "best", BestNote(0, 1, 2.5, False, {}))
    other = printed(messages.print_results, space, history, results)
    (results / "best" / "search.json").unlink()
    none = printed(messages.print_results, space, history, results)

    assert "results/fake/best holds trial 0 at epoch 1: the weights of trial 0 at epoch 2 could not be" in other
    assert "results/fake/best does not exist: the weights of trial 0 at epoch 2 could not be" in none
    assert "from_pretrained" not in other + none


def test_the_end_says_what_is_best_between_its_bounds_and_how_to_use_it(
    space: Space, history: History, results: Path
) -> None:
    text = printed(messages.print_results, space, history, results)

    for words in (
        "trial 0 at epoch 2: lr 0.00123, n_cmps 4, cmp_layer half",
        "by the numbers it was selected on (no scores on the test split)",
        "what a memory is worth in plain text is not known",
        "2.4000  its own memory",
        "3.0000  the model without the context",
        "2.0000  the model with the whole context",
        "recovered 0.600 of the gap",
        'Compressor.from_pretrained("results/fake/best")',
        "results/fake/report.html",
    ):
        assert words in text


def test_the_end_says_how_right_written_answers_are_where_there_are_any(
    space: Space, history: History, tmp_path: Path
) -> None:
    values = {"no_context": 0.1, "memory": 0.3, "text": 0.2, "full_context": 0.4}
    scores = {way: AnswerScores(0.0, value, value, 1.0) for way, value in values.items()}
    row = WrittenRow(0, 0, "Who?", ("x",), dict.fromkeys(values, "y"), scores)
    save_written(tmp_path / "best" / ANSWERS, Written(12, "control", (row, row)))

    text = printed(messages.print_results, space, history, tmp_path)

    assert "answers to 2 test prompts: exact match, F1, ROUGE-L, accuracy" in text
    assert "0.000  0.300  0.300  1.000  the memory" in text
    assert "the memory keeps 75% of the F1, 75% of the ROUGE-L, 100% of the accuracy" in " ".join(text.split())


CURVE = {"event": "reported", "trial": -1, "epoch": 4, "time": 50.0, "metrics": {
    "epoch": 4, "val_loss": 3.0, "text_curve": {"0": 3.0, "1": 2.9, "2": 2.7, "4": 2.5, "8": 2.3, "16": 2.0},
}}  # fmt: skip


@pytest.fixture
def with_control() -> History:
    """The same search with its text control, and positions in its reports."""
    control = [
        {"event": "suggested", "trial": -1, "role": "control", "settings": {"lr": 0.01, "n_cmps": 4}, "time": 0.0},
        {"event": "started", "trial": -1, "attempt": 1, "node": "a", "pid": 1, "time": 0.0},
        CURVE,
    ]
    more = {"positions": 4, "swapped_loss": 2.8}
    events = [
        {**event, "metrics": {**event["metrics"], **more}} if event["event"] == "reported" else event
        for event in EVENTS
    ]
    return History.from_events([events[0], *control, *events[1:]])


def test_the_table_shows_text_and_what_every_trial_is_worth_in_it(space: Space, with_control: History) -> None:
    text = rendered(trials_table(space, with_control, with_control.ranked(), 120), 120)

    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "3.0000" in rows["text"]
    assert "5.7" in rows["0"] and "1.4" in rows["0"], "2.4 is half-way between T(4) and T(8); 5.7 tokens, 4 positions"


def test_text_has_no_settings_that_only_mean_something_where_a_context_is_compressed(space: Space) -> None:
    """The sampled middle of keep_len stood beside the control's name, which reads every number of kept tokens."""
    settings = {"lr": 0.01, "n_cmps": 4, "keep_len": 2}
    suggested = {"event": "suggested", "trial": -1, "role": "control", "settings": settings, "time": 0.0}
    started = {"event": "started", "trial": -1, "attempt": 1, "node": "a", "pid": 1, "time": 0.0}

    line = event_line(started, space, History.from_events([suggested, started]))

    assert line == "text  started  lr=0.01 n_cmps=4"


def test_lines_speak_in_tokens_of_text(space: Space, with_control: History) -> None:
    assert best_line(with_control).endswith("worth 5.7 tokens of text at 4 positions (gain 1.4)")
    line = event_line(report(0, 2, 2.4, 20.0, positions=4, swapped_loss=2.8), space, with_control)
    assert line == "trial 0  epoch 2  val_loss 2.4000  worth 5.7  gain 1.4  12,346 tokens/s"
    assert event_line(CURVE, space, with_control) == "text  epoch 4  val_loss 3.0000   tokens/s"


def scores_of(trial: int, epoch: int) -> SplitScores:
    """Made up: 4 vectors and 2 kept tokens worth 8 tokens."""
    candidate = Candidate(trial, epoch, vectors=4, kept=0)
    near = {"loss": 2.3, "swapped_loss": 2.9, "mean_loss": 2.85, "recovered": 0.7, "worth_tokens": 8.0, "gain": 2.0}
    intervals = {name: Interval(value, 0.9 * value, 1.1 * value) for name, value in (near | {"carried": 0.7}).items()}
    compressor = CompressorScores(candidate=candidate, text_loss=2.5, **intervals)
    curve = {"0": 3.0, "4": 2.5, "8": 2.3, "16": 2.0}
    more = {"trained": True, "plain_curve": curve, "compressors": (compressor,), "runner_up": 3}
    return SplitScores("test", 40, 80, 400, 3.1, 1.9, curve, difference=Interval(-0.04, -0.06, -0.02), **more)


def test_the_last_lines_begin_with_what_the_best_is_worth_on_test_beside_its_controls(
    space: Space, with_control: History
) -> None:
    best = best_point(space, with_control)
    assert best is not None

    text = messages.best_text(best, with_control, space, scores_of(best.trial, 2))

    lines = text.splitlines()
    assert lines[0] == "Best: 4 vectors do the work of 8.0 tokens of text (gain 2.0)"
    assert "gain 1.80 to 2.20" in lines[1]
    for words in (
        "40 test documents that decided nothing",
        "3.0000  the adapted model without the context",
        "2.9000  with the memory of another document",
        "2.8500  with one constant memory",
        "2.5000  plain text at the same price, the last 4 tokens",
        "2.3000  its own memory",
        "trial 3, the runner-up, is 0.0400 nats worse on the same documents (+0.0200 to +0.0600), more than chance",
        "selected on val_loss 2.4000",
    ):
        assert words in text


def test_scores_of_another_trial_are_not_passed_off_as_the_bests(space: Space, with_control: History) -> None:
    best = best_point(space, with_control)
    assert best is not None

    text = messages.best_text(best, with_control, space, scores_of(3, 1))

    assert text.splitlines()[0].endswith("by the numbers it was selected on (no scores on the test split)")


def test_partial_results_are_called_partial_and_name_no_winner(
    space: Space, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["search.py", "spaces/my space.yaml", "--fresh", "--set", "n_cmps=4"])
    text = printed(messages.print_partial, space, history, Path("results/fake"))

    assert "Partial results" in text and "unfinished" in text and "running" not in text
    assert "Best:" not in text
    assert "Interrupted with 5 of 8 trials still to end; these results are partial." in text
    assert "python search.py 'spaces/my space.yaml' --set n_cmps=4" in text


def test_no_success_says_where_the_reasons_are(space: Space) -> None:
    events = [EVENTS[0], *suggested(2, 20.0), EVENTS[-4]]
    text = printed(messages.print_results, space, History.from_events(events), Path("results/fake"))

    assert "No trial succeeded; the reasons are in results/fake/trials.csv" in text


def test_going_on_says_what_was_found(history: History) -> None:
    assert messages.found_line(history, 8) == (
        "Going on: 1 trials finished, 1 stopped early, 1 failed, 1 unfinished; 4 epochs and 40 s already spent; "
        "1 to continue, 4 new ones to come."
    )


def test_the_dashboard_is_named_with_what_to_do_about_its_token() -> None:
    assert messages.dashboard_text("127.0.0.1:8265", None) == "Ray dashboard: http://127.0.0.1:8265"
    assert "paste what is in /root/t" in str(messages.dashboard_text("127.0.0.1:8265", Path("/root/t")))
    assert messages.dashboard_text(None, None) is None


def test_a_table_in_a_pipe_is_not_cut_to_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """A search of five settings once printed `val_l…` into its log file."""
    heads = [f"a-long-column-{number:02}" for number in range(12)]
    table = Table()
    for head in heads:
        table.add_column(head, no_wrap=True)

    standard_output().print(table)

    printed_heads = capsys.readouterr().out
    assert all(head in printed_heads for head in heads)


def test_a_search_in_which_most_trials_failed_says_so_first(space: Space) -> None:
    events: list[dict[str, Any]] = [{"event": "session", "run": 1, "time": 0.0}]
    for number in range(5):
        events += suggested(number, 0.0)
        reason = {"kind": "failed", "reason": "no such file", "log": "log.txt", "epoch": 0}
        events.append(
            {"event": "failed", "trial": number, **reason, "time": 1.0} if number < 3 else report(number, 1, 2.0, 1.0)
        )
        events += [{"event": "finished", "trial": number, "epoch": 1, "time": 1.0}] if number >= 3 else []
    history = History.from_events(events)

    text = printed(messages.print_results, space, history, Path("results/fake"))

    assert history.mostly_failed
    assert text.index("Most trials failed: 3 of 5") < text.index("Best")
    assert "3 x failed: no such file" in text
    assert not History.from_events(EVENTS).mostly_failed
