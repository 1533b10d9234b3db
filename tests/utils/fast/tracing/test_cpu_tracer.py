"""The fast tracer against the plain one, on analytic solids and on sine networks."""
from __future__ import annotations

import pytest
import torch
from support.sine_networks import fast_tracer, sine_network
from support.tracing_cases import SOLIDS, THIN, rays_at_thin, rays_inwards, unit

from data_processing.synthetic import analytic_sdf as solids
from data_processing.synthetic.scene_kinds import axis_rotation
from modules import SdfArchitecture
from modules_sdf import SirenSDF, build_sdf
from sdf_rendering import (
    ReferenceTracer,
    differentiable_hits,
    minimum_sdf_reference,
    trace_reference,
)
from utils.fast.siren.evaluator import ChunkedSdf
from utils.fast.tracing.cpu_tracer import FastTracer
from utils.fast.tracing.network_passes import has_analytic_gradients
from utils.fast.tracing.sdf_grid import BAND, build_grid
from utils.geometry.rays import Rays, make_rays
from utils.geometry.sdf import SDF_THRESHOLD, gradient

TILT = axis_rotation(unit(torch.tensor([0.3, -0.8, 0.5])), 0.8)
CASES = SOLIDS | {"tilted plate": solids.moved(solids.box((0.5, 0.4, 0.01)), TILT,
                                               (0.05, -0.08, 0.02))}


def slopes_at(sdf, rays: Rays, t: torch.Tensor) -> torch.Tensor:
    """(R,) |<grad, d>|."""
    return (gradient(sdf, rays.points(t))[1] * rays.dirs_obj).sum(-1).abs()


def assert_same_hits(sdf, rays: Rays, *, strays: int, rounding: float = 2e-6) -> None:
    """Both tracers stop within SDF_THRESHOLD of the surface, on either side: along the ray they are
    twice that over the slope apart, 1.5 for its change on the way.

    Args:
        strays: rays that may find another surface or none: those that graze within the threshold,
            and on networks that are steeper than 1 those where one march steps over a bump.
        rounding: of the SDF's float32 sums.
    """
    plain, fast = trace_reference(sdf, rays), fast_tracer().trace(sdf, rays)
    both = plain.hit_mask & fast.hit_mask
    assert int(both.sum()) > 200
    assert (sdf(rays.points(fast.t))[fast.hit_mask].abs() <= SDF_THRESHOLD + rounding).all()
    slope = torch.minimum(slopes_at(sdf, rays, plain.t), slopes_at(sdf, rays, fast.t))
    clear = both & (slope > 0.1)
    assert int(clear.sum()) > 0.9 * int(both.sum())
    far = (plain.t - fast.t).abs() > 3 * (SDF_THRESHOLD + rounding) / slope
    assert int(((plain.hit_mask ^ fast.hit_mask) | (clear & far)).sum()) <= strays


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_same_hits_on_analytic_solids(name, dtype):
    rays = rays_inwards(1200, seed=11, spread=0.4, dtype=dtype)
    assert_same_hits(CASES[name], rays, strays=1)


@pytest.mark.parametrize("name", THIN)
def test_thin_parts_are_not_stepped_through(name):
    """At most 1 % of the plain tracer's hits are lost: those that clip a rim."""
    sdf, rays = THIN[name][0], rays_at_thin(name, 2000, seed=4)
    plain, found = trace_reference(sdf, rays), fast_tracer().trace(sdf, rays)
    assert int(plain.hit_mask.sum()) > 1000
    assert (plain.hit_mask & ~found.hit_mask).sum() <= 0.01 * plain.hit_mask.sum()
    assert (sdf(rays.points(found.t))[found.hit_mask].abs() <= SDF_THRESHOLD + 2e-6).all()


