"""`python -m cmp compress` and `python -m cmp export`, called as their users call them."""

import subprocess
import sys
from pathlib import Path

import pytest

from cmp import Compressor
from cmp.commands.compress import main as compress
from cmp.commands.export import main as export
from cmp.model.backbone import Backbone
from cmp.model.saving import read_config, save_compressor
from cmp.results.folder import ResultsFolder
from cmp.results.scores import Candidate, save_scores
from cmp.results.space_file import write_space_file
from cmp.search.decide.ledger import Ledger
from cmp.space.space import Space
from tests.model.saved import new_compressor, save_tiny_model
from tests.report.honest import scores_for

TEXT = "the cat sees the old dog under a small tree"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone.load(str(save_tiny_model("gpt2", tmp_path_factory.mktemp("gpt2"))))


@pytest.fixture(scope="module")
def saved(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    new_compressor(backbone, rmb_task=True).save_pretrained(folder)
    return folder


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def results(backbone: Backbone, tmp_path: Path) -> Path:
    """A search of three trials: the first saved nothing, the third is the best."""
    folder = tmp_path / "results"
    (folder / "trials" / "0000").mkdir(parents=True)
    for number in (1, 2):
        model = new_compressor(backbone, n_cmps=number).model
        save_compressor(model, folder / "trials" / f"{number:04d}" / "best", {"trial": number})
    save_compressor(new_compressor(backbone, n_cmps=2).model, folder / "best", {"trial": 2})
    (folder / "journal.jsonl").write_text("")
    return folder


def test_a_text_is_compressed_and_continued(saved: Path, text_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = compress([str(saved), "--text-file", str(text_file), "--prompt", "It", "--max-new-tokens", "5"])

    compressor = Compressor.from_pretrained(saved)
    expected = compressor.generate(compressor.compress(TEXT), "It", max_new_tokens=5, do_sample=False)
    printed = capsys.readouterr().out
    assert code == 0
    assert "43 tokens -> 15 memory vectors (2.9 tokens for each position, in 5 pieces of at most 9 tokens)" in printed
    assert f"\nIt{expected}\n" in printed


def test_a_continuations_loss_stands_between_its_bounds(
    saved: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rest.txt").write_text(" is red.")

    code = compress([str(saved), "--text-file", str(text_file), "--continuation-file", str(tmp_path / "rest.txt")])

    compressor = Compressor.from_pretrained(saved)
    bounds = compressor.bounds(TEXT, " is red.")
    loss = compressor.loss(compressor.compress(TEXT), " is red.")
    rows = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert code == 0
    for row, value in zip(rows, (bounds.no_context, loss, bounds.full_context), strict=False):
        assert f"{value:.4f}" in row


def test_comparing_shows_what_the_bounds_would_write(
    saved: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = compress([str(saved), "--text-file", str(text_file), "--compare", "--reconstruct", "--top-k", "3"])

    printed = capsys.readouterr().out
    assert code == 0
    for heading in ("from the memory", "from no context", "from the full text", "Reconstruction"):
        assert heading in printed


def test_the_same_seed_prints_the_same_text(saved: Path, text_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for seed in ("1", "1", "2"):
        compress([str(saved), "--text-file", str(text_file), "--sample", "--max-new-tokens", "20", "--seed", seed])
        printed.append(capsys.readouterr().out)

    assert printed[0] == printed[1] != printed[2]


def test_a_compressor_that_only_reconstructs_reconstructs(
    backbone: Backbone, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_compressor(backbone, rmb_only=True).save_pretrained(tmp_path / "rmb")

    assert compress([str(tmp_path / "rmb"), "--text-file", str(text_file)]) == 0
    printed = capsys.readouterr().out
    assert "Reconstruction" in printed
    assert "Continuation" not in printed
    assert compress([str(tmp_path / "rmb"), "--text-file", str(text_file), "--continuation", "x"]) == 2
    assert "rmb_only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--text-file", "text.txt"], "nowhere: no such folder"),
        (["saved", "--text-file", "nothing.txt"], "--text-file: nothing.txt: No such file or directory"),
        (["saved", "--text-file", "empty.txt"], "empty.txt: empty"),
        (["saved", "--text-file", "latin.txt"], "latin.txt: not UTF-8 text"),
        (["saved", "--text-file", "text.txt", "--continuation", " "], "--continuation: empty"),
        (["saved", "--text-file", "text.txt", "--device", "cuda:9"], "--device: cuda:9 is not there"),
        (["saved", "--text-file", "text.txt", "--device", "gpu"], "'gpu' is no device"),
        (["saved", "--text-file", "text.txt", "--backbone", "./no-model"], "./no-model: the backbone cannot be loaded"),
        (["saved", "--text-file", "text.txt", "--max-new-tokens", "500"], "128 positions"),
    ],
)
def test_each_mistake_is_one_line_and_exit_code_2(
    saved: Path,
    text_file: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(text_file.parent)
    Path("empty.txt").write_text(" \n")
    Path("latin.txt").write_bytes(b"caf\xe9")
    Path("saved").symlink_to(saved)

    assert compress(arguments) == 2

    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_command_itself_reads_standard_input(saved: Path) -> None:
    command = [sys.executable, "-m", "cmp", "compress", str(saved), "--text-file", "-", "--max-new-tokens", "3"]

    done = subprocess.run(command, input=TEXT, capture_output=True, text=True, cwd=Path(__file__).parents[2])

    assert (done.returncode, done.stderr) == (0, "")
    assert "43 tokens" in done.stdout


def test_a_trials_compressor_is_copied_with_its_card(results: Path, backbone: Backbone, tmp_path: Path) -> None:
    assert export([str(results), "--trial", "1", "--to", str(tmp_path / "out" / "mine")]) == 0

    copy = tmp_path / "out" / "mine"
    compressor = Compressor.from_pretrained(copy, backbone=backbone)
    assert compressor.origin.trial == 1
    assert (copy / "README.md").read_text() == (results / "trials/0001/best/README.md").read_text()
    assert compressor.compress("the cat").vectors.shape == (1, 1, 32)


def test_without_a_number_the_best_is_copied(results: Path, backbone: Backbone, tmp_path: Path) -> None:
    assert export([str(results), "--to", str(tmp_path / "best")]) == 0

    assert Compressor.from_pretrained(tmp_path / "best", backbone=backbone).origin.trial == 2


def a_front(results: Path, backbone: Backbone) -> None:
    """Trial 1 with one vector, and trial 2, which is nested, with both of its two and with the first of them."""
    space = {"model_string": "m", "dataset": "d", "n_cmps": {"choice": [1, 2]}, "nested": True, "keep_len": 3}
    write_space_file(results / "space.yaml", Space.from_dict(space).to_dict(), {}, None)
    save_compressor(new_compressor(backbone, n_cmps=2, nested=True).model, results / "trials/0002/best", {"trial": 2})
    ledger = Ledger(Space.from_dict({**space, "search": {"control": False}}), ResultsFolder(results))
    for n_cmps in (1, 2):
        ledger._append({"event": "suggested", "trial": n_cmps, "settings": {"n_cmps": n_cmps}})
    ledger.report(1, {"epoch": 1, "val_loss": 2.5})
    ledger.report(2, {"epoch": 1, "val_loss": 2.0, "nested": {"1": 2.4}})
    ledger.close()


@pytest.mark.parametrize(("positions", "vectors"), [("4", 1), ("5", 2), ("64", 2)])
def test_the_best_within_a_number_of_positions_is_copied_and_makes_as_many_vectors(
    results: Path, backbone: Backbone, tmp_path: Path, positions: str, vectors: int
) -> None:
    a_front(results, backbone)

    assert export([str(results), "--positions", positions, "--to", str(tmp_path / "mine")]) == 0

    compressor = Compressor.from_pretrained(tmp_path / "mine", backbone=backbone)
    assert compressor.origin.trial == 2, "the first of its vectors are better than trial 1's own"
    assert compressor.compress("the cat").vectors.shape[1] == vectors
    assert compressor.compress("the cat", n_cmps=2).vectors.shape[1] == 2
    compressor.save_pretrained(tmp_path / "again")
    again = Compressor.from_pretrained(tmp_path / "again", backbone=backbone)
    assert again.compress("the cat").vectors.shape[1] == vectors


def test_a_price_below_the_front_is_said_with_the_prices_that_there_are(
    results: Path, backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_front(results, backbone)

    assert export([str(results), "--positions", "3", "--to", str(tmp_path / "mine")]) == 2

    assert "--positions: no compressor has at most 3 positions; the front has: 4, 5" in capsys.readouterr().err


def test_the_card_of_a_trial_that_was_scored_begins_with_that(results: Path, tmp_path: Path) -> None:
    trained = read_config(results / "trials" / "0001" / "best").settings
    candidate = Candidate(1, 0, trained.n_vectors, trained.keep_len)
    save_scores(results / "test.json", scores_for("tested", candidate, 1.7, runner_up=2))

    for number in (1, 2):
        assert export([str(results), "--trial", str(number), "--to", str(tmp_path / str(number))]) == 0

    scored, other = ((tmp_path / number / "README.md").read_text() for number in ("1", "2"))
    assert "1 vector does the work of" in scored and "on 41 test documents" in scored
    assert "test documents" not in other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--to", "out"], "nowhere: not a results folder"),
        (["results", "--trial", "0", "--to", "out"], "trial 0 has saved no compressor; trials with one: 1, 2"),
        (["results", "--trial", "9", "--to", "out"], "trial 9 does not exist; trials with one: 1, 2"),
        (["results", "--trial", "1", "--to", "full"], "--to: full exists and is not empty"),
        (["results", "--trial", "1", "--to", "full/file"], "--to: full/file exists"),
        (["results", "--trial", "2", "--to", "out"], "damaged"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_exit_code_2(
    results: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(results.parent)
    Path("full").mkdir()
    Path("full/file").write_text("mine")
    damaged = results / "trials/0002/best/compressor.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])

    assert export(arguments) == 2

    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert Path("full/file").read_text() == "mine"
    assert not Path("out").exists()
