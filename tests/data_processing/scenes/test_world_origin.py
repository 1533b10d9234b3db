"""Scenes far from the origin of their coordinates have the same pixels as those at the origin."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from support.advice.table import imported
from support.ball_scene import ball_scene
from support.capture_files import write_colmap, write_middlebury, write_transforms
from support.foreign_captures import ECEF, UTM, far_scene, far_transforms
from support.tool_captures import (
    centred,
    write_llff,
    write_matrices,
    write_metashape,
    write_mvsnet,
    write_polycam,
)

from data_processing.captures.importing import import_capture
from data_processing.checks.scene_checks import check_scene
from data_processing.scenes.opening import load_point_cloud
from data_processing.scenes.scene import load_scene
from data_processing.scenes.world_origin import far_origin, moved_model, moved_view
from data_processing.scenes.writing import write_scene
from utils.config.sections import DataConfig
from utils.config.tool_sections import ImportConfig

WRITERS = {"transforms": write_transforms, "middlebury": write_middlebury,
           "colmap": lambda scene, folder: write_colmap(scene, folder, ".bin"),
           "colmap_text": lambda scene, folder: write_colmap(scene, folder, ".txt"),
           "polycam": write_polycam, "llff": write_llff, "matrices": write_matrices,
           "mvsnet": write_mvsnet, "metashape": write_metashape,
           "metashape_moved": lambda scene, folder: write_metashape(
               scene, folder, transform=(2.5, np.eye(3), UTM))}
#: 1e-4 in NDC of 64 pixels is a three-hundredth of a pixel; float32 at UTM's northing misses by 5.
ATOL = 1e-4


@pytest.fixture(scope="module")
def ball():
    return ball_scene(0.6, num_views=7, resolution=(64, 48), center=(0.3, -0.2, 0.5))


def check_pixels(found, ball, atol: float = ATOL) -> None:
    """Points about the ball, object space, are seen at the NDC that they have in the near scene."""
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)).double() - 0.5
    near = ball.cameras.to(torch.float64)
    world = points + torch.tensor([0.3, -0.2, 0.5])
    model = found.cameras.to(torch.float64).model
    origin = torch.tensor(found.world_origin, dtype=torch.float64)
    there = world + torch.tensor(found_shift(found), dtype=torch.float64) - origin
    points_obj = (there - model[:3, 3]) @ torch.linalg.inv(model[:3, :3]).T
    for ours, theirs in zip(found.cameras.project(points_obj.float()), near.project(world)):
        torch.testing.assert_close(ours.double(), theirs, atol=atol, rtol=1e-4)


def found_shift(found) -> tuple[float, float, float]:
    """The shift of a scene, told by the size of its origin; 0 for one that is near."""
    return min(((0.0, 0.0, 0.0), UTM, ECEF),
               key=lambda shift: np.linalg.norm(np.subtract(shift, found.world_origin)))


@pytest.mark.parametrize("shift", [UTM, ECEF], ids=["utm", "ecef"])
@pytest.mark.parametrize("kind", ["idr", "processed"])
def test_scene_folders_far_away(ball, tmp_path, shift, kind):
    """Both formats keep float64, and the object space that they state moves along."""
    found = load_scene(far_scene(ball, tmp_path / "scene", shift, kind))
    assert np.linalg.norm(np.subtract(found.world_origin, shift)) < 10
    check_pixels(found, ball)
    check_pixels(load_scene(write_scene(found, tmp_path / "again", "processed")), ball)


@pytest.mark.parametrize("shift", [UTM, ECEF], ids=["utm", "ecef"])
def test_captures_far_away(ball, tmp_path, shift):
    """An import says where the world is, and the scene that it writes keeps the coordinates."""
    capture = far_transforms(ball, tmp_path / "capture", shift)
    found = import_capture(ImportConfig(input=str(capture), output=str(tmp_path / "scene")))
    assert "coordinates are far from 0" in found.notes[-1]
    check_pixels(found.scene, ball)
    written = load_scene(write_scene(found.scene, tmp_path / "scene", "processed"))
    check_pixels(written, ball)
    assert not check_scene(written).has_errors


def far_ball(ball, shift):
    """The scene with its world moved, cameras in float64; rotations to the last digit, as they
    turn coordinates of millions."""
    cameras = ball.cameras.to(torch.float64)
    left, _, right = torch.linalg.svd(cameras.view[:, :3, :3])
    cameras.view[:, :3, :3] = left @ right
    view = torch.from_numpy(moved_view(cameras.view.numpy(), -np.array(shift)))
    return replace(ball, cameras=replace(cameras, view=view))


@pytest.mark.parametrize("kind", list(WRITERS))
def test_captures_of_every_kind_far_away(ball, tmp_path, kind):
    """Each reader keeps float64: points about the ball are seen where they are near by."""
    scene = centred(ball) if kind == "llff" else ball
    found = imported(WRITERS[kind](far_ball(scene, UTM), tmp_path / "capture"))
    assert np.linalg.norm(np.subtract(found.world_origin, UTM)) < 10
    check_pixels(found, scene)


def test_near_scenes_stay_as_they_are(ball, tmp_path):
    """To the bit: 100 radii off is near enough."""
    view = ball.cameras.view.double().numpy()
    assert not far_origin(view).any()
    assert not far_origin(moved_view(view, np.array([-200.0, 0, 0]))).any()
    assert load_scene(write_scene(ball, tmp_path / "s", "idr")).world_origin == (0, 0, 0)


def test_moves_undo_each_other():
    """World points are seen alike: view' (x - origin) = view x, and the model goes along."""
    view = ball_scene(0.6, num_views=3, resolution=(8, 6)).cameras.view.double().numpy()
    origin, point = np.array([5.0, -7.0, 11.0]), np.array([0.1, 0.2, 0.3])
    seen = view[:, :3, :3] @ point + view[:, :3, 3]
    moved = moved_view(view, origin)
    np.testing.assert_allclose(moved[:, :3, :3] @ (point - origin) + moved[:, :3, 3], seen,
                               atol=1e-12)
    np.testing.assert_allclose(moved_model(np.eye(4), origin)[:3, 3], -origin)


def test_points_of_the_folder_move_along(ball, tmp_path):
    """True surface points and the point cloud end up in the same object space as near by."""
    points = torch.nn.functional.normalize(torch.randn(
        40, 3, generator=torch.Generator().manual_seed(1)), dim=-1) * 0.6
    scene = replace(ball, surface_points_world=points + torch.tensor([0.3, -0.2, 0.5]))
    folder = far_scene(scene, tmp_path / "s", UTM, "processed")
    (folder / "merged").mkdir()
    cloud = trimesh.PointCloud((scene.surface_points_world).numpy())
    cloud.export(folder / "merged" / "point_cloud_world.ply")
    found = load_scene(folder)
    origin = torch.tensor(found.world_origin, dtype=torch.float64)
    back = found.surface_points_world.double() + origin - torch.tensor(UTM, dtype=torch.float64)
    torch.testing.assert_close(back.float(), scene.surface_points_world, atol=1e-5, rtol=0)
    data = (folder / "surface_points_world.ply").read_bytes()
    (folder / "merged" / "point_cloud_world.ply").write_bytes(data)
    loaded = load_point_cloud(found, DataConfig(dataset_path=str(folder), load_pcd=1, use_pcd=1))
    model = ball.cameras.model
    near = (scene.surface_points_world - model[:3, 3]) @ torch.linalg.inv(model[:3, :3]).T
    torch.testing.assert_close(loaded.points_obj, near, atol=1e-5, rtol=0)
