"""How the code is built up: who may import whom, and how much a folder holds.

The rows and the rules are explained in docs/architecture.md.
"""
from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: A module imports only from rows above its own; a package may import from itself.
ROWS = (
    {"utils"},
    {"modules", "sdf_rendering", "loss_functions", "scheduler", "meta_modules"},
    {"data_processing", "modules_unet", "sdf_meshing", "realtime"},
    {"modules_sdf", "training"},
    {"stages"},
    {"commands"},
    {"metanlr", "experiment_scripts"},
)
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}
PACKAGES = ("utils", "data_processing", "realtime", "stages", "commands")
#: Who may import utils/fast: where a reference and a fast form are chosen between.
DOORS = ("sdf_rendering.py", "modules_unet.py", "realtime/", "stages/",
         "utils/runs/loop.py", "utils/fast/")
MOST_MODULES = 14


def python_files(*folders: str) -> list[Path]:
    """Return all files of some folders, relative to the root; build products are left out."""
    return sorted(path.relative_to(ROOT) for folder in folders
                  for path in (ROOT / folder).rglob("*.py"))


LIBRARY = [Path(path.name) for path in sorted(ROOT.glob("*.py"))] + python_files(*PACKAGES)
FILES = LIBRARY + python_files("experiment_scripts")
FOLDERS = sorted({path.parent for path in python_files(*PACKAGES)})


def module_name(path: Path) -> str:
    """Return the dotted name of a file; that of a package for its __init__.py."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in LIBRARY}


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield (module, line) of all imports in a syntax tree, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield (name if name in MODULES else node.module, node.lineno)


IMPORTS = {path: sorted(set(imported(ast.parse((ROOT / path).read_text(encoding="utf-8")))))
           for path in FILES}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the nodes of a graph from which one comes back to a node; empty without circles."""
    left = dict(graph)
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def imports_within(package: str) -> dict[str, set[str]]:
    """Return which members of a package (modules and packages in it) import which others."""
    prefix = f"{package}." if package else ""

    def member(name: str) -> str | None:
        return name.removeprefix(prefix).split(".")[0] if name.startswith(prefix) else None

    graph: dict[str, set[str]] = {}
    for path in LIBRARY:
        own = member(module_name(path))
        if own is not None:
            others = {member(name) for name, _ in IMPORTS[path]}
            graph.setdefault(own, set()).update(others - {own, None})
    return graph


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_come_from_rows_above(path):
    own = path.parts[0].removesuffix(".py")
    assert own in ROW_OF, f"{own} stands on no row"
    for name, line in IMPORTS[path]:
        other = name.split(".")[0]
        if other in ROW_OF and not (other == own and own in PACKAGES):
            assert ROW_OF[other] < ROW_OF[own], f"{path}:{line} imports {name}"


@pytest.mark.parametrize("package", ["", *(".".join(folder.parts) for folder in FOLDERS)])
def test_members_of_a_package_do_not_import_each_other_in_a_circle(package):
    """Of the whole library for "": together the levels rule out any circle of modules."""
    found = circle(imports_within(package))
    assert not found, f"{package or 'the library'}: in a circle, or leading into one: {found}"


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b", "x"}, "d": set()}) == ["a", "b", "c"]
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_fast_forms_are_imported_at_their_doors_alone(path):
    lines = [line for name, line in IMPORTS[path] if f"{name}.".startswith("utils.fast.")]
    assert not lines or path.as_posix().startswith(DOORS), f"{path}:{lines} imports utils.fast"


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_a_folder_holds_few_enough_modules_to_find_one(folder):
    modules = [path for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_a_package_says_what_lives_in_it_and_imports_nothing(folder):
    path = folder / "__init__.py"
    text = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""
    lines = text.split("\n")
    assert 3 <= len(lines) <= 10, f"{path}: {len(lines)} lines"
    assert IMPORTS[path] == []


def test_tests_lie_in_the_folders_of_what_they_test():
    folders = {path.parent.relative_to(ROOT / "tests") for package in PACKAGES
               for path in (ROOT / "tests" / package).rglob("test_*.py")}
    assert folders <= set(FOLDERS), "folders of tests without code"


def test_summaries_are_written_by_the_loop_alone():
    writers = [path.as_posix() for path in FILES
               if any("tensorboard" in name for name, _ in IMPORTS[path])]
    assert writers == ["utils/runs/reporting.py"]
