"""Runs real searches on a tiny model and kills their processes: shared by the tests and by `crash`."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.stores import journal_at
from tests.tiny import save_tiny_model, write_tiny_text

REPOSITORY = Path(__file__).resolve().parents[2]
START_TIMEOUT_SECONDS = 120.0
# A search whose trials come one after the other, so that it is the same every time; the fixture `unbroken` is one.
ONE_AT_A_TIME = {"search": {"num_samples": 5, "max_concurrent": 1, "startup_trials": 2, "min_peers": 1}}


@dataclass
class Search:
    """One search in a folder of its own.

    Args:
        root: holds the space, the model, the text and the results.
        settings: of the space, on top of the tiny ones.
        store: where results go instead, a URL; its variables are in the environment.
    """

    root: Path
    settings: dict[str, Any] = field(default_factory=dict)
    store: str | None = None
    starts: int = 0

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        if not (self.root / "model").exists():
            save_tiny_model(self.root / "model")
            write_tiny_text(self.root / "text.txt")
        tiny = {
            "exp_name": "tiny",
            "save_root": self.store or str(self.root / "results"),
            "data_root": str(self.root / "data"),
            "model_string": str(self.root / "model"),
            "dataset": str(self.root / "text.txt"),
            "lr": {"loguniform": [1e-4, 1e-2]},
            "n_cmps": {"int": [1, 4]},
            "cmp_len": 16,
            "seq_len": 12,
            "batch_size": 4,
            "val_batch_size": 4,
            "max_val_loops": 2,
            "n_train_loops": 4,
            "n_epochs": 4,
            "n_data_procs": 1,
        }
        self.space.write_text(yaml.safe_dump({**tiny, **self.settings}))

    @property
    def space(self) -> Path:
        """The space file."""
        return self.root / "space.yaml"

    @property
    def results(self) -> Path:
        """The results folder."""
        return self.root / "results" / "tiny"

    @property
    def journal(self) -> Path:
        """Its journal; of one on a store a copy, as it is now."""
        if self.store is None:
            return self.results / "journal.jsonl"
        copy = self.root / "journal-of-the-store.jsonl"
        copy.write_bytes(journal_at(f"{self.store}/tiny"))
        return copy

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The journal's complete events of one kind."""
        journal = self.journal
        if not journal.exists():
            return []
        lines = journal.read_text().split("\n")[:-1]
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Trials do not begin another epoch before the block ends: what a test does in it comes in time."""
        hold = self.root / "hold"
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    def start(
        self,
        *arguments: str,
        point: str | None = None,
        count: int = 1,
        epoch_seconds: float = 0.0,
        environment: dict[str, str] | None = None,
        directory: Path = REPOSITORY,
    ) -> "Run":
        """Type the command in a directory; with a crash point, the program that kills itself there."""
        self.starts += 1
        marks = self.root / "marks"
        marks.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            **(environment or {}),
            "PYTHONPATH": str(REPOSITORY),
            "CRASH_MARK": str(marks / f"crash-{self.starts}"),
            "CRASH_COUNT": str(count),
            "CRASH_FIRST_LOOP": str(marks / f"loop-{self.starts}"),
            "CRASH_EPOCH_SECONDS": str(epoch_seconds),
            "CRASH_HOLD": str(self.root / "hold"),
            **({"CRASH_POINT": point} if point else {}),
        }
        output = self.root / f"output-{self.starts}.txt"
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.whole_program.victim", str(self.space), *arguments],
                cwd=directory,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_as_in_a_terminal,
            )
        return Run(process, output, Path(environment["CRASH_FIRST_LOOP"]), Path(environment["CRASH_MARK"]))


@dataclass
class Run:
    """One start of the program.

    Args:
        process: the driver.
        output: all that it printed.
        first_loop: a file with the time of the first training loop, once there was one.
        mark: a file that exists once the crash point was hit.
    """

    process: subprocess.Popen[bytes]
    output: Path
    first_loop: Path
    mark: Path
    started: float = field(default_factory=time.time)

    def wait(self, timeout_seconds: float) -> int:
        """The exit code; everything is killed when it takes too long.

        Raises:
            TimeoutError: it did not end; the message has its output.
        """
        try:
            return self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.end()
            raise TimeoutError(f"still running after {timeout_seconds} s:\n{self.text()[-4000:]}") from None

    def wait_for_first_loop(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Return when a trial trains, or the program has ended."""
        end = time.time() + timeout_seconds
        while not self.first_loop.exists() and self.process.poll() is None:
            if time.time() > end:
                self.end()
                raise TimeoutError(f"no training loop after {timeout_seconds} s:\n{self.text()[-4000:]}")
            time.sleep(0.05)

    def time_of_first_loop(self) -> float | None:
        """When the first training loop began, in unix seconds; None when there was none yet."""
        try:
            return float(self.first_loop.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def text(self) -> str:
        """What it printed."""
        return self.output.read_text(errors="replace")

    def kill(self, kind: str, rng: random.Random) -> bool:
        """SIGKILL one process of a kind; False when there is none just now."""
        victims = [self.process.pid] if kind == "driver" else processes(self.process.pid, kind)
        if not victims or self.process.poll() is not None:
            return False
        try:
            os.kill(rng.choice(victims), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def end(self) -> None:
        """Kill all of it."""
        everything = [self.process.pid, *descendants(self.process.pid)]
        for pid in everything:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def _as_in_a_terminal() -> None:
    """Shells let what they start in the background ignore Ctrl-C, and the program would respect that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# How the command line of each kind of process begins or ends.
KINDS = {
    "worker": lambda line: line.startswith(("ray::Trial ", "ray::TrialActor")),
    "group_worker": lambda line: line.startswith(("ray::Worker ", "ray::CrewMember")),
    "raylet": lambda line: line.split(" ", 1)[0].endswith("/raylet/raylet"),
    "gcs": lambda line: line.split(" ", 1)[0].endswith("/gcs_server"),
}


def processes(root: int, kind: str) -> list[int]:
    """Descendants of `root` of one kind."""
    return [pid for pid in descendants(root) if KINDS[kind](command_line(pid))]


def descendants(root: int) -> list[int]:
    """All processes below `root`, from /proc."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found, open_ends = [], [root]
    while open_ends:
        below = children.get(open_ends.pop(), [])
        found += below
        open_ends += below
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue


def command_line(pid: int) -> str:
    """As `ps` shows it; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
