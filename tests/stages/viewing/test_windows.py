"""Browser cameras and the project's: round trips, and what counts as standing in a source view."""
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from support.exported_scenes import around, exported

from stages.viewing.subjects import SourceViews
from stages.viewing.windows import (
    Pose,
    aside,
    fitted_size,
    nearest_source,
    padded,
    pose_of,
    standing_in,
    window_camera,
)


def sources() -> SourceViews:
    scene = exported("sphere", (32, 24), 3, mesh_resolution=16)
    return SourceViews(scene.view_names, scene.cameras, scene.photographs / 255, scene.masks)


def test_a_pose_and_its_camera_are_each_other():
    camera = around(torch.tensor([0.7]), (40, 30))
    pose = pose_of(camera)
    again = window_camera(pose, (40, 30))
    torch.testing.assert_close(again.view, camera.view, atol=1e-6, rtol=0)
    assert math.isclose(pose_of(again).fov, pose.fov, rel_tol=1e-6)


def test_a_window_sees_straight_ahead_in_its_middle():
    """At the origin of its own axes, one unit ahead and a tangent to the side is at the border."""
    pose = Pose(np.array([1.0, 2, 3]), np.array([1.0, 0, 0, 0]), math.pi / 2)   # along z, y down
    camera = window_camera(pose, (40, 20))
    points = torch.tensor([[1.0, 2, 4], [1, 1, 4], [3, 2, 4], [1, 2, 2]])
    xy_ndc, depth = camera.project(points)
    torch.testing.assert_close(xy_ndc[0, :3], torch.tensor([[0.0, 0], [0, 1], [1, 0]]), atol=1e-6,
                               rtol=0)
    assert depth[0, 0] == 1 and depth[0, 3] < 0


def test_one_stands_in_a_source_view_only_where_it_is():
    found = sources()
    for number in range(3):
        pose = pose_of(found.cameras[number])
        assert standing_in(pose, found) == number == nearest_source(pose, found)
        assert standing_in(replace(pose, position=pose.position + 0.01), found) is None
    turned = replace(pose, wxyz=pose_of(found.cameras[0]).wxyz)
    assert standing_in(turned, found) is None and nearest_source(turned, found) == 0


def test_aside_and_back():
    """A quarter turn about y, twice as far: what was seen from +z is seen from +x, upright."""
    up, pose = np.array([0.0, 1, 0]), Pose(np.array([0.0, 0.5, 2]), np.array([0.0, 1, 0, 0]), 0.8)
    found = aside(pose, up, factor=2.0, turn=math.pi / 2)
    np.testing.assert_allclose(found.position, [4, 1, 0], atol=1e-12)
    view = window_camera(found, (4, 3)).view[0, :3, :3].numpy()
    np.testing.assert_allclose(view[2], [1, 0, 0], atol=1e-6)    # away from the object
    np.testing.assert_allclose(view[1], up, atol=1e-6)
    back = aside(found, up, factor=0.5, turn=-math.pi / 2)
    np.testing.assert_allclose(back.position, pose.position, atol=1e-12)
    np.testing.assert_allclose(np.abs(back.wxyz), np.abs(pose.wxyz), atol=1e-12)


def test_up_is_what_the_cameras_hold_upright():
    up = sources().up
    assert math.isclose(float(up.norm()), 1, rel_tol=1e-6) and up[1] > 0.8 and abs(up[0]) < 1e-6


def test_pictures_are_fitted_and_padded_with_white():
    assert fitted_size((800, 600), (400, 400)) == (400, 300)
    assert fitted_size((800, 600), (1000, 300)) == (400, 300)
    image = np.zeros((3, 4, 3), np.uint8)
    wide = padded(image, (10, 3))
    assert wide.shape == (3, 10, 3) and (wide[:, 3:7] == 0).all() and wide.sum() == 255 * 3 * 6 * 3
