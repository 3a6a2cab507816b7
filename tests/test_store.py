import errno
from pathlib import Path

import pytest

from cmp.store import failed_write_tolerated, is_disk_full, replace_folder, restore_folder, write_json


def write_number(number: int):  # noqa: ANN201
    return lambda folder: (folder.mkdir(), (folder / "number").write_text(str(number)))


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    for number in (1, 2, 3):
        replace_folder(folder, write_number(number))
        assert (folder / "number").read_text() == str(number)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_failed_write_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    replace_folder(folder, write_number(1))

    def fail(new: Path) -> None:
        new.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        replace_folder(folder, fail)
    assert (folder / "number").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_crash_between_the_two_renames_is_undone(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    replace_folder(folder, write_number(1))
    folder.rename(tmp_path / ".best.old")
    write_number(2)(tmp_path / ".best.new")

    restore_folder(folder)

    assert (folder / "number").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_only_a_full_disk_is_tolerated_and_said_in_one_line(tmp_path: Path) -> None:
    lines: list[str] = []
    with failed_write_tolerated(lines.append, "best/"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert lines == ["disk full: best/ was not written; the last good one is kept"]
    with pytest.raises(PermissionError), failed_write_tolerated(lines.append, "best/"):
        raise PermissionError(errno.EACCES, "denied")
    assert is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"))


def test_json_appears_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"a": [1, 2.5, None]})
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]
    with pytest.raises(TypeError):
        write_json(tmp_path / "deep" / "a.json", {"a": object()})
    assert "2.5" in (tmp_path / "deep" / "a.json").read_text()
