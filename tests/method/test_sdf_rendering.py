"""The plain tracer and the differentiable hit: closed forms, slow twins, finite differences."""
from __future__ import annotations

import math

import pytest
import torch
from support.tracing_cases import SOLIDS, cameras_at, rays_inwards, slow_first_hit, unit

from data_processing.synthetic import analytic_sdf as solids
from modules import SdfArchitecture
from modules_sdf import SirenSDF
from sdf_rendering import (
    MIN_DERIVATIVE,
    SDF_THRESHOLD,
    ReferenceTracer,
    differentiable_hits,
    make_tracer,
    minimum_sdf_reference,
    trace_reference,
)
from utils.config.sections import TracingConfig
from utils.fast.tracing.cpu_tracer import FastTracer
from utils.geometry.cameras import Cameras
from utils.geometry.rays import Rays, make_rays
from utils.geometry.sdf import gradient

DOUBLE = torch.float64


def slope_at(sdf, rays: Rays, t: torch.Tensor) -> torch.Tensor:
    """(R,) <grad, d>, by automatic differentiation."""
    return (gradient(sdf, rays.points(t))[1] * rays.dirs_obj).sum(-1)


def assert_hits_at(found: torch.Tensor, expected: torch.Tensor, cosine: torch.Tensor) -> None:
    """A hit within SDF_THRESHOLD of the surface is off by that over the cosine along the ray; on a
    curved surface a little more, hence 1.5."""
    assert ((found - expected).abs() <= 1.5 * SDF_THRESHOLD / cosine.abs()).all()


def test_rays_against_a_sphere():
    radius, centre = 0.5, torch.tensor([0.1, -0.1, 0.2], dtype=DOUBLE)
    rays = rays_inwards(2000, dtype=DOUBLE)
    found = trace_reference(solids.sphere(radius, centre.tolist()), rays)
    to_centre = centre - rays.origins_obj
    closest = (to_centre * rays.dirs_obj).sum(-1)
    inside_sq = radius ** 2 - (to_centre - closest[:, None] * rays.dirs_obj).square().sum(-1)
    # A ray less than 1e-4 deep may count either way: |SDF| stays under the threshold on all of it.
    clear = inside_sq.abs() > 1e-4
    assert torch.equal(found.hit_mask[clear], (inside_sq > 0)[clear])
    hits = clear & (inside_sq > 0)
    assert int(hits.sum()) > 400
    half = inside_sq[hits].sqrt()
    assert_hits_at(found.t[hits], closest[hits] - half, half / radius)


def test_rays_against_a_box():
    """Slab method: the latest entry into three pairs of planes against the earliest exit."""
    half = torch.tensor([0.3, 0.5, 0.4], dtype=DOUBLE)
    rays = rays_inwards(2000, seed=1, dtype=DOUBLE)
    found = trace_reference(solids.box(half.tolist()), rays)
    planes = torch.stack([(side * half - rays.origins_obj) / rays.dirs_obj for side in (-1, 1)])
    (enter, axis), leave = planes.amin(0).max(-1), planes.amax(0).amin(-1)
    depth = leave - enter
    # The far march may end on a corner cut shorter than the spacing of the samples (2 / 99).
    clear = (depth < 0) | (depth > 0.02)
    touched = solids.box(half.tolist())(rays.points((enter + leave) / 2)).abs() < 1e-3
    clear &= (depth > 0) | ~touched
    assert torch.equal(found.hit_mask[clear], (depth > 0)[clear])
    hits = clear & (depth > 0)
    assert int(hits.sum()) > 400
    cosine = rays.dirs_obj[hits].gather(1, axis[hits, None])[:, 0]
    assert_hits_at(found.t[hits], enter[hits], cosine)


@pytest.mark.parametrize("name", ["torus", "two spheres"])
def test_tracer_against_tiny_steps_and_bisection(name):
    """The twin finds the zero to 1e-9; the tracer stops within its threshold of it."""
    sdf, rays = SOLIDS[name], rays_inwards(60, seed=2, spread=0.35, dtype=DOUBLE)
    found = trace_reference(sdf, rays)
    num_hits = 0
    for row in torch.nonzero(rays.sphere_mask)[:24, 0].tolist():
        expected = slow_first_hit(sdf, rays.origins_obj[row], rays.dirs_obj[row],
                                  (rays.t_near[row].item(), rays.t_far[row].item()), step=4e-3)
        assert found.hit_mask[row] == (expected is not None)
        if expected is None:
            continue
        num_hits += 1
        at = torch.tensor([expected], dtype=DOUBLE)
        assert_hits_at(found.t[row:row + 1], at, slope_at(sdf, rays[row:row + 1], at))
    assert num_hits >= 5


