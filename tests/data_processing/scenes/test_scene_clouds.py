"""Point clouds of a scene's folder: all of its files, in world space."""
from __future__ import annotations

import numpy as np
import pytest
import trimesh

from data_processing.scenes.scene_clouds import (
    MERGED_CLOUD,
    SURFACE_POINTS,
    cloud_files,
    read_scene_cloud,
)
from utils.errors import SceneError

POINTS = np.array([[0.0, 1, 2], [3, 4, 5], [-1, 0, 0.5]])
NORMALS = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 2]])
#: A quarter turn about z and a translation, world to camera.
VIEW = np.array([[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])


def in_camera(points: np.ndarray) -> np.ndarray:
    return points @ VIEW[:3, :3].T + VIEW[:3, 3]


def write_meta(path, **entries) -> None:
    np.save(path, entries, allow_pickle=True)


def test_all_files_of_the_folder_are_one_cloud(tmp_path):
    trimesh.PointCloud(POINTS).export(tmp_path / "a.ply")
    np.savetxt(tmp_path / "b.xyz", POINTS + 1, header="x y z")
    np.savetxt(tmp_path / "c.XYZN", np.hstack([POINTS + 2, NORMALS]))
    trimesh.PointCloud(POINTS * 9).export(tmp_path / SURFACE_POINTS)      # nothing learns of it
    cloud = read_scene_cloud(tmp_path)
    assert [path.name for path in cloud_files(tmp_path)] == ["a.ply", "b.xyz", "c.XYZN"]
    np.testing.assert_allclose(cloud.points, np.concatenate([POINTS, POINTS + 1, POINTS + 2]))
    assert cloud.normals is None                                          # two files have none


def test_the_merged_cloud_goes_before_the_others(tmp_path):
    (tmp_path / "a.xyz").write_text("damaged")
    (tmp_path / MERGED_CLOUD).parent.mkdir()
    trimesh.PointCloud(POINTS).export(tmp_path / MERGED_CLOUD)
    np.testing.assert_allclose(read_scene_cloud(tmp_path).points, POINTS)


def test_points_of_a_camera_are_taken_to_the_world(tmp_path):
    normals = NORMALS @ VIEW[:3, :3].T
    np.savetxt(tmp_path / "a.xyzn", np.hstack([in_camera(POINTS), normals]))
    write_meta(tmp_path / "a_meta.npy", view=VIEW)
    cloud = read_scene_cloud(tmp_path)
    np.testing.assert_allclose(cloud.points, POINTS, atol=1e-12)
    np.testing.assert_allclose(cloud.normals, NORMALS, atol=1e-12)


def test_points_that_are_in_the_world_stay(tmp_path):
    for number, entries in enumerate(({"view": VIEW, "is_in_world_coords": True}, {"other": 1})):
        np.savetxt(tmp_path / f"{number}.xyz", POINTS)
        write_meta(tmp_path / f"{number}_meta.npy", **entries)
    np.testing.assert_allclose(read_scene_cloud(tmp_path).points, np.concatenate([POINTS, POINTS]))


def test_a_folder_without_clouds_has_none(tmp_path):
    trimesh.PointCloud(POINTS).export(tmp_path / SURFACE_POINTS)
    assert read_scene_cloud(tmp_path) is None


@pytest.mark.parametrize("content, said", [
    ("1 2\n3 4\n", "2 numbers a line, need 3"), ("", "N over 0"), ("a b c\n", "not readable"),
    ("1 2 3\n1 2\n", "not readable"), ("nan 0 0\n", "not finite"), ("1 2 1e300\n", "too far")])
def test_damaged_lines_are_named(tmp_path, content, said):
    (tmp_path / "points.xyz").write_text(content)
    with pytest.raises(SceneError, match=f"points.xyz.*{said}"):
        read_scene_cloud(tmp_path)


@pytest.mark.parametrize("meta, said", [
    ({"view": np.eye(4) * np.array([2, 2, 2, 1])}, "scales by 2"), ({"view": "x"}, "view"),
    ([1, 2], "need a pickled dict")])
def test_a_camera_that_cannot_be_one_is_named(tmp_path, meta, said):
    np.savetxt(tmp_path / "a.xyz", POINTS)
    np.save(tmp_path / "a_meta.npy", np.array(meta, dtype=object), allow_pickle=True)
    with pytest.raises(SceneError, match=f"a_meta.npy.*{said}"):
        read_scene_cloud(tmp_path)
