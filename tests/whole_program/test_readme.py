"""Every command and every piece of code in the README is run, or named here with the reason why it is not."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cmp.results.tables import TRIAL_COLUMNS, results_schema
from cmp.space.loading import load_space
from tests.whole_program.harness import REPOSITORY, Search

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
NOT_RUN = {
    "python3 -m venv": "installs for a minute; CI begins with the second of these commands",
    "python search.py spaces/": "the shipped spaces are rehearsed in test_spaces and test_cli",
    "ray start": "a cluster is in test_cluster",
    "python -m tests.": "benchmarks and the long run of crashes are run by hand",
    "pip install tensorboard": "a server; what it reads is in tests/report",
    "pip install optuna-dashboard": "a server; what it reads is in tests/search/decide/test_views",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(tuple(NOT_RUN))]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results/demo, as the README's reader has it, of a smaller search, and a text of one's own."""
    folder = tmp_path_factory.mktemp("readme")
    settings = {"exp_name": "demo", "n_epochs": 1, "n_train_loops": 2, "search": {"num_samples": 4}}
    run = Search(folder, settings).start()
    assert run.wait(150) == 0, run.text()
    (folder / "notes.txt").write_text("the cat sees the old dog under a small tree\n" * 8)
    return folder


def run_in(folder: Path, command: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip(), f"{command} says nothing"


def test_every_reason_for_not_running_a_command_is_still_needed() -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []
    assert len(commands()) >= 4


@pytest.mark.parametrize("command", commands())
def test_a_command_runs(workplace: Path, command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "python"
    run_in(workplace, [sys.executable, *arguments])


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0])
def test_a_piece_of_code_runs(workplace: Path, code: str) -> None:
    run_in(workplace, [sys.executable, "-c", code])


def test_every_column_of_the_tables_is_explained() -> None:
    explained = README.split("How to read the numbers.")[1].split("```python")[0]
    unexplained = [name for name in [*results_schema({}).names, *TRIAL_COLUMNS] if f"`{name}`" not in explained]
    assert unexplained == []


@pytest.mark.parametrize("text", blocks("yaml"))
def test_the_space_file_is_a_space(tmp_path: Path, text: str) -> None:
    (tmp_path / "example.yaml").write_text(text)
    space = load_space(tmp_path / "example.yaml", [])
    assert set(space.searched) == {"lr", "n_cmps", "cmp_layer", "cmp_len"}