def test_hits_lie_on_the_surface_also_where_the_march_gets_stuck_inside():
    """2.6 times too steep outside, the first steps end inside though half is taken back, and 0.1
    times too flat inside, they do not get out again: such rays must be sampled from where they were
    last outside. On a line kinked 26 to 1, 8 steps of false position leave 5e-3, a quarter of the
    spacing of the samples; stuck rays were 0.1 deep."""
    ball = solids.sphere(0.6, (0.1, 0.0, -0.1))

    def uneven(points):
        return torch.where(ball(points) > 0, 2.6, 0.1) * ball(points)

    rays = rays_inwards(500, seed=3, spread=0.35, dtype=DOUBLE)
    found, true = trace_reference(uneven, rays), trace_reference(ball, rays)
    hits = found.hit_mask
    assert int(hits.sum()) > 100 and true.hit_mask[hits].all()
    assert (ball(rays.points(found.t))[hits].abs() < 5e-3).all()


def test_rays_that_begin_inside_hit_where_they_begin():
    dirs = unit(torch.randn(50, 3, generator=torch.Generator().manual_seed(6)).double())
    rays = make_rays(torch.full((50, 3), 0.05, dtype=DOUBLE), dirs)
    found = trace_reference(solids.sphere(0.5), rays)
    assert found.hit_mask.all()
    assert torch.equal(found.t, torch.zeros(50, dtype=DOUBLE))
    # the same where the solid sticks out of the unit sphere: at the sphere's entrance
    rays = rays_inwards(300, seed=7, dtype=DOUBLE)
    found = trace_reference(solids.sphere(1.2), rays)
    assert torch.equal(found.hit_mask, rays.sphere_mask)
    assert torch.equal(found.t, rays.t_near)


def test_no_surface_no_hits():
    """The least SDF along a ray marks the miss. (|x| + 1) / 1000 is least at the closest approach;
    its march is so slow that all rays are sampled, at 100 points of what is left of the chord."""
    rays = rays_inwards(300, seed=4, dtype=DOUBLE)
    found = trace_reference(lambda points: (points.norm(dim=-1) + 1) / 1000, rays)
    assert not found.hit_mask.any()
    closest = -(rays.origins_obj * rays.dirs_obj).sum(-1)
    error = (found.t - closest).abs()
    assert (error <= 0.5 * (rays.t_far - rays.t_near) / 99 + 1e-9)[rays.sphere_mask].all()
    assert torch.equal(found.t[~rays.sphere_mask], rays.t_near[~rays.sphere_mask])
    # a fast march whose ends pass each other is a miss as well
    assert not trace_reference(lambda points: points.norm(dim=-1) + 0.3, rays).hit_mask.any()


def test_what_lies_outside_the_unit_sphere_is_not_traced():
    evaluated = []

    def recorded(points):
        evaluated.append(points)
        return solids.sphere(0.4, (0.0, 0.0, 0.7))(points)

    rays = rays_inwards(400, seed=5, spread=0.9, dtype=DOUBLE)
    result = trace_reference(recorded, rays)
    assert not result.hit_mask[~rays.sphere_mask].any()
    assert result.num_evaluations == sum(len(points) for points in evaluated)
    assert not trace_reference(recorded, rays[torch.tensor([], dtype=torch.long)]).hit_mask.any()


def test_minimum_sdf_against_the_closest_approach():
    """|x - c| - r along a ray is least at the foot of c; the samples are a chord / (S - 1) apart,
    and the foot may lie outside the chord, whose nearer end is the least point then."""
    centre = torch.tensor([0.2, 0.1, -0.3], dtype=DOUBLE)
    rays = rays_inwards(400, seed=8, dtype=DOUBLE)
    t = minimum_sdf_reference(solids.sphere(0.3, centre.tolist()), rays, 40)
    foot = ((centre - rays.origins_obj) * rays.dirs_obj).sum(-1)
    expected = foot.clamp(min=rays.t_near, max=rays.t_far)
    spacing = (rays.t_far - rays.t_near) / 39
    assert ((t - expected).abs() <= 0.5 * spacing + 1e-12).all()
    assert float(spacing.max()) > 0.03


