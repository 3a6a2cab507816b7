"""Every command and every piece of code on every page is run, or named here with the reason why it is not."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from cmp.results.tables import TRIAL_COLUMNS, results_schema
from cmp.space.loading import load_space
from cmp.space.reference import settings_table
from tests.benchmarks.page import PAGE, page
from tests.whole_program.harness import REPOSITORY, Search

PAGES = sorted(
    path
    for path in REPOSITORY.rglob("README.md")
    if path.relative_to(REPOSITORY).parts[0] not in (".venv", ".git", "results")
)
NOT_RUN = {
    "python3 -m venv": "installs for a minute; CI begins with the second of these commands",
    "python search.py spaces/": "the shipped spaces are rehearsed in test_spaces and test_cli",
    "ray start": "a cluster is in test_cluster",
    "pip install tensorboard": "a server; what it reads is in tests/report",
    "vllm serve": "a server that needs a GPU; what it reads is in tests/model/test_handover",
    "pip install optuna-dashboard": "a server; what it reads is in tests/search/decide/test_views",
}
# Recipes for machines that are not here say what was run; tests of their own check what can be checked.
RECIPES = {"cmp/search/engine/README.md"}
MOST_WORDS = 900


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    language: str
    text: str


def all_blocks() -> Iterator[Block]:
    for path in PAGES:
        name = str(path.relative_to(REPOSITORY))
        if name not in RECIPES:
            found = re.findall(
                r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
            )
            yield from (Block(name, *one) for one in found)


def lines_to_type() -> list[tuple[str, str]]:
    """(page, line) of everything that a reader types."""
    blocks = [block for block in all_blocks() if block.language == "bash"]
    lines = [(block.page, line.split("  #")[0].strip()) for block in blocks for line in block.text.splitlines()]
    return [(page_name, line) for page_name, line in lines if line]


def lines_to_type_on(page_name: str) -> list[str]:
    return [line for name, line in lines_to_type() if name == page_name]


def commands() -> list[str]:
    return sorted({line for _, line in lines_to_type() if not line.startswith(tuple(NOT_RUN))})


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results/demo, as the README's reader has it, of a smaller search, and a text of one's own."""
    folder = tmp_path_factory.mktemp("readme")
    settings = {"exp_name": "demo", "memory": "kv", "n_epochs": 1, "n_train_loops": 2, "search": {"num_samples": 4}}
    run = Search(folder, settings).start()
    assert run.wait(150) == 0, run.text()
    (folder / "notes.txt").write_text("the cat sees the old dog under a small tree\n" * 2 + "a cat\n")
    return folder


def run_in(folder: Path, command: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip(), f"{command} says nothing"


def test_every_reason_for_not_running_a_command_is_still_needed() -> None:
    lines = [line for _, line in lines_to_type()]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []
    assert len(commands()) >= 6


@pytest.mark.parametrize("command", commands())
def test_a_command_runs(workplace: Path, command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "python"
    run_in(workplace, [sys.executable, *arguments])


@pytest.mark.parametrize(
    "block", [block for block in all_blocks() if block.language == "python"], ids=lambda block: block.page
)
def test_a_piece_of_code_runs(workplace: Path, block: Block) -> None:
    run_in(workplace, [sys.executable, "-c", block.text])


@pytest.mark.parametrize(
    "block", [block for block in all_blocks() if block.language == "yaml"], ids=lambda block: block.page
)
def test_a_space_file_is_a_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: Block) -> None:
    """Some lines of one are read with a model and a text before them."""
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("some text")
    missing = [line for line in ("model_string: gpt2", "dataset: notes.txt") if line.split()[0] not in block.text]
    Path("example.yaml").write_text("\n".join([*missing, block.text]))

    space = load_space(Path("example.yaml"), [])

    assert missing or {"lr", "n_cmps", "keep_len", "cmp_layer"} <= set(space.searched)


def test_every_column_of_the_tables_is_explained() -> None:
    explained = (REPOSITORY / "cmp/results/README.md").read_text(encoding="utf-8").split("## What the numbers mean")[1]
    unexplained = [name for name in [*results_schema({}).names, *TRIAL_COLUMNS] if f"`{name}`" not in explained]
    assert unexplained == []


def test_the_table_of_settings_is_the_settings() -> None:
    assert settings_table() in (REPOSITORY / "spaces/README.md").read_text(encoding="utf-8")


def test_every_shipped_space_is_on_the_page() -> None:
    text = (REPOSITORY / "spaces/README.md").read_text(encoding="utf-8")
    assert [path.name for path in (REPOSITORY / "spaces").glob("*.yaml") if f"`{path.name}`" not in text] == []


def test_the_page_of_measured_numbers_is_made_from_its_files() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.benchmarks.page writes it anew"


def test_continuous_integration_runs_the_tests_as_the_page_says() -> None:
    steps = (REPOSITORY / ".ci/run").read_text(encoding="utf-8").splitlines()
    (job,) = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"].values()

    assert lines_to_type_on("tests/README.md")[0].split(" && ")[-1] == steps[-1]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]


def test_the_first_page_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").split()) <= MOST_WORDS


def test_what_it_finds_is_what_was_measured() -> None:
    rows = json.loads((REPOSITORY / "tests/benchmarks/results/searches-for-worth.json").read_text())["rows"]
    demo = [row for row in rows if row["search"] == "demo"]
    best = next(row for row in demo if row["best"] == "yes")
    small = next(row for row in demo if row["positions"] == 2)
    text = " ".join((REPOSITORY / "README.md").read_text().split())
    assert f"{best['vectors']} vectors and the last {best['kept']} tokens do the work of {best['worth']} tokens" in text
    assert f"(95 % interval {best['worth, 95 %']}), a gain of {best['gain']:.1f} a position" in text
    low, high = (float(bound) for bound in small["gain, 95 %"].split(" to "))
    assert f"1 vector with 1 token has a gain of {small['gain']:.1f} ({low:.1f} to {high:.1f})" in text
    stories = next(row for row in rows if row["search"] == "stories" and row["positions"] == 12)
    assert f"12 positions on stories do the work of {stories['worth']} tokens" in text
    assert best["swapped"] > best["text"][str(best["kept"])], "another document's memory does worse than no memory"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (path.parent / link).exists()] == []
