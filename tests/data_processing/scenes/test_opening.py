"""Scene, split and point cloud by the flags."""
from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from support.tiny_runs import config_of

from data_processing.scenes.normalization import load_ply_points
from data_processing.scenes.opening import load_point_cloud, open_scene, perturbed
from data_processing.scenes.scene_clouds import MERGED_CLOUD, SURFACE_POINTS
from utils.errors import ConfigError, SceneError


def data_of(path, *flags):
    return config_of("--experiment_name", "x", "--dataset_path", path, *flags).data


@pytest.fixture
def scene_folder(tiny_scene, tmp_path):
    """A copy of the tiny scene to write into."""
    return shutil.copytree(tiny_scene, tmp_path / "copy")


def write_cloud(folder, mesh_or_cloud, **options):
    path = folder / MERGED_CLOUD
    path.parent.mkdir(exist_ok=True)
    mesh_or_cloud.export(path, **options)
    return path


def ball(scene):
    """A mesh whose vertices lie on the sphere of radius 0.5 of object space, in world space."""
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
    return mesh.apply_transform(scene.cameras.model.double().numpy())


def test_scene_and_split_are_those_of_the_flags(tiny_scene):
    scene, split = open_scene(data_of(tiny_scene, "--train_views", "0-2,5", "--test_views", "all",
                                      "--load_im_scale", 0.5))
    assert (split.train, split.test) == ((0, 1, 2, 5), (3, 4))
    assert scene.images.shape == (6, 3, 12, 16) and scene.cameras.resolution == (16, 12)


@pytest.mark.parametrize("flags, words", [
    (["--train_views", "0-6"], ["--train_views", "view 6", "0 to 5"]),
    (["--train_views", "0-3", "--test_views", "3,4"], ["share", "3"]),
    (["--train_views", "2", "--test_views", "3"], ["1 training view", "at least 2"]),
    (["--reference_view", 6], ["--reference_view 6", "0 to 5"]),
    (["--dataset_name", "dtu"], ["49", "6"]),
    (["--load_im_scale", 0], ["im_scale"]),
])
def test_flags_that_the_scene_cannot_follow_are_named(tiny_scene, flags, words):
    with pytest.raises(ConfigError) as caught:
        open_scene(data_of(tiny_scene, *flags))
    assert all(word in str(caught.value) for word in words)


def test_a_missing_folder_is_told_apart_from_a_missing_flag(tmp_path):
    with pytest.raises(ConfigError, match="--dataset_path.*make_scene.py"):
        open_scene(data_of(""))
    with pytest.raises(SceneError, match="nowhere"):
        open_scene(data_of(tmp_path / "nowhere"))


def test_perturbed_cameras_move_a_little_and_stay_cameras(tiny_scene):
    still, split = open_scene(data_of(tiny_scene))
    moved, _ = open_scene(data_of(tiny_scene, "--randomize_cameras", 0.02), seed=3)
    again, _ = open_scene(data_of(tiny_scene, "--randomize_cameras", 0.02), seed=3)
    other, _ = open_scene(data_of(tiny_scene, "--randomize_cameras", 0.02), seed=4)
    assert torch.equal(moved.cameras.view, again.cameras.view)
    assert not torch.equal(moved.cameras.view, other.cameras.view)
    turns = moved.cameras.view[:, :3, :3].double()
    identity = turns @ turns.mT
    torch.testing.assert_close(identity, torch.eye(3).double().expand(6, 3, 3), atol=1e-5, rtol=0)
    assert torch.linalg.det(turns).min() > 0
    # The origin of object space moves by the spread times its distance, in 18 draws well under 5.
    centres = [scene.cameras.object_to_camera[:, :3, 3] for scene in (still, moved)]
    shift = (centres[1] - centres[0]).norm(dim=-1) / centres[0].norm(dim=-1)
    moves = shift[list(split.train)]
    assert 0 < moves.min() and moves.max() < 5 * 0.02 * 3 ** 0.5


def test_held_out_cameras_stay_where_they_are(tiny_scene):
    still, split = open_scene(data_of(tiny_scene, "--test_views", "1,4"))
    moved, _ = open_scene(data_of(tiny_scene, "--test_views", "1,4", "--randomize_cameras", 0.02))
    same = (moved.cameras.view == still.cameras.view).flatten(1).all(1)
    assert same.tolist() == [view in split.test for view in range(6)]