@pytest.mark.parametrize("noise, seed", [(0.0, 0), (0.03, 1), (0.05, 2)])
def test_same_hits_on_sine_networks(noise, seed):
    """The shipped sphere, and bent and bumpy ones. Float32 sums of 128 terms of order one round to
    some 1e-6, differently in batches of another size."""
    with torch.no_grad():
        net = sine_network(noise, seed)
    rays = rays_inwards(1200, seed=seed, spread=0.4)
    assert_same_hits(net, rays, strays=3 if noise else 0, rounding=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_rays_that_graze_are_settled_without_the_plain_tracer(name):
    """A plain tracer that would be 100 evaluations a ray: it is not asked at all. Those that hit
    are on the surface, and the others pass it: found by the slow march of 2e-3 steps."""
    def plain(sdf, rays):
        raise AssertionError(f"{len(rays)} rays were handed to the plain tracer")

    rays = rays_inwards(400, seed=18, spread=0.4)
    tracer = FastTracer(differentiable_hits, 40, lambda sdf: sdf, reference=plain)
    found = tracer.trace(CASES[name], rays)
    t = rays.t_near[:, None] + (rays.t_far - rays.t_near)[:, None] * torch.linspace(0, 1, 1000)
    inside = CASES[name](rays.points(t).reshape(-1, 3)).reshape(t.shape) < -1e-3
    assert found.hit_mask[inside.any(-1)].all()
    first = t.gather(1, inside.int().argmax(-1, keepdim=True))[:, 0]
    hits = inside.any(-1) & rays.sphere_mask
    assert int(hits.sum()) > 100 and (found.t <= first)[hits].all()


def test_evaluations_are_counted_and_few():
    """Counted, not timed. The grid is sampled once for all rays of the same weights; then a hit
    takes one to five evaluations, and a miss none, where the march takes up to 22 and 100."""
    counted = []

    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, points):
            counted.append(len(points))
            return SOLIDS["sphere"](points)

    sdf, rays, tracer = Counting(), rays_inwards(3000, seed=12, spread=0.4), fast_tracer()
    first = tracer.trace(sdf, rays)
    assert first.num_evaluations == sum(counted)
    counted.clear()
    again = tracer.trace(sdf, rays)
    assert again.num_evaluations == sum(counted)
    assert torch.equal(first.t, again.t)
    assert again.num_evaluations < 0.1 * trace_reference(sdf, rays).num_evaluations
    counted.clear()
    tracer.forget()
    tracer.trace(sdf, rays)
    assert sum(counted) == first.num_evaluations


def test_new_weights_are_noticed():
    """The grid is kept while weights stay, sampled anew after a step or another state."""
    torch.manual_seed(0)
    net, tracer = sine_network(0.0), fast_tracer()
    rays = rays_inwards(200, seed=13, spread=0.2)
    before = tracer.trace(net, rays).t
    assert torch.equal(tracer.trace(net, rays).t, before)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    (net(rays.points(before)) + 0.1).square().mean().backward()
    optimizer.step()
    moved = tracer.trace(net, rays)
    assert (moved.t - before)[moved.hit_mask].abs().max() > 1e-3
    assert torch.equal(moved.t, fast_tracer().trace(net, rays).t)
    net.load_state_dict(state)
    assert torch.equal(tracer.trace(net, rays).t, before)


def test_another_network_is_another_surface():
    tracer, rays = fast_tracer(), rays_inwards(100, seed=13, spread=0.2)
    for radius in (0.3, 0.5, 0.4):
        found = tracer.trace(solids.sphere(radius), rays)
        assert torch.equal(found.t, fast_tracer().trace(solids.sphere(radius), rays).t)
    for noise in (0.0, 0.03, 0.05):
        net = sine_network(noise)
        assert torch.equal(tracer.trace(net, rays).t, fast_tracer().trace(net, rays).t)


@pytest.mark.parametrize("sdf, hits", [(lambda points: points.norm(dim=-1) + 0.2, False),
                                       (lambda points: points[:, 0] * 0 + 0.5, False),
                                       (lambda points: points[:, 0] * 0 - 0.5, True)])
def test_no_surface_and_all_solid(sdf, hits):
    """Where all is solid, rays hit where they enter the unit sphere, as in the plain tracer."""
    rays = rays_inwards(300, seed=14)
    found = fast_tracer().trace(sdf, rays)
    assert torch.equal(found.hit_mask, rays.sphere_mask & hits)
    if hits:
        assert torch.equal(found.t[rays.sphere_mask], rays.t_near[rays.sphere_mask])


