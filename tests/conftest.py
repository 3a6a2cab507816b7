"""Real, tiny objects that every test directory may use: a saved two-layer model, a text, an object store."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmp.objects import ObjectStore
from tests.leftovers import pytest_configure, pytest_sessionfinish, pytest_terminal_summary
from tests.parallel import pytest_xdist_make_scheduler
from tests.stores import (
    Gate,
    forget_connections,
    gs_environment,
    in_google_words,
    make_bucket,
    s3_environment,
    start_azurite,
    start_s3,
)
from tests.tiny import save_tiny_model, write_tiny_rows, write_tiny_text

__all__ = ["pytest_configure", "pytest_sessionfinish", "pytest_terminal_summary", "pytest_xdist_make_scheduler"]

# Tiny tensors gain nothing from a second thread, and threads that wait for each other beside other tests lose a lot.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def stay_here() -> Iterator[None]:
    """A trial's process enters the search's directory; these tests are such a process one after the other."""
    before = Path.cwd()
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved two-layer GPT-2 of width 32 (260 tokens, 128 positions) with a byte-level fast tokenizer."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-gpt2"))


@pytest.fixture(scope="session")
def tiny_text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty short documents of 300 to 600 characters, separated by `<|endoftext|>` lines."""
    return write_tiny_text(tmp_path_factory.mktemp("tiny-text") / "tiny.txt")


@pytest.fixture(scope="session")
def tiny_rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty rows with the columns of SQuAD and of GLUE."""
    return write_tiny_rows(tmp_path_factory.mktemp("tiny-rows") / "rows.jsonl")


@pytest.fixture(scope="session")
def s3_gate() -> Iterator[Gate]:
    """An S3 of this session on a free port of this machine, behind a gate that can be shut."""
    with start_s3() as port:
        yield Gate(port)


@pytest.fixture
def s3(s3_gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`s3://<a bucket of its own>/results`, with everything in the environment that it needs."""
    for name, value in s3_environment(s3_gate.port).items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    make_bucket(s3_gate.port, bucket)
    forget_connections()
    yield f"s3://{bucket}/results"
    forget_connections()


@pytest.fixture(scope="session")
def gs_port() -> Iterator[int]:
    with start_s3(in_google_words) as port:
        make_bucket(port, "bucket")
        yield port


@pytest.fixture(scope="session")
def azurite() -> Iterator[dict[str, str] | None]:
    with start_azurite("bucket") as environment:
        yield environment


@pytest.fixture(params=["s3", "gs", "az"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """An empty prefix on each kind of store; Azure's only where its emulator is installed."""
    forget_connections()
    if request.param == "s3":
        yield ObjectStore(request.getfixturevalue("s3"))
        return
    environment = (
        gs_environment(request.getfixturevalue("gs_port"))
        if request.param == "gs"
        else request.getfixturevalue("azurite")
    )
    if environment is None:
        pytest.skip("no azurite-blob on the path; npm install azurite brings it")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    yield ObjectStore(f"{request.param}://bucket/{request.node.name}")
    forget_connections()
