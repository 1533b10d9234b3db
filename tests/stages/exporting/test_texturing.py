"""Meshes with textures: charts, texels, and what other programs read."""
from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from sdf_meshing import Mesh
from stages.exporting import texturing
from stages.exporting.texturing import (
    Texels,
    Unwrapped,
    barycentric,
    check_textured,
    texels_of,
    texture_of,
    unwrap,
    write_textured,
)
from utils.errors import ConfigError, MissingExtraError, WriteError

needs_xatlas = pytest.mark.skipif(not texturing.importlib.util.find_spec("xatlas"),
                                  reason="xatlas is not installed")
SIZE = 256


@pytest.fixture(scope="module")
def ball() -> Mesh:
    found = trimesh.creation.icosphere(subdivisions=3, radius=0.6)
    points = np.asarray(found.vertices, np.float32)
    return Mesh(points, np.asarray(found.faces, np.int64), points / 0.6)


def colours_at(mesh: Mesh) -> np.ndarray:
    """Smooth colours of points of the ball."""
    return (127.5 + 110 * np.sin(3 * mesh.vertices_obj)).round().astype(np.uint8)


def test_barycentric_weights_by_hand():
    corners = torch.tensor([[[0.0, 0], [4, 0], [0, 2]]]).expand(3, 3, 2)
    places = torch.tensor([[1.0, 0.5], [4.0, 0.0], [3.0, 2.0]])
    assert barycentric(corners, places).tolist() == [[0.5, 0.25, 0.25], [0, 1, 0],
                                                     [-0.75, 0.75, 1]]
    flat = torch.tensor([[[0.0, 0], [1, 1], [2, 2]]])
    assert (barycentric(flat, torch.tensor([[1.0, 1.0]])) < 0).all()


def test_texels_of_a_square_lie_on_it():
    """Two triangles fill the left half of 8x8 texels; x is u, y is 1 - v."""
    corners = np.array([[0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]], np.float32)
    uv = np.array([[0, 0], [0.5, 0], [0.5, 1], [0, 1]], np.float32)
    mesh = Mesh(corners, np.array([[0, 3, 2], [0, 2, 1]]), np.tile([[0, 0, 2.0]], (4, 1)))
    texels = texels_of(Unwrapped(mesh, uv), 8)
    assert texels.index.tolist() == [8 * row + column for row in range(8) for column in range(4)]
    row, column = texels.index // 8, texels.index % 8
    expected = np.stack([(column + 0.5) / 4, 1 - (row + 0.5) / 8, 0 * row], -1)
    np.testing.assert_allclose(texels.points_obj, expected, atol=1e-6)
    np.testing.assert_allclose(texels.normals_obj, np.tile([[0, 0, 1.0]], (32, 1)), atol=1e-6)


def test_around_charts_the_nearest_colour_goes_on():
    index = np.array([0, 15])
    texels = Texels(index, np.zeros((2, 3)), np.zeros((2, 3)))
    picture = texture_of(texels, 4, np.array([[10, 20, 30], [200, 0, 0]], np.uint8))
    assert picture[0, 1].tolist() == [10, 20, 30] and picture[3, 2].tolist() == [200, 0, 0]


@needs_xatlas
def test_charts_keep_the_surface_and_do_not_overlap(ball):
    unwrapped = unwrap(ball, SIZE)
    assert len(unwrapped.mesh.faces) == len(ball.faces)
    np.testing.assert_array_equal(unwrapped.mesh.vertices_obj[unwrapped.mesh.faces],
                                  ball.vertices_obj[ball.faces])
    assert unwrapped.uv.min() >= 0 and unwrapped.uv.max() <= 1
    corners = unwrapped.uv[unwrapped.mesh.faces].astype(np.float64)
    sides = corners[:, 1:] - corners[:, :1]
    area = np.abs(sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0]).sum() / 2
    texels = len(texels_of(unwrapped, SIZE).index) / SIZE ** 2
    # overlapping charts would have more area than texels; an edge takes part of a texel
    assert texels == pytest.approx(area, rel=0.02) and texels > 0.4


@needs_xatlas
def test_another_program_shows_the_colours_where_they_are(ball, tmp_path):
    """trimesh reads it: colours between vertices are those of the points there, in world units."""
    path = tmp_path / "ball.glb"
    size = write_textured(path, ball, SIZE, colours_at, up=(0.0, 0.0, 1.0),
                          to_world=lambda points: 2 * points + [1.0, 0.0, 0.0])
    assert size == path.stat().st_size
    scene = trimesh.load(path, process=False)
    turn, name = scene.graph[scene.graph.nodes_geometry[0]]
    np.testing.assert_allclose(turn[:3, :3] @ [0, 0, 1], [0, 1, 0], atol=1e-6)
    mesh = scene.geometry[name]
    np.testing.assert_allclose(np.sort((mesh.vertices - [1, 0, 0])[:, 0]), np.sort(
        2 * unwrap(ball, SIZE).mesh.vertices_obj[:, 0]), atol=1e-6)
    rng = np.random.default_rng(0)
    weights = rng.dirichlet([1, 1, 1], len(mesh.faces))[..., None]
    points = ((mesh.vertices[mesh.faces] - [1, 0, 0]) / 2 * weights).sum(1)
    uv = (mesh.visual.uv[mesh.faces] * weights).sum(1)                   # from the bottom left
    picture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"), np.float64)
    column = (uv[:, 0] * SIZE).astype(int).clip(0, SIZE - 1)
    row = ((1 - uv[:, 1]) * SIZE).astype(int).clip(0, SIZE - 1)
    shown = picture[row, column]
    expected = 127.5 + 110 * np.sin(3 * points)
    # a texel spans some 0.008: 110 * 3 * 0.006 = 2 levels to its centre, and JPEG's loss
    assert np.abs(shown - expected).mean() < 2 and np.abs(shown - expected).max() < 20


def test_what_can_not_be_written_is_said_at_once(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="owl.obj: need a name that ends in .glb"):
        check_textured(tmp_path / "owl.obj", False)
    Image.new("RGB", (1, 1)).save(tmp_path / "owl.glb", "PNG")
    with pytest.raises(WriteError, match="owl.glb exists already"):
        check_textured(tmp_path / "owl.glb", False)
    monkeypatch.setattr(texturing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install xatlas"):
        check_textured(tmp_path / "owl.glb", True)
