"""The interval of a ray inside the unit sphere, and the bundles that rays travel in.

A chord's ends follow from a few float64 sums and one square root: TIGHT is rounding. Near-grazing
rays lose half the digits in the root and are given their own tolerance.
"""
from __future__ import annotations

import math

import pytest
import torch

from utils.geometry.cameras import Cameras, look_at, projection_from_intrinsics
from utils.geometry.rays import camera_rays, make_rays

TIGHT = {"atol": 1e-12, "rtol": 0}


def ray(origin: tuple, direction: tuple, dtype: torch.dtype = torch.float64):
    """One ray; the direction is made unit length."""
    dirs = torch.tensor([direction], dtype=dtype)
    return make_rays(torch.tensor([origin], dtype=dtype), dirs / dirs.norm())


@pytest.mark.parametrize("origin, direction, near, far, inside", [
    ((0, 0, 3), (0, 0, -1), 2, 4, True),               # through the centre
    ((0.6, 0, 3), (0, 0, -1), 2.2, 3.8, True),         # 0.6, 0.8, 1
    ((0, 0, 0.5), (0, 0, -1), 0, 1.5, True),           # begins inside
    ((0, 0, 3), (0, 0, 1), 0, 0, False),               # sphere behind
    ((0, 0, 1.0), (0, 0, 1), 0, 0, False),             # leaves from its surface
    ((2, 0, 3), (0, 0, -1), 3, 3, False),              # passes at distance 2
    ((2, 0, -3), (0, 0, -1), 0, 0, False)])            # passes, and closest approach lies behind
def test_interval_by_hand(origin, direction, near, far, inside):
    rays = ray(origin, direction)
    assert rays.t_near.item() == pytest.approx(near, abs=1e-12)
    assert rays.t_far.item() == pytest.approx(far, abs=1e-12)
    assert rays.sphere_mask.tolist() == [inside]


def random_rays(count: int, reach: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Origins on a sphere of radius `reach`, directions about the way to the centre."""
    generator = torch.Generator().manual_seed(4)
    origins = torch.nn.functional.normalize(
        torch.randn(count, 3, generator=generator).double(), dim=-1) * reach
    aim = torch.randn(count, 3, generator=generator).double() * 0.5
    return origins, torch.nn.functional.normalize(aim - origins, dim=-1)


def test_ends_lie_on_the_sphere_and_the_middle_is_closest():
    rays = make_rays(*random_rays(500))
    inside = rays.sphere_mask
    assert 50 < int(inside.sum()) < 500
    ones = torch.ones(int(inside.sum()), dtype=torch.float64)
    for t in (rays.t_near, rays.t_far):
        # the root of 1 - distance^2 loses digits for grazing rays, its error on the norm does not
        torch.testing.assert_close(rays.points(t)[inside].norm(dim=-1), ones, **TIGHT)
    middle = rays.points((rays.t_near + rays.t_far) / 2)
    torch.testing.assert_close((middle * rays.dirs_obj).sum(-1), torch.zeros(500).double(), **TIGHT)
    outside = middle[~inside].norm(dim=-1)
    assert (outside >= 1).all()
    torch.testing.assert_close(rays.t_near[~inside], rays.t_far[~inside], **TIGHT)


def test_far_cameras_keep_the_interval_exact():
    """From 1,000 radii away: |o|^2 - (o.d)^2 in float32 would be wrong by 0.1 and more; t itself is
    resolved to 6e-5 there and the direction to 6e-8 x 1,000, hence 5e-4 on the chord's length."""
    for offset in (0.0, 0.5, 0.9):
        rays = ray((offset, 0.0, 1000.0), (0.0, 0.0, -1.0), torch.float32)
        chord = 2 * math.sqrt(1 - offset ** 2)
        assert (rays.t_far - rays.t_near).item() == pytest.approx(chord, abs=5e-4)


def test_interval_is_constant_and_rays_keep_their_graph():
    origins, dirs = random_rays(5)
    rays = make_rays(origins.requires_grad_(True), dirs)
    assert not rays.t_near.requires_grad and not rays.t_far.requires_grad
    assert rays.points(rays.t_near).requires_grad


def test_points_of_several_distances_a_ray():
    rays = make_rays(*random_rays(4))
    t = torch.rand(4, 6, generator=torch.Generator().manual_seed(5)).double()
    points = rays.points(t)
    assert points.shape == (4, 6, 3)
    for row in range(4):
        for column in range(6):
            expected = rays.origins_obj[row] + t[row, column] * rays.dirs_obj[row]
            torch.testing.assert_close(points[row, column], expected, **TIGHT)


def test_indexing_takes_the_same_rows_of_everything():
    rays = make_rays(*random_rays(6))
    for index in (torch.tensor([4, 1]), torch.tensor([False, True, False, False, True, False])):
        part = rays[index]
        assert len(part) == 2
        for name in ("origins_obj", "dirs_obj", "t_near", "t_far", "sphere_mask"):
            assert torch.equal(getattr(part, name), getattr(rays, name)[index])


def test_camera_rays_run_view_by_view_and_row_by_row():
    size = (4, 3)
    intrinsics = torch.tensor([[5.0, 0, 1.5], [0, 5, 1], [0, 0, 1]]).double().expand(2, 3, 3)
    eye = torch.tensor([[0.0, 0, 3], [3, 0, 0]]).double()
    view = look_at(eye, torch.zeros(3).double(), torch.tensor([0.0, 1, 0]).double())
    cameras = Cameras(view, projection_from_intrinsics(intrinsics, size), torch.eye(4).double(),
                      size)
    rays, (_, dirs) = camera_rays(cameras), cameras.pixel_rays()
    assert len(rays) == 2 * 3 * 4
    assert torch.equal(rays.dirs_obj[1 * 12 + 2 * 4 + 3], dirs[1, 2, 3])
    torch.testing.assert_close(rays.origins_obj[:12], eye[:1].expand(12, 3), **TIGHT)
