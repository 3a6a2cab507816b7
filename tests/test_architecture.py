"""The arrows between the packages of `cmp` point downwards only, and heavy libraries stay on their floor."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

CMP = Path(__file__).parent.parent / "cmp"

MAY_IMPORT = {
    "space": set(),
    "model": {"space"},
    "train": {"space", "model", "results"},
    "results": {"space"},
    "report": {"space", "results"},
    "search": {"space", "model", "train", "results", "report"},
}
GROUND = "files"
ONLY_IN = {"ray": "search", "optuna": "search", "plotly": "report"}
MODULES = sorted(CMP.rglob("*.py"))


def imported_names(path: Path) -> set[str]:
    """Every dotted module name that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; absolute imports show the arrow"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(CMP)))
def test_a_module_imports_only_floors_below_its_own(path: Path) -> None:
    floor = path.relative_to(CMP).parts[0]
    if floor not in MAY_IMPORT:
        pytest.skip("command-line modules and the package itself stand above all floors")

    floors = {name.split(".")[1] for name in imported_names(path) if name.startswith("cmp.")}

    assert floors <= MAY_IMPORT[floor] | {floor, GROUND}


def test_the_ground_stands_on_the_standard_library_alone() -> None:
    roots = {name.split(".")[0] for name in imported_names(CMP / f"{GROUND}.py")}

    assert roots <= sys.stdlib_module_names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(CMP)))
def test_heavy_libraries_stay_on_their_floor(path: Path) -> None:
    floor = path.relative_to(CMP).parts[0]
    roots = {name.split(".")[0] for name in imported_names(path)}

    strays = {library for library, home in ONLY_IN.items() if library in roots and floor != home}

    assert not strays


def test_a_space_is_read_without_torch_or_ray() -> None:
    program = (
        "import sys, cmp.space.loading; print(sorted({'torch', 'ray', 'transformers', 'numpy'} & set(sys.modules)))"
    )

    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=CMP.parent
    )

    assert printed.stdout.strip() == "[]"