@pytest.mark.parametrize("name", CASES)
def test_rays_that_begin_inside_hit_where_they_begin(name):
    sdf, generator = CASES[name], torch.Generator().manual_seed(15)
    points = (torch.rand(60_000, 3, generator=generator) * 2 - 1) * 0.7
    points = points[sdf(points) < -5e-3][:100]
    rays = make_rays(points, unit(torch.randn(len(points), 3, generator=generator)))
    assert len(rays) >= 50
    found = fast_tracer().trace(sdf, rays)
    assert found.hit_mask.all()
    # what is less deep than the grid's error may be taken for outside, and its near surface found
    error = build_grid(sdf, points).error
    assert not found.t[sdf(points) < -error].any()
    assert found.t.abs().max() < 4 * error


def test_no_rays_and_rays_past_the_sphere():
    tracer, rays = fast_tracer(), rays_inwards(400, seed=16, spread=1.0)
    none = tracer.trace(SOLIDS["box"], rays[torch.tensor([], dtype=torch.long)])
    assert none.t.shape == none.hit_mask.shape == (0,)
    past = rays[~rays.sphere_mask]
    assert len(past) > 20
    assert not tracer.trace(solids.sphere(2.0), past).hit_mask.any()


@pytest.mark.parametrize("name", CASES)
def test_minimum_sdf_keeps_all_rays_that_matter(name):
    """Left out are only rays that do not count or stay `ignore_above` away. The point found is as
    good as the plain one's to twice the grid's error (once for each of two samples compared), but
    the grid is coarse far from the surface: there both are far, on the same side."""
    sdf, rays, above = CASES[name], rays_inwards(800, seed=17), 0.1
    counts = rays.sphere_mask & (torch.arange(800) % 3 > 0)
    on_mask = torch.arange(800) % 5 == 0                    # these are never left out
    limits = torch.where(on_mask, torch.inf, above)
    index, points = fast_tracer().minimum_sdf(sdf, rays, counts, limits)
    assert counts[index].all() and len(set(index.tolist())) == len(index)
    best = sdf(rays.points(minimum_sdf_reference(sdf, rays, 40)))
    matter = counts & ((best < above - 1e-3) | on_mask)
    assert int(matter.sum()) > 100
    assert set(matter.nonzero()[:, 0].tolist()) <= set(index.tolist())
    error = build_grid(sdf, rays.t_near).error
    found, least = sdf(points), best[index]
    assert (found - least <= 2 * error + 1e-6)[least.abs() < BAND].all()
    assert (found[least < -BAND] < -0.8 * BAND).all() and (found >= least - 1e-6).all()
    far = counts & ~on_mask & (best > above + 2 * error + 0.02)
    assert int(far.sum()) > 20 and not far[index].any()
    on_ray = points - rays.origins_obj[index]
    along = (on_ray * rays.dirs_obj[index]).sum(-1, keepdim=True) * rays.dirs_obj[index]
    torch.testing.assert_close(on_ray, along, atol=2e-6, rtol=0)


def leaf_grads(net: torch.nn.Module, value: torch.Tensor) -> list[torch.Tensor]:
    """Gradients in all parameters."""
    return list(torch.autograd.grad(value, list(net.parameters())))


def small_network() -> SirenSDF:
    """Two hidden sine layers of 8, float64."""
    torch.manual_seed(4)
    return SirenSDF(SdfArchitecture(hidden_layers=1, hidden_dims=8)).double()


class OpenChain(SirenSDF):
    """The same network, whose gradients nothing knows to be analytic."""

    is_chain = property(lambda self: False, lambda self, value: None)


def square_of_excess(gradients: torch.Tensor) -> torch.Tensor:
    """(|grad| - 1)^2, as the eikonal term."""
    return (gradients.norm(dim=-1) - 1).square()


