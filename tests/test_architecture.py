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
    "search/decide": {"space", "train", "results"},
    "search/engine": {"space", "train", "results", "search/decide"},
    "search/terminal": {"space", "train", "results", "search/decide", "search/engine"},
    "search": {"space", "model", "train", "results", "report", "search/decide", "search/engine", "search/terminal"},
}
GROUND = ("store", "objects")
"""What all floors stand on: files and objects, the one below the other."""
ONLY_IN = {
    "ray": {"search/engine"},
    "optuna": {"search/decide"},
    "torch": {"model", "train", "search/engine", "commands"},
    "obstore": {"objects.py"},
}
MODULES = sorted(CMP.rglob("*.py"))


def floor_of(parts: tuple[str, ...]) -> str:
    """The floor or room of a module, from the parts of its dotted name below `cmp`."""
    room = "/".join(parts[:2])
    return room if room in MAY_IMPORT else parts[0]


def imported_names(path: Path, *, inside_functions: bool = True) -> set[str]:
    """Every dotted module name that a file imports, at its top or inside a function."""
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if inside_functions else tree.body:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; absolute imports show the arrow"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(CMP)))
def test_a_module_imports_only_floors_below_its_own(path: Path) -> None:
    floor = floor_of(path.relative_to(CMP).parts)
    if floor not in MAY_IMPORT:
        pytest.skip("command-line modules and the package itself stand above all floors")

    floors = {floor_of(tuple(name.split(".")[1:])) for name in imported_names(path) if name.startswith("cmp.")}

    assert floors <= MAY_IMPORT[floor] | {floor, *GROUND}


@pytest.mark.parametrize("name", GROUND)
def test_the_ground_stands_on_the_standard_library_alone(name: str) -> None:
    path = CMP / f"{name}.py"
    top = {name for name in imported_names(path, inside_functions=False) if name != "cmp.objects"}
    inside = {name for name in imported_names(path) if name.split(".")[0] == "obstore"}

    assert {name.split(".")[0] for name in top} <= sys.stdlib_module_names
    assert bool(inside) == (name == "objects"), "obstore is imported where a store is used, in one module"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(CMP)))
def test_heavy_libraries_stay_on_their_floor(path: Path) -> None:
    floor = floor_of(path.relative_to(CMP).parts)
    roots = {name.split(".")[0] for name in imported_names(path)}

    strays = {library for library, homes in ONLY_IN.items() if library in roots and floor not in homes}

    assert not strays


def test_a_space_is_read_without_torch_or_ray() -> None:
    heavy = {"torch", "ray", "transformers", "numpy", "obstore"}
    program = f"import sys, cmp.space.loading; print(sorted({heavy} & set(sys.modules)))"

    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=CMP.parent
    )

    assert printed.stdout.strip() == "[]"


@pytest.mark.parametrize(("library", "home"), [("ray", "ray_private.py"), ("optuna", "optuna_private.py")])
def test_private_interfaces_of_a_library_are_used_in_one_file(library: str, home: str) -> None:
    private = {
        path.name
        for path in MODULES
        for name in imported_names(path)
        if name.split(".")[0] == library and any(part.startswith("_") for part in name.split("."))
    }

    assert private == {home}


def test_no_two_classes_have_the_same_name() -> None:
    """There were two `Bounds`: a search's, and those of one text."""
    names = [
        node.name
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]

    assert not {name for name in names if names.count(name) > 1}


def test_no_module_imports_itself_over_others() -> None:
    arrows = {module_name(path): modules_imported_by(path) for path in MODULES}

    circle = find_circle(arrows)

    assert circle is None, " -> ".join(circle)


def module_name(path: Path) -> str:
    return ".".join(("cmp", *path.relative_to(CMP).with_suffix("").parts)).removesuffix(".__init__")


def modules_imported_by(path: Path) -> set[str]:
    """Modules of `cmp` that a file imports anywhere; `from cmp.x import y` may name the module `cmp.x.y`."""
    known = {module_name(module) for module in MODULES}
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= inner or ({node.module} & known)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
    return found - {module_name(path)}


def find_circle(arrows: dict[str, set[str]]) -> list[str] | None:
    """A path of modules that ends where it began; None where there is none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        for target in sorted(arrows[module]):
            if (circle := walk(target, [*path, module])) is not None:
                return circle
        done.add(module)
        return None

    return next((circle for module in sorted(arrows) if (circle := walk(module, [])) is not None), None)


def test_a_circle_is_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
