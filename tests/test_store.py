import errno
import threading
from pathlib import Path

import pytest

from cmp.objects import ObjectStore
from cmp.store import (
    Twin,
    failed_write_tolerated,
    is_disk_full,
    local_folder,
    replace_folder,
    replacing,
    restore_folder,
    write_json,
    write_text,
)


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
    write_number(2)(tmp_path / ".best.0123abcd.new")

    restore_folder(folder)

    assert (folder / "number").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_writers_with_the_same_process_id_share_no_temporary_name(tmp_path: Path) -> None:
    """Containers on several machines all have a process 1, and may see the same folder."""
    path = tmp_path / "number"
    with replacing(path) as first:
        first.write_text("1")
        with replacing(path) as second:
            second.write_text("2")
    assert path.read_text() == "1", "who renames last is read"

    names: list[str] = []

    def write(new: Path) -> None:
        names.append(new.name)
        write_number(1)(new)

    replace_folder(tmp_path / "best", write)
    replace_folder(tmp_path / "best", write)
    assert len(set(names)) == 2


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


def test_a_twin_without_a_store_is_a_folder_and_nothing_more(tmp_path: Path) -> None:
    twin = Twin(tmp_path) / "deep"
    for act in (twin.send, twin.send_once, twin.fetch):
        act("never-written")
    twin.drop(["never-written"])
    assert twin.names() == []
    assert not twin.path.exists()


def test_what_one_twin_sends_another_machine_fetches(tmp_path: Path, s3: str) -> None:
    here, there = Twin(tmp_path / "a", s3) / "x", Twin(tmp_path / "b", s3) / "x"
    write_text(here.path / "file", "one")
    here.send("file")
    assert there.names() == ["file"]
    there.fetch("file")
    there.fetch("missing")
    assert [path.name for path in there.path.iterdir()] == ["file"]
    write_text(here.path / "file", "two")
    here.send("file")
    there.fetch("file")
    assert (there.path / "file").read_text() == "one", "what is here already is not asked for again"
    here.drop(["file"])
    assert there.names() == []


def test_a_reader_gets_a_folder_of_one_version_while_others_come(tmp_path: Path, s3: str) -> None:
    def send(version: int) -> None:
        folder = tmp_path / f"v{version}"
        folder.mkdir()
        for name in "abc":
            (folder / name).write_text(str(version))
        Twin(folder, s3).send_folder(str(version))

    send(0)
    writer = threading.Thread(target=lambda: [send(version) for version in range(1, 30)])
    writer.start()
    seen = set()
    while writer.is_alive():
        with local_folder(s3) as folder:
            contents = [path.read_text() for path in folder.iterdir()]
        assert len(contents) == 3 and len(set(contents)) == 1
        seen.add(contents[0])
    assert len(seen) > 2
    assert ObjectStore(s3).get("current") == b"29\na\nb\nc"
    assert {name.split("/")[0] for name in ObjectStore(s3).list()} == {"28", "29", "current"}, "the one before stays"


def test_a_reader_that_was_overtaken_twice_gets_the_version_of_now_and_no_part_of_its_own(
    tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It listed the files of a version that was being deleted, and took what was left of them for all."""

    def send(version: str) -> None:
        for name in "abc":
            write_text(tmp_path / version / name, version)
        Twin(tmp_path / version, s3).send_folder(version)

    def get_late(self: ObjectStore, name: str) -> bytes:
        content = get(self, name)
        if name == "current":
            monkeypatch.setattr(ObjectStore, "get", get)
            for version in ("2", "3"):
                send(version)
        return content

    send("1")
    get = ObjectStore.get
    monkeypatch.setattr(ObjectStore, "get", get_late)
    with local_folder(s3) as folder:
        assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys("abc", "3")


def test_a_folder_is_read_where_it_is_and_a_url_without_versions_as_it_is(tmp_path: Path, s3: str) -> None:
    with local_folder(tmp_path) as folder:
        assert folder == tmp_path
    with local_folder(f"{s3}/nothing") as folder:
        assert not folder.exists(), "as a folder that is not there"
    ObjectStore(s3).put("plain/config.json", b"{}")
    with local_folder(f"{s3}/plain") as folder:
        assert (folder / "config.json").read_text() == "{}"
    assert not folder.exists(), "a copy is for the time of the block"
