"""Results folders to show, and a real browser to show them in."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cmp.report.page import write_page
from tests.report import honest
from tests.report.headless import chrome
from tests.report.synthetic import write_folder

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture
def results(tmp_path: Path) -> Callable[[str], Path]:
    """Write a results folder of one of `synthetic.KINDS` or `honest.KINDS`."""
    return lambda kind: write_any(tmp_path / kind, kind)


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A results folder of each kind with its page, written once."""
    root = tmp_path_factory.mktemp("pages")

    def folder(kind: str) -> Path:
        if not (root / kind / "report.html").exists():
            write_page(write_any(root / kind, kind))
        return root / kind

    return folder


@pytest.fixture(scope="session")
def browser() -> "Iterator[Chrome]":
    """One Chromium for all tests."""
    driver = chrome()
    yield driver
    driver.quit()


def write_any(folder: Path, kind: str) -> Path:
    """A results folder of any kind."""
    return honest.write_honest_folder(folder, kind) if kind in honest.KINDS else write_folder(folder, kind)
