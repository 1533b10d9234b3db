"""Meshes of spheres and boxes in closed form; colours from analytic cameras."""
import logging

import numpy as np
import pytest
import torch
import trimesh

import sdf_meshing as module
from sdf_meshing import (
    Mesh,
    colour_vertices,
    extract_mesh,
    mesh_chamfer,
    sample_surface,
    sdf_grid,
    without_floaters,
    write_mesh,
)
from utils.errors import UserError, WriteError
from utils.geometry.cameras import Cameras, look_at, projection_from_intrinsics


def sphere(points, radius=0.5, center=(0.1, 0.0, -0.05)):
    return (points - points.new_tensor(center)).norm(dim=-1) - radius


def as_trimesh(mesh):
    return trimesh.Trimesh(mesh.vertices_obj, mesh.faces, process=False)


def test_sphere_has_its_closed_form():
    mesh = extract_mesh(sphere, resolution=64)
    center = np.array([0.1, 0.0, -0.05])
    distance = np.linalg.norm(mesh.vertices_obj - center, axis=-1)
    # linear interpolation in a cell of h = 0.032 errs by h^2 / (8 r) = 2.5e-4 an axis
    assert np.abs(distance - 0.5).max() < 5e-4
    solid = as_trimesh(mesh)
    assert solid.is_watertight and solid.is_winding_consistent
    # a positive volume means that the faces look outwards
    assert solid.volume == pytest.approx(4 / 3 * np.pi * 0.125, rel=5e-3)
    outward = (mesh.vertices_obj - center) / distance[:, None]
    assert (outward * mesh.normals_obj).sum(-1).min() > 0.99


def box(points):
    q = points.abs() - points.new_tensor([0.5, 0.3, 0.2])
    return q.clamp_min(0).norm(dim=-1) + q.max(-1).values.clamp_max(0)


@pytest.mark.parametrize("sdf", [sphere, box, lambda p: 2 * sphere(p, 0.2, (0.6, 0, 0.3))])
def test_coarse_to_fine_gives_the_surface_of_the_full_grid(sdf):
    """Also with twice the slope of a true SDF, by which cells are skipped."""
    half = 1.02
    values = sdf_grid(sdf, 40, half, bounds=1.0)
    axis = torch.linspace(-half, half, 41)
    points = torch.cartesian_prod(axis, axis, axis)
    full = torch.maximum(sdf(points), points.norm(dim=-1) - 1).reshape(41, 41, 41)
    assert torch.equal(values > 0, full > 0)
    for dim in range(3):
        expected, found = ([grid.narrow(dim, i, 40) for i in (0, 1)] for grid in (full, values))
        crossing = (expected[0] > 0) != (expected[1] > 0)
        assert crossing.any()
        for i in range(2):      # the grid's coordinates are rounded to float32
            assert torch.allclose(found[i][crossing], expected[i][crossing], atol=1e-6)


def test_most_of_space_is_not_evaluated_and_batches_are_bounded():
    sizes = []

    def counted(points):
        assert not torch.is_grad_enabled() and points.norm(dim=-1).max() <= 1
        sizes.append(len(points))
        return sphere(points)

    extract_mesh(counted, resolution=128)
    assert max(sizes) <= module.CHUNK_CPU and sum(sizes) < 0.2 * 129 ** 3


def test_surface_that_leaves_the_sphere_is_closed_at_it():
    mesh = extract_mesh(lambda points: points[:, 0] - 0.2, resolution=48)
    solid = as_trimesh(mesh)
    assert solid.is_watertight
    assert np.linalg.norm(mesh.vertices_obj, axis=-1).max() < 1 + 1e-3
    # ball without the cap of height 0.8; the grid is coarse at the rim
    assert solid.volume == pytest.approx(np.pi * (4 / 3 - 0.8 ** 2 * (3 - 0.8) / 3), rel=2e-2)


@pytest.mark.parametrize("sdf", [lambda points: points.norm(dim=-1) + 0.1,
                                 lambda points: sphere(points, 0.3, (3, 0, 0))])
def test_no_surface_gives_an_empty_mesh_and_one_line(sdf, caplog, tmp_path):
    with caplog.at_level(logging.WARNING):
        mesh = extract_mesh(sdf, resolution=16)
    assert mesh.is_empty and "nowhere negative" in caplog.text
    with pytest.raises(UserError, match="no surface"):
        write_mesh(mesh, torch.eye(4), tmp_path / "mesh")
    with pytest.raises(ValueError, match="empty mesh"):
        sample_surface(mesh, 5)


def test_bad_arguments_and_damaged_networks_are_refused():
    with pytest.raises(ValueError, match="resolution of 8"):
        extract_mesh(sphere, resolution=4)
    with pytest.raises(UserError, match="not finite"):
        extract_mesh(lambda points: points[:, 0] * float("nan"), resolution=16)


