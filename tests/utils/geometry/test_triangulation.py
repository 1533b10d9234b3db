"""Points of space from the places where views show them."""
from __future__ import annotations

import pytest
import torch
from support.tracing_cases import cameras_at

from utils.geometry.triangulation import (
    largest_angles,
    rays_at,
    reprojection_errors,
    triangulate,
)

EYES = [(0.0, 0.2, 3.0), (1.0, 0.1, 2.8), (-0.9, -0.3, 2.9), (0.1, 2.0, 2.5)]


def case(dtype=torch.float64):
    """Cameras, 50 points (N, 3) and their places (N, V, 2)."""
    cameras = cameras_at(EYES, dtype=dtype)
    points = 0.5 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return cameras, points, cameras.project(points)[0].transpose(0, 1)


def test_points_come_back_from_where_any_two_or_more_views_show_them():
    """To rounding, for places that views without the point hold anything."""
    cameras, points, xy_ndc = case()
    seen = torch.rand(50, 4, generator=torch.Generator().manual_seed(1)) < 0.6
    seen[:, 0] |= seen.sum(1) < 2
    seen[:, 1] |= seen.sum(1) < 2
    found = triangulate(cameras, torch.where(seen[..., None], xy_ndc, 7.0), seen)
    assert float((found - points).abs().max()) < 1e-9
    assert {2, 3, 4} <= set(seen.sum(1).tolist())


def test_single_precision_is_enough_for_a_training_step():
    """Rounding of places and cameras, 1e-7 of 1, grows by the angles of 20 degrees and more."""
    cameras, points, xy_ndc = case(torch.float32)
    found = triangulate(cameras, xy_ndc, torch.ones(50, 4, dtype=torch.bool))
    assert found.dtype == torch.float32 and float((found - points).abs().max()) < 1e-5


def test_rays_that_do_not_meet_give_the_point_of_least_squares():
    """The slow twin: the normal equations of one point after the other."""
    cameras, _, xy_ndc = case()
    xy_ndc = xy_ndc + 0.02 * torch.randn(xy_ndc.shape, generator=torch.Generator().manual_seed(2),
                                         dtype=torch.float64)
    found = triangulate(cameras, xy_ndc, torch.ones(50, 4, dtype=torch.bool))
    origins, dirs = rays_at(cameras, xy_ndc)
    for point, start, along in zip(found, origins, dirs, strict=True):
        across = [torch.eye(3, dtype=torch.float64) - torch.outer(d, d) for d in along]
        right = torch.cat([p @ o for p, o in zip(across, start, strict=True)])
        wanted = torch.linalg.lstsq(torch.cat(across), right[:, None]).solution[:, 0]
        torch.testing.assert_close(point, wanted)


def test_one_view_has_no_point_and_no_error():
    cameras, _, xy_ndc = case()
    seen = torch.zeros(50, 4, dtype=torch.bool)
    seen[:, 1] = True
    assert triangulate(cameras, xy_ndc, seen).shape == (50, 3)
    assert float(largest_angles(cameras, xy_ndc, seen).max()) < 1e-5    # of a ray with itself


def test_the_largest_angle_is_that_of_two_rays_that_count():
    cameras, _, _ = case()
    xy_ndc = cameras.project(torch.zeros(1, 3, dtype=torch.float64))[0].transpose(0, 1)
    centers = torch.nn.functional.normalize(torch.tensor(EYES, dtype=torch.float64), dim=-1)
    for seen in ([1, 1, 0, 0], [1, 0, 0, 1]):
        first, second = (centers[view] for view in range(4) if seen[view])
        wanted = torch.rad2deg(torch.acos(first @ second))
        found = largest_angles(cameras, xy_ndc, torch.tensor([seen], dtype=torch.bool))
        assert float(found) == pytest.approx(float(wanted))


def test_errors_are_pixels_and_infinite_behind_a_camera():
    cameras, points, xy_ndc = case()
    width, height = cameras.resolution
    moved = xy_ndc + torch.tensor([2 * 3 / width, 2 * 4 / height])
    torch.testing.assert_close(reprojection_errors(cameras, points, moved),
                               torch.full((50, 4), 5.0, dtype=torch.float64))
    behind = torch.tensor([[0.0, 0.2, 4.0]], dtype=torch.float64)
    assert float(reprojection_errors(cameras, behind, xy_ndc[:1])[0, 0]) == torch.inf
