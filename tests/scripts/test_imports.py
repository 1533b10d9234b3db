"""A module imports only from rows above its own; the rows are those of the project's layout."""
from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = (
    {"utils"},
    {"modules", "sdf_rendering", "loss_functions", "scheduler", "meta_modules"},
    {"data_processing", "modules_unet", "sdf_meshing", "view_rendering"},
    {"modules_sdf", "training", "meta_training", "pretraining", "shape_fitting"},
    {"scene_run"},
    {"experiment_scripts"},
)
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}
PACKAGES = ("utils", "data_processing")
FILES = sorted([*ROOT.glob("*.py"), *(path for name in (*PACKAGES, "experiment_scripts")
                                      for path in (ROOT / name).glob("**/*.py"))])


def imported(path: Path) -> list[tuple[str, int]]:
    """Gives (module, line) of all imports of a file, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found.append((node.module, node.lineno))
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_come_from_rows_above(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert own in ROW_OF, f"{own} stands on no row"
    for name, line in imported(path):
        other = name.split(".")[0]
        if other in ROW_OF and not (other == own and own in PACKAGES):
            assert ROW_OF[other] < ROW_OF[own], f"{path.name}:{line} imports {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_files_of_a_package_import_each_other_without_cycles(package):
    names = {path.stem for path in (ROOT / package).glob("*.py")}
    graph = {path.stem: {name.split(".")[1] for name, _ in imported(path)
                         if name.startswith(f"{package}.")} & names
             for path in (ROOT / package).glob("*.py")}
    while free := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in free:
            del graph[name]
    assert not graph, f"these import each other in a circle: {sorted(graph)}"


def test_summaries_are_written_by_the_loop_alone():
    writers = [path.name for path in FILES
               if any("tensorboard" in name for name, _ in imported(path))]
    assert set(writers) == {"loop.py"}
