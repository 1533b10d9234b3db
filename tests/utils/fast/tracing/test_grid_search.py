"""Hits settled by Newton steps, and what happens where nothing can be settled."""
from __future__ import annotations

import pytest
import torch
from support.sine_networks import fast_tracer, sine_network
from support.tracing_cases import rays_inwards, slow_first_hit

from data_processing.synthetic import analytic_sdf as solids
from utils.fast.siren.evaluator import ChunkedSiren
from utils.fast.tracing.grid_march import march_grid
from utils.fast.tracing.sdf_grid import build_grid
from utils.geometry.rays import make_rays
from utils.geometry.sdf import SDF_THRESHOLD, gradient


@pytest.mark.parametrize("noise, seed", [(0.0, 0), (0.05, 2)])
def test_tangents_are_those_of_the_network_and_lead_to_the_hits(noise, seed):
    """Known where Newton steps settled, evaluated elsewhere; by automatic differentiation here."""
    net, rays, tracer = sine_network(noise, seed), rays_inwards(1200, seed=5), fast_tracer()
    found = tracer.trace(net, rays)
    hits = found.hit_mask.nonzero()[:, 0]
    known, rays, t = found.tangents[hits], rays[hits], found.t[hits]
    assert found.tangents.derivative[~found.hit_mask].isnan().all()
    share = (~known.derivative.isnan()).float().mean()
    assert share > 0.9 if not noise else 0.2 < share < 1
    at = tracer._tangents(net, rays, t, known)
    value, grad = gradient(net, rays.points(at.t), create_graph=False)
    # float32: sums of 128 terms of order one, and slopes of up to 30 a layer
    torch.testing.assert_close(at.value, value.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(at.derivative, (grad * rays.dirs_obj).sum(-1), atol=1e-3, rtol=0)
    steep = at.derivative < -0.1
    landed = (at.t - at.value / at.derivative)[steep]
    assert ((landed - t[steep]).abs() <= 1e-3).all()
    on_the_way = (at.t != t) & steep
    assert int(on_the_way.sum()) > 100
    assert (net(rays.points(t))[on_the_way].abs() <= SDF_THRESHOLD + 1e-5).all()
    whole = tracer._tangents(net, rays, t, None)
    torch.testing.assert_close(whole.value, net(rays.points(t)), atol=1e-5, rtol=0)
    assert torch.equal(whole.t, t)


def test_most_hits_are_settled_by_one_evaluation_of_value_and_derivative(monkeypatch):
    """The refined grid leads so near that a Newton step ends within 2.5e-4 of the hit."""
    net, rays, counts = sine_network(0.05, 2), rays_inwards(3000, seed=5), []
    whole = ChunkedSiren.value_and_derivative

    def counted(self, points, dirs):
        counts.append(len(points))
        return whole(self, points, dirs)

    monkeypatch.setattr(ChunkedSiren, "value_and_derivative", counted)
    found = fast_tracer().trace(net, rays)
    assert counts[0] > 0.8 * int(found.hit_mask.sum()) > 500
    assert counts[1] < 0.35 * counts[0]


def test_a_ray_may_graze_several_surfaces_before_it_enters_one():
    """Between two balls by less than the grid's error and into a third; 0.0015 into either."""
    balls = [solids.sphere(0.15, (0.0, 0.15, -0.6)), solids.sphere(0.15, (0.0, -0.154, -0.1)),
             solids.sphere(0.2, (0.02, 0.0, 0.5))]
    sdf = solids.union(*balls)
    heights = torch.tensor([-0.002, 0.0015, -0.0055])
    origins = torch.stack([torch.zeros(3), heights, torch.full((3,), -2.0)], 1)
    rays = make_rays(origins, torch.tensor([0.0, 0.0, 1.0]).expand(3, 3))
    grid = build_grid(sdf, torch.zeros(0))
    march = march_grid(grid, rays, rays.t_near)
    assert grid.error > 2e-3 and int((march.graze_rows == 0).sum()) == 2
    found = fast_tracer().trace(sdf, rays)
    expected = [slow_first_hit(sdf, origin, rays.dirs_obj[0], (1.0, 3.0), step=5e-4)
                for origin in origins]
    assert found.hit_mask.all()
    # within SDF_THRESHOLD of the surface, at slopes of 0.14 and more
    torch.testing.assert_close(found.t, torch.tensor(expected), atol=SDF_THRESHOLD / 0.1, rtol=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("layer", [0, -1])
def test_a_network_that_is_not_finite_ends_the_trace(layer, value):
    """With misses, or hits that the losses' check finds: a march must not go on for ever."""
    net, rays = sine_network(0.0), rays_inwards(300, seed=6)
    with torch.no_grad():
        net.layers[layer].weight[0, 0] = value
    found = fast_tracer().trace(net, rays)
    assert found.t.shape == (300,) and not found.hit_mask[~rays.sphere_mask].any()


def test_a_surface_that_leaves_the_sphere_is_not_hit_beyond_it():
    """At the far end of a chord the grid's crossing may lie before it, and the SDF's after it."""
    net, rays = sine_network(0.05, 2), rays_inwards(1500, seed=9, spread=0.5)
    with torch.no_grad():
        ends = net(rays.points(rays.t_far))[rays.sphere_mask]
        for share in (0.2, 0.3, 0.4):                  # of the chords that end inside
            level = ends.quantile(share)
            net.layers[-1].bias -= level
            ends -= level
            found = fast_tracer().trace(net, rays)
            hits = found.hit_mask
            assert int(hits.sum()) > 200
            assert (found.t <= rays.t_far)[hits].all() and (found.t >= rays.t_near)[hits].all()
