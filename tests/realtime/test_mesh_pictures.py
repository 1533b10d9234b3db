"""Pictures of a ball's mesh against its silhouette and its colours."""
from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from realtime.mesh_pictures import DARKEST, RANGE, mesh_grid
from realtime.scene import TriangleMesh
from utils.geometry.cameras import Cameras, projection_from_intrinsics

WIDTH, HEIGHT, FOCAL = 200, 150, 260.0


@pytest.fixture(scope="module")
def ball():
    """A ball of radius 0.5, red where x is above 0 and blue elsewhere."""
    shape = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    colours = np.where(shape.vertices[:, :1] > 0, [[255, 0, 0]], [[0, 0, 255]]).astype(np.uint8)
    return TriangleMesh(np.float32(shape.vertices), np.int64(shape.faces), colours)


@pytest.fixture(scope="module")
def camera():
    """One camera at z = 2 that looks at the origin."""
    view = torch.eye(4)[None].clone()
    view[0, 2, 3] = -2
    matrix = torch.tensor([[[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]])
    projection = projection_from_intrinsics(matrix, (WIDTH, HEIGHT))
    return Cameras(view, projection, torch.eye(4), (WIDTH, HEIGHT))


def test_the_shape_is_grey_before_white_and_colours_are_where_they_belong(ball, camera):
    grid = mesh_grid(ball, camera, ["front"])
    red, blue = ((grid == colour).all(-1) for colour in ((255, 0, 0), (0, 0, 255)))
    radius = FOCAL * 0.5 / np.sqrt(2**2 - 0.5**2)        # of the ball's outline, pixels
    coloured = (grid != grid[..., :1]).any(-1)           # pure, and mixed at the seam
    assert coloured.sum() == pytest.approx(np.pi * radius**2, rel=0.03)
    assert np.argwhere(red)[:, 1].min() > np.argwhere(blue)[:, 1].max()
    grey = (grid == grid[..., :1]).all(-1) & (grid[..., 0] > DARKEST) & (grid[..., 0] < 250)
    assert grey.sum() > 0.9 * np.pi * radius**2
    brightest = (grid[grey][:, 0] == DARKEST + RANGE).sum()
    assert brightest > 50                                # where it faces us; the cosine is near 1


def test_without_colours_there_is_one_row(ball, camera):
    plain = mesh_grid(TriangleMesh(ball.vertices_obj, ball.faces), camera, ["front"])
    assert plain.shape[0] < mesh_grid(ball, camera, ["front"]).shape[0]
