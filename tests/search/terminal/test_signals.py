"""What a signal does before, while and after trials run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

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
    with Interruption(lambda: "Bye.", end=lambda code: asked.append(f"end {code}")) as it:
        yield it


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_before_trials_run_a_signal_ends_the_program_at_once(interruption: Interruption, asked: list[str]) -> None:
    with pytest.raises(InterruptedEarlyError, match="SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)

    assert asked == []
    assert interruption.signal == "SIGTERM"


def test_the_first_signal_asks_the_trials_to_leave(interruption: Interruption, asked: list[str]) -> None:
    interruption.trials_run(lambda: True, lambda: asked.append("stop"))
    os.kill(os.getpid(), signal.SIGINT)

    wait_until(lambda: asked == ["stop"])
    assert interruption.requested
    assert interruption.signal == "SIGINT"
    assert not interruption.overdue()


def test_the_second_signal_ends_the_process_on_the_spot(
    interruption: Interruption, asked: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    interruption.trials_run(lambda: True, lambda: asked.append("stop"))
    os.kill(os.getpid(), signal.SIGINT)
    wait_until(lambda: asked == ["stop"])
    os.kill(os.getpid(), signal.SIGTERM)

    assert asked == ["stop", "end 130"]
    assert "SIGTERM again: leaving at once. Nothing is lost. Bye." in capfd.readouterr().err


def test_a_ray_that_does_not_answer_holds_up_nobody(interruption: Interruption, asked: list[str]) -> None:
    """The wish goes through Ray's control store; asking must not stop the clock of leaving by force."""
    interruption.trials_run(lambda: True, lambda: time.sleep(60))
    began = time.monotonic()
    os.kill(os.getpid(), signal.SIGTERM)

    assert time.monotonic() - began < 5
    assert interruption.requested


def test_trials_that_do_not_leave_are_left_behind(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    monkeypatch.setattr(signals, "LEAVE_SECONDS", 0.0)
    monkeypatch.setattr(signals, "FORCE_SECONDS", 0.05)
    with Interruption(lambda: "Bye.", end=lambda code: asked.append(f"end {code}")) as interruption:
        interruption.trials_run(lambda: True, lambda: None)
        os.kill(os.getpid(), signal.SIGINT)
        interruption._watch.join(10)

    assert interruption.overdue()
    assert asked == ["end 130"]


def test_without_ray_nobody_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, asked: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signals, "WITHOUT_RAY_SECONDS", 0.0)
    with Interruption(lambda: "Bye.", end=lambda code: asked.append(f"end {code}")) as interruption:
        interruption.trials_run(lambda: False, lambda: None)
        os.kill(os.getpid(), signal.SIGTERM)
        interruption._watch.join(10)

    assert asked == ["end 130"]
    assert "Ray was ended, too; nothing before the trials' last checkpoints is lost. Bye." in capfd.readouterr().err


def test_handlers_are_given_back_and_an_ignored_signal_stays_ignored(asked: list[str]) -> None:
    before = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption(lambda: ""):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_handler_that_ray_puts_in_between_is_replaced_again(interruption: Interruption, asked: list[str]) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append("ray"))
    interruption.install()
    interruption.trials_run(lambda: True, lambda: asked.append("stop"))
    os.kill(os.getpid(), signal.SIGTERM)

    wait_until(lambda: asked == ["stop"])


def test_the_command_line_starts_without_torch_or_ray() -> None:
    """A search that has nothing to do, or a wrong folder, must be answered at once."""
    code = (
        "import sys, cmp.search.run; print([name for name in ('ray', 'torch', 'transformers') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