def test_angles_and_shifts_have_spreads_of_their_own(tiny_scene):
    still, split = open_scene(data_of(tiny_scene))
    for turn, shift in ((0.0, 0.01), (0.01, 0.0)):
        moved, _ = open_scene(data_of(tiny_scene, "--randomize_cameras", turn,
                                      "--randomize_shifts", shift))
        change = moved.cameras.view @ torch.linalg.inv(still.cameras.view)     # of camera space
        train = list(split.train)
        turned = (change[train, :3, :3] - torch.eye(3)).abs().amax((1, 2))
        shifted = change[train, :3, 3].norm(dim=-1)
        # float32 inverses of matrices with entries up to 3 are good to 1e-5
        assert bool((turned > 1e-4).all()) == (turn > 0)
        assert bool((turned < 1e-5).all()) == (turn == 0)
        assert bool((shifted > 1e-4).all()) == (shift > 0)


def test_no_spread_leaves_the_cameras(tiny_scene):
    scene, _ = open_scene(data_of(tiny_scene))
    torch.testing.assert_close(perturbed(scene.cameras, 0.0, 0).view, scene.cameras.view)


def test_cloud_points_come_in_object_space_with_their_normals(scene_folder):
    """Vertices of a ball: |p| = 0.5 and the normal is p / |p|."""
    scene, _ = open_scene(data_of(scene_folder))
    assert load_point_cloud(scene, data_of(scene_folder)) is None
    mesh = ball(scene)
    write_cloud(scene_folder, mesh, vertex_normal=True)
    cloud = load_point_cloud(scene, data_of(scene_folder))
    assert len(cloud.points_obj) == len(mesh.vertices) == len(cloud.normals_obj)
    torch.testing.assert_close(cloud.points_obj.norm(dim=-1), torch.full((162,), 0.5), atol=1e-5,
                               rtol=0)
    # Normals of the mesh are means of those of its faces: within some degrees of the ball's.
    cosine = (torch.nn.functional.normalize(cloud.points_obj, dim=-1) * cloud.normals_obj).sum(-1)
    assert cosine.min() > 0.99


def test_normals_follow_the_model_matrix(scene_folder):
    """With the axes turned, normals of world space turn into those of object space."""
    scene, _ = open_scene(data_of(scene_folder))
    model = scene.cameras.model.clone()
    model[:3, :3] = model[:3, :3] @ torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    scene = replace(scene, cameras=replace(scene.cameras, model=model))
    write_cloud(scene_folder, ball(scene), vertex_normal=True)
    cloud = load_point_cloud(scene, data_of(scene_folder))
    cosine = (torch.nn.functional.normalize(cloud.points_obj, dim=-1) * cloud.normals_obj).sum(-1)
    assert cosine.min() > 0.99


def test_clouds_without_normals_have_none(scene_folder):
    scene, _ = open_scene(data_of(scene_folder))
    write_cloud(scene_folder, trimesh.PointCloud(np.asarray(ball(scene).vertices)))
    assert load_point_cloud(scene, data_of(scene_folder)).normals_obj is None


def test_a_cloud_of_the_true_points_lies_where_the_object_is(scene_folder):
    scene, _ = open_scene(data_of(scene_folder))
    (scene_folder / "merged").mkdir()
    shutil.copy(scene_folder / SURFACE_POINTS, scene_folder / MERGED_CLOUD)
    cloud = load_point_cloud(scene, data_of(scene_folder))
    world = torch.from_numpy(load_ply_points(scene_folder / SURFACE_POINTS)).float()
    assert len(cloud.points_obj) == len(world)
    assert cloud.points_obj.norm(dim=-1).max() < 1           # inside the unit sphere


@pytest.mark.parametrize("flag", ["--use_pcd", "--load_pcd"])
def test_a_cloud_that_is_not_wanted_is_not_even_read(scene_folder, flag):
    (scene_folder / "merged").mkdir()
    (scene_folder / MERGED_CLOUD).write_text("damaged")
    scene, _ = open_scene(data_of(scene_folder, "--load_pcd", 0))
    assert load_point_cloud(scene, data_of(scene_folder, flag, 0)) is None


@pytest.mark.parametrize("content", [
    b"damaged", b"", b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nend_header\n1\n",
    b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
    b"property float z\nend_header\nnan 0 0\n"])
def test_damaged_clouds_are_named_with_a_mend(scene_folder, content):
    scene, _ = open_scene(data_of(scene_folder))
    (scene_folder / "merged").mkdir()
    (scene_folder / MERGED_CLOUD).write_bytes(content)
    with pytest.raises(SceneError, match="point_cloud_world.ply.*--use_pcd 0"):
        load_point_cloud(scene, data_of(scene_folder))
