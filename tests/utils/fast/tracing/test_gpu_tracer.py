"""The tracer for GPUs against the plain one, on the CPU; its grid, its rows, its fixed shapes."""
from __future__ import annotations

import logging

import pytest
import torch
from support.sine_networks import sine_network
from support.sync_checks import no_waiting
from support.tracing_cases import SOLIDS, THIN, rays_at_thin, rays_inwards, unit

from data_processing.synthetic import analytic_sdf as solids
from modules import SdfArchitecture
from modules_sdf import build_sdf
from sdf_rendering import make_tracer, minimum_sdf_reference, trace_reference
from utils.config.sections import TracingConfig
from utils.fast.tracing import gpu_tracer as device_tracing
from utils.fast.tracing.gpu_tracer import (
    SPACING,
    DeviceTracer,
    GridNodes,
    first_rows,
    march_masked,
    skip_empty_space,
)
from utils.fast.tracing.masked_march import march_plain
from utils.geometry.rays import Rays
from utils.geometry.sdf import SDF_THRESHOLD


def device_tracer(num_samples: int = 40) -> DeviceTracer:
    """A new one."""
    return make_tracer(TracingConfig(tracer="fast", rt_num_mask_steps=num_samples), device="meta")


def test_the_flag_gives_it_on_devices_alone():
    assert isinstance(device_tracer(17), DeviceTracer) and device_tracer(17).num_mask_samples == 17
    assert not isinstance(make_tracer(TracingConfig(tracer="fast")), DeviceTracer)
    reference = make_tracer(TracingConfig(tracer="reference"), device="meta")
    assert not isinstance(reference, DeviceTracer)


#: Solids, and sine networks by the noise on their weights (0.05 makes bumps), with the number of
#: rays that may find another surface: either march may step over an edge or a bump.
CASES = [(name, 2) for name in SOLIDS] + [(0.0, 0), (0.03, 1), (0.05, 4)]


@pytest.mark.parametrize("name, strays", CASES)
def test_hits_agree_with_the_plain_tracer(name, strays):
    """Hit or miss differs on 0.3 % of rays at most: those that pass an edge within a step, which
    are many on thin plates. Both stop within SDF_THRESHOLD of the surface: where a ray meets it at
    slope 0.1 or more they are 3 times that over 0.1 apart at most; others graze."""
    with torch.no_grad():
        sdf = SOLIDS[name] if name in SOLIDS else sine_network(name, 2)
        rays = rays_inwards(4000, seed=11, spread=0.4)
        plain, found = trace_reference(sdf, rays), device_tracer().trace(sdf, rays)
        assert (plain.hit_mask != found.hit_mask).float().mean() <= 0.003
        both = plain.hit_mask & found.hit_mask
        value = sdf(rays.points(found.t))
        step = 1e-3
        slope = (sdf(rays.points(found.t + step)) - value).abs() / step
    assert int(both.sum()) > 1000
    assert (value[found.hit_mask].abs() <= SDF_THRESHOLD + 1e-5).all()
    clear = both & (slope > 0.1)
    assert clear.sum() > 0.95 * both.sum()
    far = (plain.t - found.t).abs() > 3 * (SDF_THRESHOLD + 1e-5) / 0.1
    assert int((far & clear).sum()) <= strays
    assert ((plain.t - found.t).abs() > 1e-3)[both].float().mean() <= 0.002


@pytest.mark.parametrize("name", THIN)
def test_thin_parts_are_not_stepped_through(name):
    """At most 1 % of the plain tracer's hits are lost: those that clip a rim, or pass the rod
    within half a step."""
    sdf, rays = THIN[name][0], rays_at_thin(name, 2000, seed=4)
    plain, found = trace_reference(sdf, rays), device_tracer().trace(sdf, rays)
    assert int(plain.hit_mask.sum()) > 1000
    assert (plain.hit_mask & ~found.hit_mask).sum() <= 0.01 * plain.hit_mask.sum()
    assert (sdf(rays.points(found.t))[found.hit_mask].abs() <= SDF_THRESHOLD + 1e-5).all()