def two_spheres(points):
    return torch.minimum(sphere(points), sphere(points, 0.04, (-0.8, 0, 0)))


def test_small_pieces_are_dropped(monkeypatch):
    clean = extract_mesh(two_spheres, resolution=96)
    monkeypatch.setattr(module, "without_floaters", lambda mesh: mesh)
    whole = extract_mesh(two_spheres, resolution=96)
    assert as_trimesh(whole).body_count == 2 and as_trimesh(clean).body_count == 1
    assert clean.vertices_obj[:, 0].min() > -0.5
    assert len(clean.normals_obj) == len(clean.vertices_obj) == clean.faces.max() + 1
    assert as_trimesh(without_floaters(whole, min_piece=1e-4)).body_count == 2


def test_samples_are_even_over_the_area():
    """A square of 4 and one of 1 unit of area: four fifths of the samples on the large one."""
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    vertices = np.concatenate([2 * square, square + [0, 0, 5]]).astype(np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    points, normals = sample_surface(Mesh(vertices, faces, np.zeros_like(vertices)), 20000)
    large = points[points[:, 2] < 1]
    # deviation of a share of 0.8 with 20000 draws: 0.003
    assert len(large) / 20000 == pytest.approx(0.8, abs=0.012)
    assert large[:, :2].mean(0) == pytest.approx([1, 1], abs=0.03)
    assert large.min() >= 0 and large.max() <= 2
    assert np.array_equal(normals / np.linalg.norm(normals, axis=-1, keepdims=True),
                          np.tile([0.0, 0, 1], (20000, 1)))


def opposite_cameras():
    """Two cameras on the z axis, at +3 and -3, in a world twice as large and shifted."""
    model = torch.diag(torch.tensor([2.0, 2, 2, 1]))
    model[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    eyes = model[:3, 3] + torch.tensor([[0, 0, 6.0], [0, 0, -6.0]])
    view = look_at(eyes, model[:3, 3].expand(2, 3), torch.tensor([0, 1.0, 0]))
    intrinsics = torch.tensor([[120.0, 0, 39.5], [0, 120, 29.5], [0, 0, 1]]).expand(2, 3, 3)
    return Cameras(view, projection_from_intrinsics(intrinsics, (80, 60)), model, (80, 60))


def sphere_masks(cameras, radius=0.5):
    """(V, 1, H, W) bool: the pixels whose rays pass through a centred sphere, in closed form."""
    origins, dirs = cameras.pixel_rays()
    middle = -(origins * dirs).sum(-1)
    return (radius ** 2 > origins.square().sum(-1) - middle ** 2)[:, None]


def before_a_sphere(cameras):
    """Which cameras see a point of a centred sphere: those whose side of it the point is on."""
    def visible(points):
        to_camera = cameras.centers_obj[:, None] - points              # (V, N, 3)
        return (to_camera * points).sum(-1) > 0

    return visible


def test_each_side_takes_the_colour_of_the_camera_before_it():
    cameras = opposite_cameras()
    masks, visible = sphere_masks(cameras), before_a_sphere(cameras)
    images = torch.zeros(2, 3, 60, 80)
    images[0, 0], images[1, 2] = 1.0, 1.0                     # the front red, the rear blue
    mesh = extract_mesh(lambda points: points.norm(dim=-1) - 0.5, resolution=40)
    colours = colour_vertices(mesh, images, masks, cameras=cameras, visible=visible)
    z = mesh.vertices_obj[:, 2]
    assert colours.dtype == np.uint8
    # up to 0.3 pixels at the silhouette are mixed with background and do not count
    assert (colours[z > 0.3] == [255, 0, 0]).all() and (colours[z < -0.3] == [0, 0, 255]).all()


def test_border_pixels_count_only_where_no_view_has_better_ones():
    cameras = opposite_cameras()[[0, 0]]
    masks, visible = sphere_masks(cameras), before_a_sphere(cameras)
    inner = -torch.nn.functional.max_pool2d(-masks.float(), 3, stride=1, padding=1) > 0
    images = torch.where(inner, 0.2, 1.0).expand(2, 3, 60, 80)
    mesh = extract_mesh(lambda points: points.norm(dim=-1) - 0.5, resolution=40)
    seen = visible(torch.from_numpy(mesh.vertices_obj))[0].numpy()
    # the second view has no border: its mask holds only inner pixels of a wider image
    images = torch.stack([images[0], torch.full((3, 60, 80), 0.2)])
    wide = torch.stack([masks[0], torch.ones_like(masks[0])])
    colours = colour_vertices(mesh, images, wide, cameras=cameras, visible=visible)
    cosine = mesh.normals_obj[:, 2]
    # a share of 1 / 101 of white at the border is 2 levels
    assert np.abs(colours[seen & (cosine > 0.3)].astype(int) - 51).max() <= 3
    alone = colour_vertices(mesh, images[:1], masks[:1], cameras=cameras[0],
                            visible=before_a_sphere(cameras[0]))
    assert alone[seen].max() > 150


def test_chamfer_leaves_out_what_no_view_sees():
    cameras = opposite_cameras()[0]
    mesh = extract_mesh(lambda points: points.norm(dim=-1) - 0.5, resolution=40)
    visible = before_a_sphere(cameras)
    front = torch.nn.functional.normalize(
        torch.randn(20000, 3, generator=torch.Generator().manual_seed(0)), dim=-1) / 2
    front = front[front[:, 2] > 0.5 / 6]                      # what a camera at distance 3 sees
    truth = front.numpy() * 2 + np.array([1.0, 2.0, 3.0])
    seen = mesh_chamfer(mesh, truth, cameras.model, visible=visible)
    everything = mesh_chamfer(mesh, truth, cameras.model)
    # 20,000 samples on 12.6 square units lie 0.0125 from their nearest neighbour on average
    assert seen.accuracy < 0.03 and seen.completeness < 0.03
    assert everything.accuracy > 0.2 and everything.normal_degrees is None
    outward = front.numpy() / 0.5
    # faces of a mesh of 40 cells a side lean by up to 2 degrees against the sphere
    found = mesh_chamfer(mesh, truth, cameras.model, normals_world=outward, visible=visible)
    assert found.normal_degrees < 2.5 and found.completeness == seen.completeness
    turned = mesh_chamfer(mesh, truth, cameras.model, normals_world=-outward, visible=visible)
    assert turned.normal_degrees > 177.5
    nothing = mesh_chamfer(mesh, truth, cameras.model,
                           visible=lambda points: torch.zeros(1, len(points), dtype=torch.bool))
    assert nothing is None


def test_vertices_that_nothing_sees_are_grey_and_small_holes_filled():
    cameras = opposite_cameras()
    masks, visible = sphere_masks(cameras), before_a_sphere(cameras)
    images = torch.full((2, 3, 60, 80), 0.2)
    # cells of 0.02: the hole of radius 0.015 has vertices, and seen ones within FILL_DISTANCE
    mesh = extract_mesh(lambda points: points.norm(dim=-1) - 0.5, resolution=96)

    def front_with_a_hole(points):
        seen = visible(points)
        seen[1] = False
        seen[0] &= (points - torch.tensor([0, 0, 0.5])).norm(dim=-1) > 0.015
        return seen

    colours = colour_vertices(mesh, images, masks, cameras=cameras, visible=front_with_a_hole)
    z = mesh.vertices_obj[:, 2]
    assert (colours[z < -0.1] == module.UNSEEN_COLOUR).all()
    assert (colours[z > 0.3] == 51).all()
    none = colour_vertices(mesh, images, masks & False, cameras=cameras, visible=visible)
    assert (none == module.UNSEEN_COLOUR).all()


def test_files_hold_the_mesh_in_world_space_with_colours(tmp_path):
    mesh = extract_mesh(sphere, resolution=16)
    colours = np.random.default_rng(0).integers(0, 256, (len(mesh.vertices_obj), 3), np.uint8)
    model = opposite_cameras().model
    expected = mesh.vertices_obj * 2 + np.array([1.0, 2.0, 3.0])
    paths = write_mesh(mesh, model, tmp_path / "mesh", colours=colours)
    assert [path.name for path in paths] == ["mesh.ply", "mesh.obj", "mesh.glb"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mesh.glb", "mesh.obj", "mesh.ply"]
    for path in paths:
        loaded = trimesh.load(path, process=False, force="mesh")
        # OBJ is text with 8 digits
        assert np.allclose(loaded.vertices, expected, atol=1e-5), path
        assert np.array_equal(loaded.faces, mesh.faces), path
        if path.suffix != ".glb":                    # linear, see tests/utils/files/test_glb.py
            assert np.array_equal(loaded.visual.vertex_colors[:, :3], colours), path


def test_mesh_without_colours_and_one_format(tmp_path):
    mesh = extract_mesh(sphere, resolution=16)
    paths = write_mesh(mesh, torch.eye(4), tmp_path / "deep" / "mesh", formats=["ply"])
    assert [path.name for path in paths] == ["mesh.ply"] and paths[0].is_file()
    with pytest.raises(ValueError, match="stl"):
        write_mesh(mesh, torch.eye(4), tmp_path / "mesh", formats=["stl"])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="mesh.ply"):
        write_mesh(mesh, torch.eye(4), tmp_path / "file" / "mesh")
