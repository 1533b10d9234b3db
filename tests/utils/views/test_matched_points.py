"""Matched points, and which of them the surface hides from the views that they were matched in."""
from __future__ import annotations

import torch
from support.ball_views import RADIUS, Ball
from support.tracing_cases import cameras_at

from sdf_rendering import ReferenceTracer
from utils.views.matched_points import HIDDEN_BEHIND, MatchedPoints
from utils.views.surface_buffer import SurfaceBuffer

#: Three cameras in front of the ball, and one behind it.
EYES = [(0.0, 0.2, 3.0), (0.9, 0.1, 2.8), (-0.8, -0.2, 2.9), (0.0, 0.0, -3.0)]
CAMERAS = cameras_at(EYES, (48, 40))


def traced() -> SurfaceBuffer:
    """What the cameras see of the ball."""
    buffer, every = SurfaceBuffer(CAMERAS), torch.arange(len(EYES))
    found = ReferenceTracer().trace(Ball(), buffer.rays(every))
    buffer.store(every, found.t, found.hit_mask)
    return buffer


def matched(points: torch.Tensor, seen: list[bool]) -> MatchedPoints:
    mask = torch.tensor(seen).expand(len(points), -1)
    return MatchedPoints(CAMERAS.project(points)[0].transpose(0, 1), mask)


def test_points_are_triangulated():
    points = 0.3 * torch.randn(9, 3, generator=torch.Generator().manual_seed(0),
                               dtype=torch.float64)
    found = matched(points, [True, False, True, True])
    torch.testing.assert_close(found.points_obj(CAMERAS), points)
    assert len(found) == len(found.to("cpu")) == 9


def test_points_count_where_two_of_their_views_see_them():
    """Along the axis of the first camera: before the surface, on it, a hollow behind it, the
    inside, and the far side."""
    depths = torch.tensor([0.2, 0.0, -0.8 * HIDDEN_BEHIND, -0.4, -2 * RADIUS], dtype=torch.float64)
    points = torch.zeros(5, 3, dtype=torch.float64)
    points[:, 2] = RADIUS + depths
    front = matched(points, [True, True, True, False])
    assert front.counts_mask(points, traced()).tolist() == [True, True, True, False, False]
    # the camera behind the ball sees its far side, but no second view does
    both = matched(points, [True, False, False, True])
    assert both.counts_mask(points, traced()).tolist() == [False] * 5


def test_a_surface_that_was_never_traced_hides_nothing():
    points = torch.zeros(1, 3, dtype=torch.float64)
    assert matched(points, [True, True, False, False]).counts_mask(
        points, SurfaceBuffer(CAMERAS)).tolist() == [True]