def tanh_of(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A curved function of values, and a weight for each."""
    return torch.tanh(3 * values) * weight


@pytest.mark.parametrize("kind", [SirenSDF, OpenChain])
@pytest.mark.parametrize("count", [0, 1, 700, 5000])
def test_evaluations_for_losses_match_those_of_the_plain_tracer(kind, count):
    """Values, slopes, sums of values and of gradients, and what they pass back, in float64 to 1e-9:
    other orders of addition, and gradients analytic in place of automatic differentiation. 5,000
    points fill several chunks of each thread, 700 not one."""
    torch.manual_seed(4)
    net = kind(SdfArchitecture(hidden_layers=2, hidden_dims=8, feature_vector=2)).double()
    fast, plain = fast_tracer(), ReferenceTracer()
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(count, 3, generator=generator) * 2 - 1).double()
    dirs = unit(torch.randn(count, 3, generator=generator).double())
    close = {"atol": 1e-9, "rtol": 1e-9}
    known = fast._value_and_derivative(net, points, dirs)
    value, grad = gradient(net, points, create_graph=False)
    torch.testing.assert_close(known, (value, (grad * dirs).sum(-1)), **close)
    if count:                                                          # without a pass forward
        by_gradient = FastTracer(differentiable_hits, 40, ChunkedSdf, reference=trace_reference)
        torch.testing.assert_close(by_gradient._value_and_derivative(net, points, dirs), known,
                                   **close)
    weights = torch.rand(count, generator=generator).double()
    results = []
    for tracer in (fast, plain):
        variable = points.clone().requires_grad_(True)
        of_points = tracer.sum_of_values(net, tanh_of, variable, weights)
        (point_grad,) = torch.autograd.grad(of_points, variable, retain_graph=True)
        of_values = tracer.sum_of_values(net, tanh_of, points, weights)
        of_gradients = tracer.sum_of_gradients(net, square_of_excess, points)
        unused = 0.0 * net(points[:1]).sum()
        results.append([of_points, point_grad, *leaf_grads(net, 0.3 * of_points),
                        of_values, *leaf_grads(net, 0.3 * of_values),
                        of_gradients, *leaf_grads(net, 0.3 * of_gradients + unused)])
    for ours, true in zip(*results, strict=True):
        torch.testing.assert_close(ours, true, **close)


def test_analytic_gradients_are_used_where_they_can_be():
    net, points = small_network(), torch.zeros(2, 3)
    assert has_analytic_gradients(net, points)
    assert not has_analytic_gradients(lambda x: x.norm(dim=-1), points)
    assert not has_analytic_gradients(net, points.to("meta"))
    assert not has_analytic_gradients(OpenChain(SdfArchitecture(hidden_dims=8)), points)
    skipping = build_sdf(SdfArchitecture(hidden_dims=8, skips=((0, 2),)))
    assert not has_analytic_gradients(skipping, points)


@pytest.mark.parametrize("threads", [1, 2])
def test_float32_gradients_agree_to_its_rounding(threads):
    """numpy's sine for torch's, omega in the weights: phases of order 30 carry 4e-6, sums over
    3,000 points of terms up to 30 stay within 2e-4 of their size."""
    torch.manual_seed(0)
    net = SirenSDF(SdfArchitecture())
    points = torch.rand(3000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = leaf_grads(net, fast_tracer().sum_of_gradients(net, square_of_excess, points))
        again = leaf_grads(net, fast_tracer().sum_of_gradients(net, square_of_excess, points))
    finally:
        torch.set_num_threads(before)
    true = leaf_grads(net, ReferenceTracer().sum_of_gradients(net, square_of_excess, points)
                      + 0.0 * net(points[:1]).sum())
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    for ours, exact in zip(found, true, strict=True):
        assert (ours - exact).norm() <= 2e-4 * exact.norm()


def test_frozen_layers_get_no_gradient():
    net, points = small_network(), torch.rand(300, 3).double()
    net.layers[0].requires_grad_(False)
    fast_tracer().sum_of_gradients(net, square_of_excess, points).backward()
    assert net.layers[0].weight.grad is None and net.layers[1].weight.grad.abs().sum() > 0