def test_the_smooth_network_meets_the_bar():
    """At most 0.1 % of hits more than 1e-3 apart, 0.3 % of rays hit on one side only."""
    with torch.no_grad():
        sdf, rays = sine_network(0.0), rays_inwards(5000, seed=5, spread=0.4)
        plain, found = trace_reference(sdf, rays), device_tracer().trace(sdf, rays)
    both = plain.hit_mask & found.hit_mask
    assert ((plain.t - found.t).abs() > 1e-3)[both].float().mean() <= 0.001
    assert (plain.hit_mask != found.hit_mask).float().mean() <= 0.003


@pytest.mark.parametrize("sdf, hits", [(lambda points: points.norm(dim=-1) + 0.2, False),
                                       (lambda points: points[:, 0] * 0 + 0.5, False),
                                       (lambda points: points[:, 0] * 0 - 0.5, True)])
def test_no_surface_and_all_solid(sdf, hits):
    rays = rays_inwards(300, seed=14)
    found = device_tracer().trace(sdf, rays)
    assert torch.equal(found.hit_mask, rays.sphere_mask & hits)
    if hits:
        assert torch.equal(found.t[rays.sphere_mask], rays.t_near[rays.sphere_mask])
    inside = (found.t >= rays.t_near) & (found.t <= rays.t_far)
    assert inside.all()                                    # also where it misses


def test_no_rays_and_rays_past_the_sphere():
    tracer, rays = device_tracer(), rays_inwards(400, seed=16, spread=1.0)
    none = tracer.trace(SOLIDS["box"], rays[torch.tensor([], dtype=torch.long)])
    assert none.t.shape == none.hit_mask.shape == (0,)
    past = rays[~rays.sphere_mask]
    assert len(past) > 20 and not tracer.trace(solids.sphere(2.0), past).hit_mask.any()


def test_evaluations_are_counted():
    counted = []

    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, points):
            counted.append(len(points))
            return SOLIDS["sphere"](points)

    sdf, rays, tracer = Counting(), rays_inwards(4000, seed=12), device_tracer()
    assert tracer.trace(sdf, rays).num_evaluations == sum(counted)
    counted.clear()
    assert tracer.trace(sdf, rays).num_evaluations == sum(counted)      # the grid is kept
    with torch.no_grad():
        sdf.weight += 1
    counted.clear()
    assert tracer.trace(sdf, rays).num_evaluations == sum(counted) > len(GridNodes(rays.t_near)
                                                                         .points)


def test_empty_space_is_left_by_known_points_outside():
    """Where the SDF takes over, the point before is outside; rays let go miss in the plain
    tracer too."""
    sdf, rays = SOLIDS["two spheres"], rays_inwards(3000, seed=7, dtype=torch.float64)
    state = skip_empty_space(GridNodes(rays.t_near).sample(sdf), rays)
    known = state.going_mask & (state.value_low > 0)
    assert int(known.sum()) > 500
    assert (sdf(rays.points(state.low))[known] > 0).all() and (state.t >= state.low)[known].all()
    let_go = ~state.going_mask
    assert int(let_go.sum()) > 1000
    assert not trace_reference(sdf, rays[let_go]).hit_mask.any()


def test_grid_knows_its_error():
    """Linear interpolation of |x| - r errs by h^2 / 8 times the sum of second derivatives, 2 / r;
    nodes that are probed lie next to the surface. All points of the sphere read sampled nodes."""
    grid = GridNodes(torch.zeros(0, dtype=torch.float64)).sample(solids.sphere(0.6))
    generator = torch.Generator().manual_seed(0)
    points = unit(torch.randn(5000, 3, generator=generator).double())
    worst = (grid(points * 0.6) - solids.sphere(0.6)(points * 0.6)).abs().max()
    assert 0 < worst <= grid.error <= 2 * SPACING ** 2 / 8 * 2 / 0.5
    inside = points * torch.rand(5000, 1, generator=generator).double() ** (1 / 3)
    away = inside[inside.norm(dim=-1) > 0.2]               # the cone's tip is not linear
    assert (grid(away) - solids.sphere(0.6)(away)).abs().max() <= SPACING ** 2 / 8 * 2 / 0.1


