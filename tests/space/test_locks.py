"""One process at a time, as far as the file system knows locks."""

import errno
import fcntl
import os
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from cmp.space.locks import one_at_a_time


def test_others_are_kept_out(tmp_path: Path) -> None:
    with one_at_a_time(tmp_path / "lock") as alone:
        assert alone
        with pytest.raises(Timeout):
            FileLock(tmp_path / "lock").acquire(timeout=0.01)
    FileLock(tmp_path / "lock").acquire(timeout=0.01)


@pytest.mark.parametrize("refusal", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_the_work_is_done_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with one_at_a_time(tmp_path / "lock") as alone:
        assert not alone


def test_another_error_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Not a directory|File exists"), one_at_a_time(tmp_path / "file" / "lock"):
        pass
