"""Analytic solids against closed forms, their gradients, and rays traced against them."""
from __future__ import annotations

import math

import pytest
import torch

from data_processing.synthetic import analytic_sdf as solids
from data_processing.synthetic.exact_tracing import HIT_TOLERANCE, spread_points, trace
from data_processing.synthetic.painted_objects import PAINTED_OBJECTS, make_painted
from data_processing.synthetic.scene_kinds import (
    BOUND,
    OBJECT_RADIUS,
    SCENE_KINDS,
    axis_rotation,
    make_solid,
)
from data_processing.synthetic.shading import draw_look
from utils.geometry.sdf import gradient

TURN = axis_rotation(torch.tensor([0.6, 0.0, 0.8]), 0.7)
EXACT = {
    "sphere": solids.sphere(0.6, (0.1, -0.2, 0.0)),
    "box": solids.box((0.5, 0.3, 0.4), rounding=0.05),
    "cylinder": solids.cylinder(0.4, 0.3, rounding=0.02),
    "torus": solids.torus(0.5, 0.2),
    "capsule": solids.capsule((-0.3, 0.0, 0.1), (0.4, 0.2, 0.0), 0.2),
    "lathe": solids.lathe([(0.0, -0.5), (0.5, -0.4), (0.3, 0.5)], thickness=0.05),
    "moved": solids.moved(solids.box((0.5, 0.3, 0.4)), TURN, (0.1, 0.2, 0.0), scale=1.3),
}


def cloud(count: int, seed: int = 0, reach: float = 1.2) -> torch.Tensor:
    return (torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * reach


def solid_of(kind: str, seed: int):
    generator = torch.Generator().manual_seed(seed)
    if kind in SCENE_KINDS:
        return make_solid(kind, generator)
    return make_painted(kind, generator, draw_look(generator)[0])[0]


def test_primitives_at_known_points():
    """Distances worked out by hand; float32 sums of a few terms are good to 1e-6."""
    cases = [(solids.sphere(0.5), (0, 0, 2), 1.5), (solids.box((1, 1, 1)), (2, 2, 1), math.sqrt(2)),
             (solids.box((1, 1, 1)), (0, 0.9, 0), -0.1), (solids.torus(1, 0.25), (0, 0, 0), 0.75),
             (solids.cylinder(1, 1), (0, 3, 0), 2), (solids.cylinder(1, 1), (4, 5, 0), 5),
             (solids.capsule((0, 0, 0), (1, 0, 0), 0.5), (4, 4, 0), 4.5),
             (solids.lathe([(0, 0), (1, 0)], 0.1), (0, 2, 1), 1.9),
             (solids.ellipsoid((2, 1, 1)), (4, 0, 0), 1)]
    for sdf, point, expected in cases:
        found = float(sdf(torch.tensor(point, dtype=torch.float32)))
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", EXACT)
def test_primitives_are_eikonal_outside(name):
    """|grad f| = 1 almost everywhere outside an exact distance; float32 gradients to 1e-4."""
    points = cloud(2000)
    value, grad = gradient(EXACT[name], points)
    outside = value > 1e-3
    assert outside.sum() > 500
    torch.testing.assert_close(grad[outside].norm(dim=-1), torch.ones(int(outside.sum())),
                               atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [*SCENE_KINDS, *PAINTED_OBJECTS])
def test_kinds_are_never_steeper_than_one_and_stay_inside_the_bound(kind):
    """|f(a) - f(b)| <= |a - b| for near and far pairs; 2e-6 is float32 rounding of f."""
    sdf = solid_of(kind, 3)
    near, far = cloud(4000, 1, 1.0), cloud(4000, 2, 1.0)
    for other in (far, near + 0.01 * far):
        gap = (near - other).norm(dim=-1)
        assert ((sdf(near) - sdf(other)).abs() <= gap + 2e-6).all()
    dirs = torch.nn.functional.normalize(cloud(20_000, 8), dim=-1)
    assert (sdf(dirs * BOUND) > 0).all()
    assert (sdf(cloud(20_000, 4, OBJECT_RADIUS)) < 0).any()


def test_rays_against_a_sphere():
    """Closed form of the first hit. Sphere tracing stops HIT_TOLERANCE above the surface, so a ray
    that meets it at cosine c stops HIT_TOLERANCE / c early; c > 0.1 here, plus rounding."""
    radius = 0.6
    dirs = torch.nn.functional.normalize(cloud(4000, 5, 0.22) + torch.tensor([0, 0, -1.0]), dim=-1)
    origins = torch.tensor([0.0, 0.0, 4.0]).expand_as(dirs)
    hits = trace(solids.sphere(radius), origins, dirs, BOUND)
    along = -(origins * dirs).sum(-1)
    disc = radius ** 2 - (origins + along[:, None] * dirs).square().sum(-1)
    clear = disc.abs() > (0.1 * radius) ** 2
    assert torch.equal(hits.hit_mask[clear], (disc > 0)[clear])
    assert 0.2 < hits.hit_mask.float().mean() < 0.9
    sure = clear & (disc > 0)
    expected = origins[sure] + (along[sure] - disc[sure].sqrt())[:, None] * dirs[sure]
    torch.testing.assert_close(hits.points[sure], expected, atol=10 * HIT_TOLERANCE + 2e-6, rtol=0)
    assert (hits.points[~hits.hit_mask] == 0).all()


@pytest.mark.parametrize("kind", [*SCENE_KINDS, *PAINTED_OBJECTS])
def test_traced_hits_lie_on_the_surface_and_nothing_is_jumped_over(kind):
    """|f| < 1e-5 at hits, and 400 plain samples of each ray before its hit are all outside."""
    sdf = solid_of(kind, 1)
    ends, origins = cloud(300, 6, 0.6), torch.nn.functional.normalize(cloud(300, 7), dim=-1) * 3
    dirs = torch.nn.functional.normalize(ends - origins, dim=-1)
    hits = trace(sdf, origins, dirs, BOUND)
    assert 50 < hits.hit_mask.sum() < 300
    found = hits.points[hits.hit_mask]
    assert (sdf(found).abs() < 1e-5).all()
    fractions = torch.linspace(0, 1, 401)[:-1, None, None]
    stop = torch.where(hits.hit_mask[:, None], hits.points, origins + dirs * 6)
    # -2e-6: float32 rounding where a sample comes to lie next to the hit.
    assert (sdf(origins + fractions * (stop - origins)) > -2e-6).all()


def test_spread_points_are_even_over_a_box():
    """Points on each pair of faces in proportion to its area, within 4 sigma of the count."""
    half = (0.6, 0.3, 0.45)
    points = spread_points(solids.box(half), 6000, 1.0, torch.Generator().manual_seed(0))
    assert len(points) == 6000
    assert (solids.box(half)(points).abs() < HIT_TOLERANCE).all()
    areas = torch.tensor([half[1] * half[2], half[0] * half[2], half[0] * half[1]])
    fraction = areas / areas.sum()
    on_face = (points.abs() - torch.tensor(half)).abs() < 1e-5
    sigma = (fraction * (1 - fraction) / 6000).sqrt()
    assert ((on_face.float().mean(0) - fraction).abs() < 4 * sigma + 0.01).all()


def test_spread_points_of_nothing_is_empty():
    """A solid that is nowhere gives no points instead of a loop without end."""
    def far(points):
        return points[..., 0] * 0 + 5
    assert spread_points(far, 10, 0.5, torch.Generator().manual_seed(0)).shape == (0, 3)
