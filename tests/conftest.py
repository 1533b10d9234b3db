"""What all tests share: one thread, logging as it was, and scenes that are made once."""
from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.shared_folder import SharedFolder

ROOT = Path(__file__).resolve().parents[1]

# Sums of floats depend on how they are split over threads: one thread gives the same everywhere.
torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Leave what imports and test items hold out of garbage collections, of which runs ask."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Runs add handlers to the root logger and set its level; take both back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


@pytest.fixture(autouse=True)
def arguments_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command `metanlr` puts its name before its arguments; take it back."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))


@pytest.fixture
def project_root() -> Path:
    """The folder that holds the project."""
    return ROOT


@pytest.fixture
def real_scene() -> Path:
    """The folder of the real DTU scan; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / "shared" / "data" / "small" / "dtu_scan65"
    if not folder.is_dir():
        pytest.skip(f"the real scan is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> SharedFolder:
    """What is made once for all processes that run the tests."""
    base = tmp_path_factory.getbasetemp()
    # a process of pytest-xdist has a folder in that of the whole run
    return SharedFolder((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared")


@pytest.fixture(scope="session")
def tiny_scene(shared_folder: SharedFolder) -> Path:
    """A synthetic scene of 6 views of 32x24 pixels, with true points; nobody writes into it."""
    def write(folder: Path) -> None:
        from data_processing.scenes.writing import write_scene
        from data_processing.synthetic.scenes import make_scene
        scene = make_scene("blobs", 0, num_views=6, resolution=(32, 24), supersampling=1,
                           num_points=2000)
        write_scene(scene, folder / "tiny", "processed")
    return shared_folder.once("scenes", write) / "tiny"


@pytest.fixture(scope="session")
def tiny_scenes(shared_folder: SharedFolder, tiny_scene: Path) -> Path:
    """A folder of three scenes: other formats, sizes and numbers of views; nobody writes there."""
    def write(folder: Path) -> None:
        from data_processing.scenes.writing import write_scene
        from data_processing.synthetic.scenes import make_scene
        shutil.copytree(tiny_scene, folder / "scenes" / "a_blobs")
        for name, kind, views, size, scene_format in (
                ("b_box", "carved_box", 5, (24, 20), "idr"),
                ("c_tori", "tori", 4, (28, 24), "processed")):
            scene = make_scene(kind, 0, num_views=views, resolution=size, supersampling=1,
                               num_points=500)
            write_scene(scene, folder / "scenes" / name, scene_format)
    return shared_folder.once("sets", write) / "scenes"


@pytest.fixture(scope="session")
def tiny_sphere(shared_folder: SharedFolder) -> Path:
    """An SDF of width 16, roughly a sphere: the start of the tests' runs."""
    def write(folder: Path) -> None:
        from modules import SdfArchitecture
        from modules_sdf import build_sdf
        from stages.shape_fitting import SphereTask
        from utils.checkpoints.weights import save_networks
        from utils.config.sections import LossConfig
        torch.manual_seed(0)
        sdf = build_sdf(SdfArchitecture(hidden_dims=16, hidden_layers=1))
        task = SphereTask(sdf, 150, 5e-3, num_points=256, loss=LossConfig(),
                          generator=torch.Generator().manual_seed(0))
        for step in range(150):
            task.train_step(step)
        save_networks(folder / "sphere.pth", sdf=sdf)
    return shared_folder.once("spheres", write) / "sphere.pth"
