"""One process searches in a folder; an old folder is set aside, never deleted."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmp.results.folder import FolderInUseError, ResultsFolder
from cmp.space.errors import UserError
from cmp.store import replacing

HOLD = """
import sys, time
from pathlib import Path
from cmp.results.folder import ResultsFolder
with ResultsFolder(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


def hold(path: Path, code: str = HOLD) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    return process


def test_a_second_process_is_refused_with_host_and_process_id_until_the_first_is_gone(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "x")
    holder = hold(folder.path)
    try:
        with (
            pytest.raises(FolderInUseError, match=rf"host {os.uname().nodename}, process {holder.pid}, since"),
            folder.lock(),
        ):
            pass
        with pytest.raises(FolderInUseError):
            folder.set_aside()
        assert folder.path.exists()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with folder.lock():
        pass


def test_the_lock_is_held_against_the_same_process_too_and_can_be_taken_again(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "x")
    with folder.lock(), pytest.raises(FolderInUseError), folder.lock():
        pass
    with folder.lock():
        pass


def test_a_forked_child_that_outlives_a_killed_search_does_not_keep_its_folder(tmp_path: Path) -> None:
    forking = HOLD.replace(
        'print("locked", flush=True)',
        "import os\n    child = os.fork()\n    if child == 0:\n        time.sleep(20)\n        os._exit(0)\n"
        '    Path(sys.argv[1], "child").write_text(str(child))\n    print("locked", flush=True)',
    )
    holder = hold(tmp_path / "x", forking)
    child = int((tmp_path / "x" / "child").read_text())
    try:
        time.sleep(0.2)
        holder.kill()
        holder.wait()
        os.kill(child, 0)
        with ResultsFolder(tmp_path / "x").lock():
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_setting_aside_takes_the_next_free_number_and_keeps_everything(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "x")
    assert folder.set_aside() is None
    for number in (1, 2, 3):
        folder.path.mkdir()
        (folder.path / "journal.jsonl").write_text(str(number))
        assert folder.set_aside() == tmp_path / f"x.{number}"
    assert not folder.path.exists()
    assert [(tmp_path / f"x.{number}" / "journal.jsonl").read_text() for number in (1, 2, 3)] == ["1", "2", "3"]


def test_a_replacement_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with (
        pytest.raises(UserError, match=r"save_root: .* cannot be written: Not a directory"),
        ResultsFolder(tmp_path / "file" / "x").lock(),
    ):
        pass


def test_a_file_system_without_locks_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with ResultsFolder(tmp_path / "x").lock():
        assert "has no locks" in caplog.text
