"""Every shipped space is rehearsed for real: `search.py SPACE --test`, with a tiny model and text instead.

One always, that of questions; the others, which `test_pages` resembles, with the slow tests. That each of them trains
is in `tests/train`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmp.report.page import write_page
from cmp.space.loading import load_space

ROOT = Path(__file__).parents[2]
ALWAYS = ("qa",)
SPACES = [
    pytest.param(path, id=path.stem, marks=() if path.stem in ALWAYS else pytest.mark.slow)
    for path in sorted((ROOT / "spaces").glob("*.yaml"))
]


@pytest.mark.parametrize("path", SPACES)
def test_a_shipped_space_is_rehearsed_to_its_best_compressor(
    path: Path, tmp_path: Path, tiny_model_folder: Path, tiny_text_file: Path, tiny_rows_file: Path
) -> None:
    asks = load_space(path).fixed["context_column"] is not None
    overrides = {
        "testing": tiny_model_folder,
        "dataset": tiny_rows_file if asks else tiny_text_file,
        "save_root": tmp_path / "results",
        "data_root": tmp_path / "data",
    }
    words = [word for name, value in overrides.items() for word in ("--set", f"{name}={value}")]

    ran = subprocess.run(
        [sys.executable, "search.py", str(path), *words, "--test"],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )

    folder = tmp_path / "results" / f"{path.stem}-test"
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    assert "Best: " in ran.stdout
    assert (folder / "best" / "compressor.safetensors").is_file()
    assert (
        (folder / "best" / "answers.json").is_file() == ("test prompts: exact match, F1, ROUGE-L" in ran.stdout) == asks
    )
    assert "final" in write_page(folder).read_text(encoding="utf-8")
