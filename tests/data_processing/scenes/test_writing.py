"""Writers against the readers: what is written is read back, and nothing of the user's is lost."""
from __future__ import annotations

import errno
import os

import numpy as np
import pytest
import torch

from data_processing.scenes import writing as writers
from data_processing.scenes.scene import load_scene
from data_processing.scenes.writing import check_target, scene_stats, world_matrices, write_scene
from data_processing.synthetic.scenes import make_scene
from utils.errors import ConfigError, WriteError
from utils.files.pickles import load_pickled_npy


@pytest.fixture(scope="module")
def scene():
    return make_scene("carved_box", 0, num_views=3, resolution=(20, 14), supersampling=2,
                      num_points=300)


@pytest.mark.parametrize("scene_format", ["processed", "idr"])
def test_round_trip(scene, tmp_path, scene_format):
    """Images and masks to the bit; cameras through K[R|t] and its decomposition to float32
    rounding, measured where it matters: 1e-4 in NDC is a thousandth of a pixel here."""
    write_scene(scene, tmp_path / "box", scene_format)
    found = load_scene(tmp_path / "box")
    assert torch.equal(found.images, scene.images) and torch.equal(found.masks, scene.masks)
    assert found.view_names == scene.view_names and found.has_masks
    torch.testing.assert_close(found.surface_points_world, scene.surface_points_world)
    torch.testing.assert_close(found.cameras.model, scene.cameras.model, atol=1e-5, rtol=1e-5)
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    for ours, theirs in zip(found.cameras.project(points), scene.cameras.project(points)):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)
    assert not [path for path in tmp_path.iterdir() if path.name != "box"]


def test_files_of_the_processed_format(scene, tmp_path):
    folder = write_scene(scene, tmp_path / "box", "processed")
    meta = load_pickled_npy(folder / "001_rgb_meta.npy")
    assert set(meta) == {"view", "projection", "resolution"}
    assert list(meta["resolution"]) == [20, 14]
    np.testing.assert_array_equal(meta["view"], scene.cameras.view[1].numpy())
    model = load_pickled_npy(folder / "model_matrix.npy")["model_matrix"]
    np.testing.assert_array_equal(model, scene.cameras.model.numpy())
    stats = load_pickled_npy(folder / "scene_stats.npy")
    assert set(stats) == {"pcd_radius", "pcd_center", "camera_radius", "camera_intersection"}


def test_stats_describe_the_scene(scene):
    """Cameras are within 2 percent of their mean distance; axes meet within the drawn aim."""
    stats = scene_stats(scene)
    middle = torch.as_tensor(stats["camera_intersection"])
    away = (scene.cameras.centers_world.double() - middle).norm(dim=-1)
    assert ((away / stats["camera_radius"] - 1).abs() < 0.05).all()
    center_obj = scene.cameras.model[:3, 3].double()
    assert (middle - center_obj).norm() < 0.05 * scene.cameras.model_scale
    spread = (scene.surface_points_world - torch.as_tensor(stats["pcd_center"])).norm(dim=-1)
    assert float(spread.max()) == pytest.approx(stats["pcd_radius"], rel=1e-6)


def test_world_matrices_project_to_pixels(scene):
    """K[R|t] of a world point, against NDC turned into pixels with centres at integers."""
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    model = scene.cameras.model
    world = points @ model[:3, :3].T + model[:3, 3]
    ends = torch.cat([world, torch.ones(20, 1)], -1).double()
    xyw = torch.einsum("vij,nj->vni", world_matrices(scene.cameras), ends)[..., :3]
    pixels = xyw[..., :2] / xyw[..., 2:]
    xy_ndc, depth = scene.cameras.project(points)
    width, height = scene.cameras.resolution
    expected = torch.stack([((xy_ndc[..., 0] + 1) * width - 1) / 2,
                            ((1 - xy_ndc[..., 1]) * height - 1) / 2], -1)
    torch.testing.assert_close(pixels.float(), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(xyw[..., 2].float(), depth, atol=1e-5, rtol=1e-5)


def test_a_scene_is_only_replaced_when_asked(scene, tmp_path):
    folder = write_scene(scene, tmp_path / "box", "idr")
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(WriteError, match="--overwrite 1"):
        write_scene(scene, folder, "processed")
    assert sorted(path.name for path in folder.rglob("*")) == before
    write_scene(scene, folder, "processed", overwrite=True)
    assert not (folder / "image").exists() and len(load_scene(folder)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["box"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_files_are_never_lost(scene, tmp_path, overwrite):
    folder = write_scene(scene, tmp_path / "box", "processed")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(WriteError, match="notes.txt"):
        write_scene(scene, folder, "processed", overwrite=overwrite)
    assert (folder / "notes.txt").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WriteError, match="is a file"):
        check_target(tmp_path / "file", "idr", overwrite=overwrite)


def test_unknown_format(scene, tmp_path):
    with pytest.raises(ConfigError, match="need processed or idr"):
        write_scene(scene, tmp_path / "box", "blender")
    assert not list(tmp_path.iterdir())


def test_full_disk_leaves_the_earlier_scene_and_no_rests(scene, tmp_path, monkeypatch):
    folder = write_scene(scene, tmp_path / "box", "processed")

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(writers.np, "save", full)
    with pytest.raises(WriteError, match="No space left"):
        write_scene(scene, folder, "processed", overwrite=True)
    assert len(load_scene(folder)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["box"]


def test_a_failed_rename_brings_the_earlier_scene_back(scene, tmp_path, monkeypatch):
    folder = write_scene(scene, tmp_path / "box", "processed")
    rename = type(folder).rename

    def stubborn(path, target):
        if ".partial-" in path.name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(path, target)
    monkeypatch.setattr(type(folder), "rename", stubborn)
    with pytest.raises(WriteError, match="Permission denied"):
        write_scene(scene, folder, "processed", overwrite=True)
    assert len(load_scene(folder)) == 3


def test_no_permission_is_named(scene, tmp_path):
    """Root may write everywhere, so the place is one that nobody can make: below a file."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match="could not write|cannot be listed"):
        write_scene(scene, tmp_path / "file" / "box", "processed")
