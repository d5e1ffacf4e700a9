"""The layout of the package: no circular imports, imports only point down the list of rooms, small rooms and files."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "timm_landmark"
# A room is a module or a subpackage. A room imports only from itself and from the rooms below it.
ROOMS = (
    "cli",
    "inference",
    "training",
    "hub",
    "runs",
    "accounting",
    "data.prepare",
    "data.synthetic",
    "data",
    "models",
    "layers",
    "utils",
)
MOST_FILES = {"data.prepare": 14}
MOST_LINES = 300


def modules(folder):
    """Dotted name, without the folder above the package -> file; a package maps to its ``__init__``."""
    found = {}
    for file in folder.rglob("*.py"):
        parts = file.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(file, known):
    """The modules of ``known`` that a file imports, at its top, in functions and for type checkers alike."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inner]
        else:
            continue
        yield from (name for name in names if name in known)


def room_of(module):
    name = module.removeprefix("timm_landmark").removeprefix(".")
    return next((room for room in ROOMS if name == room or name.startswith(f"{room}.")), None)


def test_every_module_has_a_room():
    assert [name for name in modules(PACKAGE) if name != "timm_landmark" and room_of(name) is None] == []


def test_imports_point_down_the_list_of_rooms():
    known = modules(PACKAGE)
    upward = [
        f"{name} -> {target}"
        for name, file in known.items()
        if name != "timm_landmark"
        for target in imports(file, known)
        if target != "timm_landmark" and ROOMS.index(room_of(target)) < ROOMS.index(room_of(name))
    ]
    assert upward == []


@pytest.mark.parametrize("package", ["timm_landmark", "benchmarks"])
def test_no_import_circle(package):
    known = modules(ROOT / package)
    graph = {name: set(imports(file, known)) - {name, package} for name, file in known.items()}
    while leaves := [name for name, targets in graph.items() if not targets & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert graph == {}, "these import each other, or a circle"


def test_the_package_does_not_import_its_benchmarks():
    text = {name: file.read_text(encoding="utf-8") for name, file in modules(PACKAGE).items()}
    assert [name for name, source in text.items() if "import benchmarks" in source or "from benchmarks" in source] == []


@pytest.mark.parametrize("folder", ["timm_landmark", "benchmarks"])
def test_rooms_and_files_stay_small(folder):
    files = modules(ROOT / folder).values()
    long = {
        str(file.relative_to(ROOT)): lines for file in files if (lines := file.read_text().count("\n")) > MOST_LINES
    }
    assert long == {}
    crowded = {}
    for room in {file.parent for file in files}:
        number = len([file for file in room.glob("*.py") if file.name != "__init__.py"])
        name = ".".join(room.relative_to(ROOT / folder).parts)
        if number > MOST_FILES.get(name, 10):
            crowded[f"{folder}.{name}"] = number
    assert crowded == {}