def test_the_reference_tracer_searches_every_ray():
    rays = rays_inwards(30, seed=8, dtype=DOUBLE)
    tracer, sdf = ReferenceTracer(25), SOLIDS["sphere"]
    index, points = tracer.minimum_sdf(sdf, rays, rays.sphere_mask, torch.full((30,), 0.1))
    assert torch.equal(index, torch.arange(30))
    assert torch.equal(points, rays.points(minimum_sdf_reference(sdf, rays, 25)))
    assert torch.equal(tracer.trace(sdf, rays).t, trace_reference(sdf, rays).t)
    found = tracer.trace(sdf, rays)
    points, t = tracer.hits(sdf, rays, found)
    newton = found.t - sdf(rays.points(found.t)) / slope_at(sdf, rays, found.t)
    expected = torch.where(found.hit_mask, newton, found.t)
    torch.testing.assert_close(t, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(points, rays.points(expected), atol=1e-12, rtol=0)


def test_the_reference_tracer_takes_a_view_at_a_time():
    seen = []

    def sdf(points):
        seen.append(len(points))
        return SOLIDS["sphere"](points)

    rays, limits = rays_inwards(30, seed=8, dtype=DOUBLE), torch.full((30,), 0.1)
    parts, whole = ReferenceTracer(25, rays_at_once=7), ReferenceTracer(25)
    found, expected = parts.trace(sdf, rays), whole.trace(SOLIDS["sphere"], rays)
    assert torch.equal(found.t, expected.t) and torch.equal(found.hit_mask, expected.hit_mask)
    assert found.num_evaluations == expected.num_evaluations and max(seen) <= 7 * 100
    index, points = parts.minimum_sdf(sdf, rays, rays.sphere_mask, limits)
    assert torch.equal(points, whole.minimum_sdf(sdf, rays, rays.sphere_mask, limits)[1])
    none = rays[torch.tensor([], dtype=torch.long)]
    assert len(parts.trace(sdf, none).t) == 0
    assert len(parts.minimum_sdf(sdf, none, none.sphere_mask, limits[:0])[1]) == 0


def test_tracer_of_the_flags():
    assert isinstance(make_tracer(TracingConfig(tracer="fast")), FastTracer)
    plain = make_tracer(TracingConfig(tracer="reference", rt_num_mask_steps=17))
    assert isinstance(plain, ReferenceTracer) and plain.num_mask_samples == 17


class Moved(torch.nn.Module):
    """A sphere whose centre and radius are parameters, in the place of a network."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = torch.nn.Parameter(torch.tensor([0.1, -0.1, 0.2], dtype=DOUBLE))
        self.radius = torch.nn.Parameter(torch.tensor(0.5, dtype=DOUBLE))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return (points - self.centre).norm(dim=-1) - self.radius


def sphere_hits(origins, dirs, centre, radius) -> torch.Tensor:
    """(R, 3) first hits in closed form; differentiable in everything, directions of any length."""
    offset = origins - centre
    a, b = dirs.square().sum(-1), (offset * dirs).sum(-1)
    t = (-b - (b ** 2 - a * (offset.square().sum(-1) - radius ** 2)).sqrt()) / a
    return origins + t[:, None] * dirs


def exact(sdf, rays: Rays, t: torch.Tensor) -> torch.Tensor:
    """Traced distances with Newton's steps to rounding: what is left of the gradient's error."""
    with torch.no_grad():
        for _ in range(4):
            t = t - sdf(rays.points(t)) / slope_at(sdf, rays, t)
    return t


def test_differentiable_hit_against_the_closed_form():
    """All derivatives of the sphere's hits: centre, radius, origins, directions. The formula is
    first order about a point on the surface: exact up to rounding there, cosines over 0.1."""
    sdf, rays = Moved(), rays_inwards(300, seed=9, spread=0.3, dtype=DOUBLE)
    rays = rays[trace_reference(sdf, rays).hit_mask]
    rays = rays[slope_at(sdf, rays, trace_reference(sdf, rays).t).abs() > 0.1]
    inputs = [rays.origins_obj.clone().requires_grad_(True),
              rays.dirs_obj.clone().requires_grad_(True)]
    t = exact(sdf, rays, trace_reference(sdf, rays).t)
    slope = slope_at(sdf, rays, t)
    wanted = [*inputs, sdf.centre, sdf.radius]
    points = differentiable_hits(sdf, make_rays(*inputs), t, slope)
    expected = sphere_hits(*inputs, sdf.centre, sdf.radius)
    torch.testing.assert_close(points, expected, atol=1e-10, rtol=0)
    weights = torch.randn(points.shape, generator=torch.Generator().manual_seed(0)).double()
    found = torch.autograd.grad((points * weights).sum(), wanted)
    for ours, true in zip(found, torch.autograd.grad((expected * weights).sum(), wanted)):
        torch.testing.assert_close(ours, true, atol=1e-8, rtol=1e-8)


def small_siren() -> SirenSDF:
    """A narrow sine network in float64 whose surface is a wavy ball."""
    torch.manual_seed(3)
    net = SirenSDF(SdfArchitecture(hidden_dims=16, hidden_layers=1)).double()
    forward = net.forward
    net.forward = lambda points: points.norm(dim=-1) - 0.55 + 0.02 * forward(points)
    return net


@pytest.mark.parametrize("which", ["view", "network"])
def test_differentiable_hit_against_finite_differences(which):
    """Central differences of the hit itself, traced anew and settled to rounding: step 1e-5 leaves
    1e-10 of truncation times third derivatives (sine network of frequency 30: 1e-5 relative)."""
    net, cameras = small_siren(), cameras_at([(1.5, 1.0, 2.5)], (5, 4))
    weights = torch.randn(20, 3, generator=torch.Generator().manual_seed(1)).double()
    inputs = {"view": cameras.view.clone().requires_grad_(True), "network": net.layers[1].weight}

    def rays_of(view: torch.Tensor) -> Rays:
        moved = Cameras(view, cameras.projection, cameras.model, cameras.resolution)
        return make_rays(*(x.reshape(-1, 3) for x in moved.pixel_rays()))

    def traced(rays: Rays) -> torch.Tensor:
        found = trace_reference(net, rays)
        return exact(net, rays, found.t)

    rays = rays_of(inputs["view"])
    hits = trace_reference(net, rays).hit_mask
    hits &= slope_at(net, rays, traced(rays)).abs() > 0.3
    assert int(hits.sum()) >= 6

    def value(rays: Rays) -> torch.Tensor:
        return (rays.points(traced(rays)) * weights)[hits].sum()

    t = traced(rays)[hits]
    points = differentiable_hits(net, rays[hits], t, slope_at(net, rays[hits], t).detach())
    (found,) = torch.autograd.grad((points * weights[hits]).sum(), inputs[which])
    variable = inputs[which].detach()
    entries = [(0, 0, 0), (0, 1, 2), (0, 2, 3)] if which == "view" else [(0, 0), (3, 7), (12, 5)]
    for entry in entries:
        values = []
        for sign in (1, -1):
            variable[entry] += sign * 1e-5
            values.append(value(rays_of(inputs["view"].detach())))
            variable[entry] -= sign * 1e-5
        expected = float(values[0] - values[1]) / 2e-5
        assert float(found[entry]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert math.isfinite(expected) and expected != 0


def test_flat_slopes_are_kept_away_from_zero_with_their_sign():
    """x moves by -d Phi / g: with |g| under the least by Phi over the least; g >= 0 counts as +."""
    rays = make_rays(*(torch.tensor([[0.0, 0, 2], [0, 0, 2], [0, 0, 2], [0, 0, 2]]).double(),
                       torch.tensor([[0.0, 0, -1]]).double().expand(4, 3)))
    value = 1e-3
    slope = torch.tensor([1e-5, -1e-5, 0.0, -0.5], dtype=DOUBLE)
    t = torch.full((4,), 1.5, dtype=DOUBLE)
    points = differentiable_hits(lambda points: points[:, 0] * 0 + value, rays, t, slope)
    g = torch.tensor([MIN_DERIVATIVE, -MIN_DERIVATIVE, MIN_DERIVATIVE, -0.5], dtype=DOUBLE)
    torch.testing.assert_close(points[:, 2], 2 - (t - value / g), atol=1e-12, rtol=0)


def test_points_that_would_leave_the_unit_sphere_stay_without_gradient():
    """Rays that begin deep inside: Phi / g is no small step, and may lead anywhere."""
    sdf = Moved()
    rays = make_rays(torch.tensor([[0.1, -0.1, 0.3], [0.1, -0.1, 2.0]]).double(),
                     torch.tensor([[0.0, 0, 1], [0, 0, -1]]).double())
    t, slope = torch.tensor([0.0, 1.2999], dtype=DOUBLE), torch.tensor([1.0, -1.0], dtype=DOUBLE)
    moved = differentiable_hits(sdf, rays, t, slope)
    assert moved[0].tolist() == pytest.approx([0.1, -0.1, 0.7])
    stays = differentiable_hits(sdf, rays, t, torch.tensor([-1.0, -1.0], dtype=DOUBLE))
    assert stays[0].tolist() == pytest.approx([0.1, -0.1, 0.3])
    (grad,) = torch.autograd.grad(stays[:, 2].sum(), sdf.radius)
    assert float(grad) == pytest.approx(1.0)               # of the second ray alone


def test_no_gradient_flows_through_the_slope_or_the_march():
    sdf, rays = Moved(), rays_inwards(40, seed=10, spread=0.2, dtype=DOUBLE)
    found = trace_reference(sdf, rays)
    assert not found.t.requires_grad
    hits = rays[found.hit_mask]
    t = found.t[found.hit_mask].requires_grad_(True)
    slope = torch.full_like(t, -0.8).requires_grad_(True)
    points = differentiable_hits(sdf, hits, t, slope)
    grads = torch.autograd.grad(points.sum(), [t, slope, sdf.radius], allow_unused=True)
    assert grads[0] is None and grads[1] is None and grads[2] is not None
