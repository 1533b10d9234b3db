"""Marching on a grid: ray by ray in machine code against all rays at once, and by hand."""
from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from support.sine_networks import sine_network
from support.tracing_cases import rays_inwards

from utils.fast.siren.evaluator import ChunkedSiren
from utils.fast.tracing import grid_march, sdf_grid
from utils.fast.tracing.grid_march import least_on_rays, march_grid
from utils.fast.tracing.sdf_grid import SdfGrid, build_grid, second_differences
from utils.geometry.rays import make_rays


@pytest.fixture
def plainly(monkeypatch):
    """Calls a function without compiled loops."""
    pytest.importorskip("numba", reason="compiled loops need numba")

    def call(function, *args):
        with monkeypatch.context() as patched:
            for module in (grid_march, sdf_grid):
                patched.setattr(module, "loops_for", lambda *_: None)
            return function(*args)
    return call


def grid_of(values, error=0.0):
    values = values.reshape(1, 1, *values.shape)
    return SdfGrid(values, second_differences(values), error)


def along_z(z):
    """A grid whose values depend on z alone, (n,)."""
    return z[:, None, None].expand(-1, len(z), len(z)).contiguous()


def upwards(*x):
    """Rays along z through the middle of y, from below the unit sphere."""
    origins = torch.tensor([[place, 0.0, -2.0] for place in x])
    return make_rays(origins, torch.tensor([0.0, 0.0, 1.0]).expand(len(x), 3).contiguous())


@pytest.mark.parametrize("noise, seed", [(0.0, 0), (0.05, 2)])
def test_compiled_marches_are_the_plain_ones(noise, seed, plainly):
    """Where float32 rounds a decision the other way, a ray takes another step or grazes once more:
    none does here; on other processors three of 9000 may."""
    grid, rays = build_grid(ChunkedSiren(sine_network(noise, seed)), torch.zeros(0)), \
        rays_inwards(9000, seed=5)
    found, expected = march_grid(grid, rays, rays.t_near), plainly(march_grid, grid, rays,
                                                                  rays.t_near)
    crossed = expected.crossed_mask
    assert 1000 < int(crossed.sum()) < 8000 and len(expected.graze_rows) > 20
    differs = found.crossed_mask != crossed
    for field in dataclasses.fields(found):
        if field.name != "crossed_mask" and not field.name.startswith("graze"):
            ours, theirs = getattr(found, field.name), getattr(expected, field.name)
            differs |= crossed & ((ours - theirs).abs() > 1e-4)
    grazes = [{(row, round(high, 3)) for row, high in zip(march.graze_rows.tolist(),
                                                          march.graze_high.tolist(), strict=True)}
              for march in (found, expected)]
    assert int(differs.sum()) + len(grazes[0] ^ grazes[1]) <= 3


@pytest.mark.parametrize("is_plain", [False, True])
def test_a_march_by_hand(is_plain, plainly):
    """Values fall from 0.5 at z = -1 to -0.5 at z = 1, so that 0 lies in the middle of each ray;
    the march halves what is left until half a spacing, 1/64, is more."""
    grid, rays = grid_of(along_z(torch.linspace(0.5, -0.5, 65))), upwards(0.0, 0.3)
    march = plainly(march_grid, grid, rays, rays.t_near) if is_plain \
        else march_grid(grid, rays, rays.t_near)
    assert march.crossed_mask.all() and not len(march.graze_rows)
    assert ((march.low <= 2) & (march.high >= 2)).all()
    assert (march.high - march.low <= 1 / 64 + 1e-6).all()
    torch.testing.assert_close(march.value_high, 1 - march.high / 2, atol=1e-5, rtol=0)


@pytest.mark.parametrize("is_plain", [False, True])
def test_grazes_beyond_the_room_that_is_made_first(is_plain, plainly):
    """Every fourth node lies within the error, so that one ray grazes 17 times: the first and the
    last at its ends."""
    z = torch.full((65,), 0.01)
    z[::4] = 0.0005
    grid, rays = grid_of(along_z(z), error=0.001), upwards(0.0)
    march = plainly(march_grid, grid, rays, rays.t_near) if is_plain \
        else march_grid(grid, rays, rays.t_near)
    assert not march.crossed_mask.any() and len(march.graze_rows) == len(march.graze_high) == 17
    assert (march.graze_high.diff() > 0.1).all()
    assert (march.graze_high - march.graze_close <= 2 / 64 + 1e-6).all()


@pytest.mark.parametrize("is_plain", [False, True])
def test_a_march_over_values_that_are_no_numbers_ends(is_plain, plainly):
    grid, rays = grid_of(torch.full((65,) * 3, math.nan), error=0.01), rays_inwards(300)
    march = plainly(march_grid, grid, rays, rays.t_near) if is_plain \
        else march_grid(grid, rays, rays.t_near)
    assert not march.crossed_mask.any() and not len(march.graze_rows)


@pytest.mark.parametrize("is_plain", [False, True])
def test_a_march_from_so_far_that_a_step_is_lost_in_rounding_ends(is_plain, plainly):
    """At 3e5 a float32 has neighbours 0.03 away, and a step of 1/64 leads nowhere."""
    grid = grid_of(torch.full((65,) * 3, 1e-4))
    rays = make_rays(torch.tensor([[0.0, 0.0, -3e5]]), torch.tensor([[0.0, 0.0, 1.0]]))
    march = plainly(march_grid, grid, rays, rays.t_near) if is_plain \
        else march_grid(grid, rays, rays.t_near)
    assert not march.crossed_mask.any()


def test_the_least_on_rays_is_the_plain_one(plainly):
    """On most rays in the same sample; in others its neighbour's value is as low."""
    grid, rays = build_grid(ChunkedSiren(sine_network(0.05, 2)), torch.zeros(0)), \
        rays_inwards(6000, seed=5)
    least, t = least_on_rays(grid, rays, 40)
    expected, t_expected = plainly(least_on_rays, grid, rays, 40)
    torch.testing.assert_close(least, expected, atol=2e-6, rtol=0)
    assert ((t - t_expected).abs() < 1e-5).float().mean() > 0.999
    torch.testing.assert_close(grid(rays.points(t)), least, atol=2e-6, rtol=0)


def test_no_rays():
    grid = grid_of(torch.rand(5, 5, 5))
    none = rays_inwards(3)[torch.zeros(3, dtype=torch.bool)]
    assert march_grid(grid, none, none.t_near).low.shape == (0,)
    assert [x.shape for x in least_on_rays(grid, none, 4)] == [(0,), (0,)]
