"""What a signal does before, while and after trials run."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cmp.search.terminal import signals
from cmp.search.terminal.signals import InterruptedEarlyError, Interruption


@pytest.fixture(autouse=True)
def ctrl_c_is_not_ignored() -> Iterator[None]:
    """A shell's background jobs inherit an ignored SIGINT; these tests hold there too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def interruption(asked: list[str]) -> Iterator[Interruption]:
    with Interruption(lambda: asked.append("stop"), lambda: "Bye.", end=lambda code: asked.append(f"end {code}")) as it:
        yield it


def test_before_trials_run_a_signal_ends_the_program_at_once(interruption: Interruption, asked: list[str]) -> None:
    with pytest.raises(InterruptedEarlyError, match="SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)

    assert asked == []
    assert interruption.signal == "SIGTERM"


def test_the_first_signal_asks_the_trials_to_leave(interruption: Interruption, asked: list[str]) -> None:
    interruption.trials_run(lambda: True)
    os.kill(os.getpid(), signal.SIGINT)

    assert asked == ["stop"]
    assert interruption.requested
    assert interruption.signal == "SIGINT"
    assert not interruption.overdue()


def test_the_second_signal_ends_the_process_on_the_spot(
    interruption: Interruption, asked: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    interruption.trials_run(lambda: True)
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)

    assert asked == ["stop", "end 130"]
    assert "SIGTERM again: leaving at once. Nothing is lost. Bye." in capfd.readouterr().err


def test_trials_that_do_not_leave_are_left_behind(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    monkeypatch.setattr(signals, "LEAVE_SECONDS", 0.0)
    monkeypatch.setattr(signals, "FORCE_SECONDS", 0.05)
    with Interruption(lambda: None, lambda: "Bye.", end=lambda code: asked.append(f"end {code}")) as interruption:
        interruption.trials_run(lambda: True)
        os.kill(os.getpid(), signal.SIGINT)
        interruption._watch.join(10)

    assert interruption.overdue()
    assert asked == ["end 130"]


def test_without_ray_nobody_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, asked: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signals, "WITHOUT_RAY_SECONDS", 0.0)
    with Interruption(lambda: None, lambda: "Bye.", end=lambda code: asked.append(f"end {code}")) as interruption:
        interruption.trials_run(lambda: False)
        os.kill(os.getpid(), signal.SIGTERM)
        interruption._watch.join(10)

    assert asked == ["end 130"]
    assert "Ray was ended, too; nothing before the trials' last checkpoints is lost. Bye." in capfd.readouterr().err


def test_handlers_are_given_back_and_an_ignored_signal_stays_ignored(asked: list[str]) -> None:
    before = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption(lambda: None, lambda: ""):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_handler_that_ray_puts_in_between_is_replaced_again(interruption: Interruption, asked: list[str]) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append("ray"))
    interruption.install()
    interruption.trials_run(lambda: True)
    os.kill(os.getpid(), signal.SIGTERM)

    assert asked == ["stop"]


def test_the_command_line_starts_without_torch_or_ray() -> None:
    """A search that has nothing to do, or a wrong folder, must be answered at once."""
    code = (
        "import sys, cmp.search.run; print([name for name in ('ray', 'torch', 'transformers') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
