"""Commands for results and compressors at a URL: what they do there, and what they say."""

from pathlib import Path

import pytest

from cmp.__main__ import main
from cmp.model.api import Compressor
from cmp.model.backbone import Backbone
from cmp.model.saving import CompressorError, save_compressor
from cmp.objects import ObjectStore
from cmp.results.opening import open_results
from cmp.results.store_journal import open_journal
from cmp.store import Twin
from tests.model.saved import new_compressor, save_tiny_model
from tests.report.synthetic import events_of, write_folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone.load(str(save_tiny_model("gpt2", tmp_path_factory.mktemp("gpt2"))))


@pytest.fixture
def url(s3: str, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A made-up search on a store; trial 1 and best/ hold real compressors."""
    monkeypatch.setenv("CMP_CACHE", str(tmp_path / "cache"))
    write_folder(tmp_path / "made-up", "typical")
    results = open_results(s3)
    journal = open_journal(results)
    for event in events_of("typical"):
        journal.append(event)
    journal.close()
    Twin(tmp_path / "made-up", s3).send("space.yaml")
    for place, version, vectors in (("trials/0001/best", "3", 1), ("best", "1-3", 2)):
        folder = tmp_path / place
        save_compressor(new_compressor(backbone, n_cmps=vectors).model, folder, {"trial": 1})
        Twin(folder, f"{s3}/{place}").send_folder(version)
    return s3


def test_a_page_is_written_where_the_results_are(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", url]) == 0

    assert capsys.readouterr().out == f"{url}/report.html\n"
    page = ObjectStore(url).get("report.html").decode()
    assert page.startswith("<!doctype html>") and "Trade-off" in page


def test_compressors_are_copied_from_a_store(url: str, backbone: Backbone, tmp_path: Path) -> None:
    assert main(["export", url, "--to", str(tmp_path / "a")]) == 0
    assert main(["export", f"{url}/", "--trial", "1", "--to", str(tmp_path / "b")]) == 0

    assert Compressor.from_pretrained(tmp_path / "a", backbone=backbone).settings.n_cmps == 2
    assert Compressor.from_pretrained(tmp_path / "b", backbone=backbone).settings.n_cmps == 1


def test_a_compressor_is_loaded_from_a_url(url: str, backbone: Backbone, tmp_path: Path) -> None:
    assert Compressor.from_pretrained(f"{url}/best", backbone=backbone).settings.n_cmps == 2

    plain = tmp_path / "trials/0001/best"
    for path in plain.iterdir():
        ObjectStore(f"{url}/plain").put(path.name, path.read_bytes())
    assert Compressor.from_pretrained(f"{url}/plain", backbone=backbone).settings.n_cmps == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "URL/nothing"], "URL/nothing: no journal.jsonl and space.yaml here"),
        (["report", "ftp://x/y"], "ftp:// is not a store that results can go to"),
        (["export", "URL/nothing", "--to", "out"], "URL/nothing: not a results folder"),
        (["export", "URL", "--trial", "0", "--to", "out"], "--trial: trial 0 does not exist; trials with one: 1"),
        (["export", "URL", "--trial", "1", "--to", "out"], "URL/trials/0001/best/compressor.safetensors: damaged"),
        (["compress", "URL", "--text-file", "t"], "config.json is missing; did you mean URL/best?"),
        (["compress", "s3://no-such-bucket/x", "--text-file", "t"], "there is no bucket no-such-bucket"),
    ],
)
def test_what_cannot_be_done_at_a_url_is_one_line_and_exit_code_2(
    url: str,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t").write_text("the cat")
    ObjectStore(url).put("trials/0001/best/3/compressor.safetensors", b"half")

    assert main([word.replace("URL", url) for word in arguments]) == 2

    error = capsys.readouterr().err.strip().splitlines()
    assert message.replace("URL", url) in error[-1]
    assert str(tmp_path) not in error[-1]


def test_a_store_without_the_compressor_is_the_callers_mistake(s3: str) -> None:
    with pytest.raises(CompressorError, match=rf"^{s3}/best: no such folder; a search leaves its best compressor in"):
        Compressor.from_pretrained(f"{s3}/best")
