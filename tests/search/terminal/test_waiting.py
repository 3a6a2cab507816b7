"""What takes long is said: at once in a terminal, elsewhere once it lasts."""

import io
import time

import pytest
from rich.console import Console

from cmp.search.terminal import waiting as module
from cmp.search.terminal.waiting import waiting


def shown(seconds: float, *, terminal: bool, live: bool = True) -> str:
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal)
    with waiting(console, "Starting Ray", live=live):
        time.sleep(seconds)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_shows_it_with_a_clock_and_is_left_clean() -> None:
    text = shown(0.0, terminal=True)

    assert "Starting Ray" in text and "0:00:00" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0, "the cursor is shown again"
    assert shown(0.0, terminal=True, live=False) == "", "what has a bar of its own is not said twice"


def test_in_a_pipe_it_is_a_line_once_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(0.0, terminal=False) == ""
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.01)

    assert shown(0.3, terminal=False) == "Starting Ray ...\n"


def test_what_goes_wrong_meanwhile_is_not_followed_by_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.1)
    console = Console(file=io.StringIO())
    with pytest.raises(KeyboardInterrupt), waiting(console, "Starting Ray"):
        raise KeyboardInterrupt
    time.sleep(0.3)

    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