@pytest.mark.parametrize("mask, count, expected", [
    ([0, 1, 0, 1, 1], 2, [1, 3]), ([0, 1, 0, 1, 1], 4, [1, 3, 4, 0]), ([0, 0, 0], 2, [0, 0]),
    ([1, 1, 1], 3, [0, 1, 2])])
def test_first_rows(mask, count, expected):
    found = first_rows(torch.tensor(mask, dtype=torch.bool), count)
    assert found.tolist() == expected


def test_more_going_rays_than_places_end_as_they_stand(monkeypatch):
    """Rays without a place are misses or brackets; all others are as if there was room."""
    monkeypatch.setattr(device_tracing, "MIN_GOING", 10)
    sdf, rays = SOLIDS["thin plate"], rays_inwards(2000, seed=9, spread=0.4)
    state = skip_empty_space(GridNodes(rays.t_near).sample(sdf), rays)
    monkeypatch.setattr(device_tracing, "TIERS", ((4, 1), (60, 20)))
    found, spent = march_masked(sdf, rays, state)
    full = march_plain(sdf, rays, state, 64)
    assert spent == 4 * 2000 + 60 * 100
    going = march_plain(sdf, rays, state, 4).going_mask
    assert int(going.sum()) > 150
    kept = ~going | (going.cumsum(0) <= 100)
    assert torch.equal(found.hit_mask[kept], full.hit_mask[kept])
    assert torch.equal(found.t[kept], full.t[kept])


def test_minimum_sdf_is_that_of_the_plain_search():
    """All rays come back. The points are as good as the plain ones to twice the grid's error, which
    is greatest in the torus's core: there the SDF is a cone, whose tip the grid cuts off by half a
    spacing at most."""
    sdf, rays = SOLIDS["torus"], rays_inwards(800, seed=17)
    tracer = device_tracer(25)
    index, points = tracer.minimum_sdf(sdf, rays, rays.sphere_mask, torch.full((800,), 0.1))
    assert torch.equal(index, torch.arange(800))
    best = sdf(rays.points(minimum_sdf_reference(sdf, rays, 25)))
    inside = rays.sphere_mask
    assert (sdf(points) - best)[inside].max() <= SPACING
    assert (sdf(points) - best)[inside].min() >= -1e-6


def test_nothing_is_asked_of_the_device(monkeypatch):
    monkeypatch.setattr(device_tracing, "TIERS", ((2, 1), (2, 2)))     # slow without values
    monkeypatch.setattr(device_tracing, "NUM_GRID_STEPS", 2)
    net = build_sdf(SdfArchitecture(hidden_dims=16, hidden_layers=1)).to("meta")
    rays = Rays(*(x.to("meta") for x in vars(rays_inwards(50)).values()))
    tracer = device_tracer(4)
    tracer._prepare(net, rays.t_near)
    tracer.forget()
    with no_waiting() as watch:
        found = tracer.trace(net, rays)
        index, points = tracer.minimum_sdf(net, rays, rays.sphere_mask, rays.t_near)
        hits, t = tracer.hits(net, rays, found)
        (hits.sum() + tracer.sum_of_values(net, torch.square, points)).backward()
    assert found.t.shape == found.hit_mask.shape == index.shape == t.shape == (50,)
    assert {"topk", "cumsum", "grid_sampler_3d"} <= watch.seen


def test_absent_triton_is_one_line_that_says_how(monkeypatch, caplog):
    monkeypatch.setattr(device_tracing.importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO):
        device_tracer()
    assert len(caplog.records) == 1 and "pip install triton" in caplog.text
