"""The benchmark of many trials measures what it says, and writes down what it measured."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.benchmarks import page
from tests.benchmarks.record import record
from tests.benchmarks.scale import MEASURES, measure


def test_everything_is_measured_on_a_made_up_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", os.fsync)  # the benchmark replaces it; here only until the test ends

    found = measure(tmp_path / "results", 30, list(MEASURES))

    times = ("replay", "suggestion", "report", "tables", "page", "tensorboard", "again")
    assert set(found) == {"reports", *times, "page MB", "memory MB"}
    assert found["reports"] > 60 and all(found[name] > 0 for name in times)
    assert found["page MB"] < 5


def test_what_is_recorded_becomes_a_section_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["scale.py", "--trials", "100", "--record", "two words"])

    path = record("some-table", "tests.benchmarks.scale", "What it says.", [{"trials": 100, "replay": 0.25}], tmp_path)

    written = json.loads(path.read_text())
    assert written["command"] == "python -m tests.benchmarks.scale --trials 100 --record 'two words'"
    section = page._section(path)
    assert section.startswith("## Some table\n\nWhat it says.\n\n| trials | replay |")
    assert "| 100 | 0.25 |" in section and written["command"] in section
