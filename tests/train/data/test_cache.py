import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cmp.space.cache_root import cache_root
from cmp.space.settings import TrialSettings
from cmp.train.data import cache as module
from cmp.train.data.cache import cached_tokens
from cmp.train.data.errors import DataError
from tests.train.data.conftest import ByteTokenizer

Make = Callable[..., TrialSettings]
DOCUMENTS = ["the first document", "", "the third, after an empty one"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(f'{{"text": "{document}"}}\n' for document in DOCUMENTS), encoding="utf-8")
    return path


def test_documents_come_back_as_they_were(text: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    cache = cached_tokens(settings(text), tokenizer)

    column = cache.columns["train"]
    rows = [column.tokens[a:b] for a, b in zip(column.offsets, column.offsets[1:], strict=False)]
    assert [tokenizer.text(row) for row in rows] == DOCUMENTS
    assert cache.facts["tokens"] == {"train": sum(map(len, DOCUMENTS))}


def test_tokens_are_mapped_not_copied(text: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    column = cached_tokens(settings(text), tokenizer).columns["train"]

    assert column.tokens.dtype == np.uint16
    assert not column.tokens.flags.owndata and not column.tokens.flags.writeable
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert "train.arrow" in maps.read_text()


def test_anyone_can_read_the_file_with_arrow(text: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    import pyarrow

    cache = cached_tokens(settings(text), tokenizer)

    table = pyarrow.ipc.open_file(str(cache.folder / "train.arrow")).read_all()
    assert [len(row) for row in table.column("tokens").to_pylist()] == list(map(len, DOCUMENTS))


def test_a_text_is_tokenized_once(
    text: Path, settings: Make, tokenizer: ByteTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached_tokens(settings(text), tokenizer)
    monkeypatch.setattr(module, "tokenize", lambda *_: pytest.fail("tokenized again"))

    second = cached_tokens(settings(text), tokenizer)

    assert (first.was_there, second.was_there) == (False, True)
    assert first.folder == second.folder


def test_another_tokenizer_of_the_same_size_has_another_cache(
    text: Path, settings: Make, tokenizer: ByteTokenizer
) -> None:
    from tokenizers import normalizers

    other = ByteTokenizer()
    other.backend_tokenizer.normalizer = normalizers.Lowercase()

    assert cached_tokens(settings(text), tokenizer).fingerprint != cached_tokens(settings(text), other).fingerprint


def test_empty_documents_only_are_an_error(tmp_path: Path, settings: Make, tokenizer: ByteTokenizer) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n{"text": null}\n', encoding="utf-8")

    with pytest.raises(DataError, match=r"a\.jsonl holds no text"):
        cached_tokens(settings(tmp_path / "a.jsonl"), tokenizer)


def test_a_full_disk_is_said_and_leaves_nothing(
    text: Path, settings: Make, tokenizer: ByteTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_write_column", full)

    with pytest.raises(DataError, match="no space left for tokens") as caught:
        cached_tokens(settings(text), tokenizer)

    assert caught.value.setting == "data_root"
    assert not [
        path for path in cache_root(settings(text).data_root).rglob("*") if path.suffix != ".lock" and path.is_file()
    ]


PROGRAM = """
import errno, fcntl, os, signal, sys, time
from cmp.space.settings import TrialSettings
from cmp.train.data import cache
from tests.train.data.conftest import ByteTokenizer

how, text, root = sys.argv[1:]
write = cache._write_column

def slow(*arguments):
    written = write(*arguments)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    return written

def refuse(*arguments):
    raise OSError(errno.ENOLCK, "No locks available")

cache._write_column = slow
if how == "unlocked":
    fcntl.flock = refuse
settings = TrialSettings(model_string="unused", dataset=text, data_root=root)
print("found" if cache.cached_tokens(settings, ByteTokenizer()).was_there else "made")
"""


def start(how: str, text: Path, root: str | None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how, str(text), str(root)], stdout=subprocess.PIPE, text=True
    )


def test_a_killed_tokenization_is_done_again_and_leaves_nothing(
    text: Path, settings: Make, tokenizer: ByteTokenizer
) -> None:
    root = settings(text).data_root
    assert start("killed", text, root).wait() < 0
    assert list(Path(str(root)).rglob("*.partial"))

    cache = cached_tokens(settings(text), tokenizer)

    assert not cache.was_there and cache.facts["stretches"] == {"train": 3}
    assert not list(Path(str(root)).rglob("*.partial"))


def test_of_two_processes_at_once_one_tokenizes_and_the_other_finds_it(text: Path, settings: Make) -> None:
    processes = [start("slowly", text, settings(text).data_root) for _ in range(2)]

    assert sorted(process.communicate()[0].strip() for process in processes) == ["found", "made"]


def test_without_locks_two_processes_do_the_work_twice_and_neither_breaks_the_others(
    text: Path, settings: Make, tokenizer: ByteTokenizer
) -> None:
    """Network file systems without locks: a trial failed at the lock, or one process removed what the other wrote."""
    root = settings(text).data_root
    processes = [start("unlocked", text, root) for _ in range(2)]
    printed = {process.communicate()[0].strip() for process in processes}

    assert printed <= {"made", "found"} and "made" in printed
    assert [process.returncode for process in processes] == [0, 0]
    assert cached_tokens(settings(text), tokenizer).was_there
    assert not list(Path(str(root)).rglob("*.partial"))


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CMP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "cmp"

    monkeypatch.setenv("CMP_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"
    assert cache_root(str(tmp_path / "set")) == tmp_path / "set"
