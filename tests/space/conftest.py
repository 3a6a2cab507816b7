"""A way to write a space file in one line and read back what is wrong with it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cmp.space.errors import SpaceError
from cmp.space.loading import load_space
from cmp.space.space import Space

MINIMUM = "model_string: gpt2\ndataset: openwebtext\n"


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Space]:
    """Load a space of `text`; without `whole` the two required settings are put in front, on lines 1 and 2."""

    def load(text: str = "", *overrides: str, name: str = "x.yaml", whole: bool = False) -> Space:
        path = tmp_path / name
        path.write_text(text if whole else MINIMUM + text, encoding="utf-8")
        return load_space(path, overrides)

    return load


@pytest.fixture
def problems(load: Callable[..., Space], tmp_path: Path) -> Callable[..., list[str]]:
    """The messages that a text leads to, without the folder in front of the file's name."""

    def problems(text: str = "", *overrides: str, name: str = "x.yaml", whole: bool = False) -> list[str]:
        with pytest.raises(SpaceError) as caught:
            load(text, *overrides, name=name, whole=whole)
        return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]

    return problems
