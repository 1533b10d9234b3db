"""First hits of rays with meshes: closed forms, and Embree against the rasteriser."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.exported_scenes import around, exported

from realtime import mesh_rays
from realtime.mesh_rays import (
    CompiledRays,
    EmbreeRays,
    RasterRays,
    coverage,
    make_mesh_rays,
    mesh_normals,
    outline,
    ray_triangle,
)
from realtime.scene import TriangleMesh, rigid_cameras
from sdf_meshing import extract_mesh
from utils.geometry.cameras import look_at

FRONT = look_at(torch.tensor([[0.0, 0.0, 2.0]]), torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))


def compiled_rays(mesh: TriangleMesh) -> CompiledRays:
    """Rays by the loops in machine code."""
    pytest.importorskip("numba", reason="numba is an extra")
    from utils.fast.kernels import triangles
    assert triangles.draw_triangles and triangles.mark_hits and triangles.distances
    return CompiledRays(mesh, triangles)


KINDS = [RasterRays, compiled_rays, pytest.param(EmbreeRays, marks=pytest.mark.skipif(
    not mesh_rays.importlib.util.find_spec("embreex"), reason="embreex is not installed"))]


def front_camera(width: int, height: int, focal: float):
    """A camera at z = 2 that looks at the origin; `focal` in pixels."""
    k = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]])
    return rigid_cameras(FRONT, k, (width, height))


def square(half: float, z: float = 0.0) -> TriangleMesh:
    """A square about the z axis of two triangles."""
    corners = [[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]]
    return TriangleMesh(np.float32(corners), np.int64([[0, 1, 2], [0, 2, 3]]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_square_is_hit_where_it_is(kind):
    hits = kind(square(0.5)).first_hits(front_camera(40, 30, 40.0))
    # at depth 2 half a unit has 10 pixels: columns 10 to 29, rows 5 to 24
    expected = torch.zeros(30, 40, dtype=torch.bool)
    expected[5:25, 10:30] = True
    assert torch.equal(hits.mask, expected)
    assert torch.isinf(hits.t[~expected]).all()
    rows, columns = torch.meshgrid(torch.arange(30) + 0.5, torch.arange(40) + 0.5, indexing="ij")
    length = 2 * torch.sqrt(1 + ((columns - 20) / 40) ** 2 + ((rows - 15) / 40) ** 2)
    assert torch.allclose(hits.t[expected], length[expected], rtol=1e-5)    # float32
    assert (hits.face[expected] == (rows - 15 < -(columns - 20))[expected].long()).float(
        ).mean() > 0.94                            # all but the diagonal, which both share


@pytest.mark.parametrize("kind", KINDS)
def test_the_nearest_surface_hides_the_others(kind):
    behind, front = square(0.5, -0.3), square(0.25, 0.2)
    mesh = TriangleMesh(np.concatenate([behind.vertices_obj, front.vertices_obj]),
                        np.concatenate([behind.faces, front.faces + 4]))
    hits = kind(mesh).first_hits(front_camera(40, 30, 40.0))
    assert hits.face[15, 20] >= 2 and 0 <= hits.face[15, 13] < 2
    assert math.isclose(hits.t[15, 20], 1.8, rel_tol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_camera_inside_sees_the_back_of_triangles_around_it(kind):
    mesh = exported("sphere", (8, 6), 1).mesh
    pose = look_at(torch.tensor([[0.1, 0.0, 0.0]]), torch.tensor([0.0, 0.3, -1.0]),
                   torch.tensor([0.0, 1.0, 0.0]))
    k = torch.tensor([[[20.0, 0, 16], [0, 20.0, 12], [0, 0, 1.0]]])
    hits = kind(mesh).first_hits(rigid_cameras(pose, k, (32, 24)))
    assert hits.mask.all()
    assert ((hits.t > 0.45) & (hits.t < 0.75)).all()


def test_a_sphere_has_the_distances_of_the_closed_form():
    mesh = extract_mesh(lambda points: points.norm(dim=-1) - 0.6, resolution=64)
    camera = around(torch.tensor([0.3]), (48, 36))
    hits = make_mesh_rays(TriangleMesh(mesh.vertices_obj, mesh.faces)).first_hits(camera)
    origins, dirs = camera.pixel_rays()
    closest = -(origins * dirs).sum(-1)[0]
    distance_sq = origins.square().sum(-1)[0] - closest.square()
    inner = distance_sq < 0.5 ** 2
    expected = closest - (0.36 - distance_sq).clamp(min=0).sqrt()
    assert hits.mask[inner].all()
    # diagonals of cells of 1/32 sag by 2/32^2 / (8 0.6) = 4e-4, their ends are as much within;
    # rays are oblique by up to 57 degrees
    assert (hits.t - expected).abs()[inner].max() < 1.5e-3


@pytest.mark.skipif(not mesh_rays.importlib.util.find_spec("embreex"),
                    reason="embreex is not installed")
@pytest.mark.parametrize("angle", [0.0, 0.4, 2.5])
def test_embree_and_the_rasteriser_agree(angle):
    mesh, camera = exported("torus", (8, 6), 1).mesh, around(torch.tensor([angle]), (80, 60))
    one, other = (kind(mesh).first_hits(camera) for kind in (RasterRays, EmbreeRays))
    assert (one.mask != other.mask).sum() <= 1              # a ray may graze the outline
    both = one.mask & other.mask
    assert both.sum() > 600
    # Embree's distances are single precision of products of single precision
    assert (one.t - other.t).abs()[both].max() < 1e-4
    asked = torch.randperm(60 * 80, generator=torch.Generator().manual_seed(0))[:2000]
    for kind, whole in ((RasterRays, one), (EmbreeRays, other)):
        assert torch.equal(kind(mesh).hit_at(camera, asked), whole.mask.reshape(-1)[asked])


@pytest.mark.parametrize("angle", [0.0, 0.4, 2.5])
def test_compiled_rays_are_those_of_the_rasteriser(angle, monkeypatch):
    mesh, camera = exported("torus", (8, 6), 1).mesh, around(torch.tensor([angle]), (80, 60))
    plain, compiled = RasterRays(mesh), compiled_rays(mesh)
    one, other = plain.first_hits(camera), compiled.first_hits(camera)
    assert (one.mask != other.mask).sum() <= 1              # a ray may graze the outline
    both = one.mask & other.mask
    assert both.sum() > 600
    assert (one.face != other.face)[both].float().mean() < 0.01       # rays through shared edges
    assert (one.t - other.t).abs()[both].max() < 1e-4       # products of single precision
    monkeypatch.setattr(mesh_rays, "num_threads", lambda: 3)
    bands = compiled.first_hits(camera)
    assert torch.equal(bands.t, other.t) and torch.equal(bands.face, other.face)
    asked = torch.randperm(60 * 80, generator=torch.Generator().manual_seed(0))[:2000]
    assert torch.equal(compiled.hit_at(camera, asked), other.mask.reshape(-1)[asked])


def test_triangles_are_rasterised_in_groups_as_in_one(monkeypatch):
    mesh, camera = exported("torus", (8, 6), 1).mesh, around(torch.tensor([0.4]), (40, 30))
    whole = RasterRays(mesh).first_hits(camera)
    monkeypatch.setattr(mesh_rays, "MAX_CANDIDATES", 300)
    parts = RasterRays(mesh).first_hits(camera)
    assert torch.equal(whole.t, parts.t) and torch.equal(whole.face, parts.face)


def test_a_ray_meets_a_triangle_by_solving_for_it():
    generator = torch.Generator().manual_seed(0)
    corners = torch.randn(200, 3, 3, generator=generator, dtype=torch.float64)
    origins, dirs = torch.randn(2, 200, 3, generator=generator, dtype=torch.float64)
    dirs = torch.nn.functional.normalize(dirs, dim=-1)
    # o + t d = a + u (b - a) + v (c - a)
    matrix = torch.stack([-dirs, corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], -1)
    t, u, v = torch.linalg.solve(matrix, origins - corners[:, 0]).unbind(-1)
    hit = (t > 0) & (u > 0) & (v > 0) & (u + v < 1)
    found = ray_triangle(origins, dirs, corners)
    assert torch.equal(found.isfinite(), hit) and 5 < hit.sum() < 100
    assert torch.allclose(found[hit], t[hit])


@pytest.mark.parametrize("kind", KINDS)
def test_coverage_is_the_fraction_of_four_rays(kind):
    camera = front_camera(40, 30, 40.0)
    rays = kind(square(0.5 + 0.5 / 20))            # half a pixel wider on every side
    found = coverage(rays, camera, rays.first_hits(camera).mask)
    assert (found[5:25, 10:30] == 1).all()
    assert (found[4, 10:30] == 0.5).all() and (found[5:25, 9] == 0.5).all()
    assert found[4, 9] == 0.25 and found[:4].sum() == 0


def test_an_outline_is_where_neighbours_differ():
    mask = torch.rand(9, 11, generator=torch.Generator().manual_seed(0)) > 0.8
    padded = torch.nn.functional.pad(mask.float()[None, None], (1, 1, 1, 1), mode="replicate")
    most, least = (torch.nn.functional.max_pool2d(sign * padded, 3, 1)[0, 0] for sign in (1, -1))
    assert torch.equal(outline(mask), most != -least)
    assert not outline(torch.ones(4, 5).bool()).any()


def test_normals_point_outward():
    mesh = exported("sphere", (8, 6), 1).mesh
    centres = mesh.vertices_obj[mesh.faces].mean(1)
    assert ((mesh_normals(mesh) * centres).sum(-1) > 0.5).all()


def test_without_packages_there_is_the_rasteriser(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(mesh_rays, "loops_for", lambda *_: None)
    if mesh_rays.importlib.util.find_spec("embreex"):
        assert isinstance(make_mesh_rays(square(0.5)), EmbreeRays)
    monkeypatch.setattr(mesh_rays.importlib.util, "find_spec", lambda name: None)
    assert isinstance(make_mesh_rays(square(0.5)), RasterRays)
    assert "pip install numba embreex" in caplog.text


def test_a_mesh_out_of_sight_is_not_hit():
    camera = front_camera(8, 6, 8.0)
    for kind in (RasterRays, make_mesh_rays):
        assert not kind(square(0.5, 5.0)).first_hits(camera).mask.any()          # behind
        shifted = square(0.1)
        shifted.vertices_obj[:, 0] += 50
        assert not kind(shifted).first_hits(camera).mask.any()                   # beside
