"""The march on spheres and planes whose crossings are known, one rule at a time."""
from __future__ import annotations

import pytest
import torch
from support.tracing_cases import rays_inwards, unit

from data_processing.synthetic import analytic_sdf as solids
from utils.fast.tracing.masked_march import (
    MIN_STEP,
    advance,
    begin_march,
    march_plain,
)
from utils.geometry.rays import make_rays
from utils.geometry.sdf import SDF_THRESHOLD

RADIUS = 0.5


def cold(rays):
    """Nothing is known: rays begin where they enter the unit sphere."""
    zero = torch.zeros_like(rays.t_near)
    return begin_march(rays.t_near, zero, zero, rays.sphere_mask)


def sphere_crossings(rays):
    """Distances of the first crossing of the ball (R,) and how deep inside its chord goes (R,)."""
    foot = -(rays.origins_obj * rays.dirs_obj).sum(-1)
    gap_sq = (rays.origins_obj + foot[:, None] * rays.dirs_obj).square().sum(-1)
    half = (RADIUS ** 2 - gap_sq).clamp(min=0).sqrt()
    return foot - half, RADIUS - gap_sq.sqrt()


def test_rays_meet_a_ball_where_they_should():
    """At the hit |SDF| <= SDF_THRESHOLD; along the ray that is the threshold over the slope, which
    is sqrt(2 depth / RADIUS) or more. Rays that graze less deep than the threshold may do
    either."""
    rays = rays_inwards(3000, seed=1, spread=0.4, dtype=torch.float64)
    found = march_plain(solids.sphere(RADIUS), rays, cold(rays), 300).ended()
    true_t, depth = sphere_crossings(rays)
    assert not found.going_mask.any()
    clear = depth.abs() > 2 * SDF_THRESHOLD
    assert torch.equal(found.hit_mask[clear], depth[clear] > 0)
    hits = clear & (depth > 0)
    assert int(hits.sum()) > 1000
    slope = (2 * depth[hits] / RADIUS).clamp(max=1).sqrt()
    assert ((found.t - true_t).abs()[hits] <= 2 * SDF_THRESHOLD / slope).all()
    misses = clear & (depth < 0) & rays.sphere_mask
    # the least of the points met: steps near the surface are as long as the SDF there
    least = found.least[misses] + depth[misses]
    assert (least >= -1e-12).all() and (least <= 0.1 * depth[misses].abs() + MIN_STEP).all()


def test_a_known_point_outside_brackets_the_first_evaluation_inside():
    rays = make_rays(torch.tensor([[-2.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    state = begin_march(torch.tensor([1.6]), torch.tensor([1.4]), torch.tensor([0.1]),
                        torch.tensor([True]))
    moved = advance(state, torch.tensor([-0.1]), rays.t_far)
    assert (moved.low, moved.high) == (torch.tensor([1.4]), torch.tensor([1.6]))
    assert float(moved.t) == pytest.approx(1.5)            # false position between equal values
    assert bool(moved.going_mask) and not bool(moved.hit_mask)


def test_the_other_end_is_halved_when_the_same_moves_twice():
    state = begin_march(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([0.4]),
                        torch.tensor([True]))
    far = torch.tensor([3.0])
    first = advance(state, torch.tensor([-0.4]), far)
    assert float(first.value_low) == pytest.approx(0.4) and float(first.t) == pytest.approx(0.5)
    second = advance(first, torch.tensor([-0.2]), far)
    assert float(second.value_low) == pytest.approx(0.2) and float(second.t) == pytest.approx(0.25)
    third = advance(second, torch.tensor([0.1]), far)
    assert float(third.value_high) == pytest.approx(-0.2) and float(third.low) == 0.25


def test_rays_that_begin_inside_hit_where_they_begin():
    generator = torch.Generator().manual_seed(0)
    origins = 0.3 * unit(torch.randn(50, 3, generator=generator))
    rays = make_rays(origins, unit(torch.randn(50, 3, generator=generator)))
    found = march_plain(solids.sphere(RADIUS), rays, cold(rays), 1)
    assert found.hit_mask.all() and not found.t.any()


def test_a_jump_is_a_hit_where_it_is():
    """No value is within the threshold: the bracket narrows until float32 ends, and no further."""
    rays = rays_inwards(200, seed=2, spread=0.1)

    def jump(points):
        return torch.where(points.norm(dim=-1) < RADIUS, -0.2, 0.2)

    found = march_plain(jump, rays, cold(rays), 80)
    assert int(found.hit_mask.sum()) > 100 and not found.going_mask.any()
    assert (rays.points(found.t).norm(dim=-1)[found.hit_mask] - RADIUS).abs().max() < 1e-5


def test_out_of_steps_a_bracket_is_a_hit_and_the_rest_still_goes():
    rays = rays_inwards(500, seed=3, spread=0.3)
    stopped = march_plain(solids.sphere(RADIUS), rays, cold(rays), 7)
    bracketed = stopped.going_mask & (stopped.value_high < 0)
    ended = stopped.ended()
    assert bracketed.any() and ended.hit_mask[bracketed].all()
    assert torch.equal(ended.going_mask, stopped.going_mask & ~bracketed)
    assert ended.going_mask.any() and not (ended.going_mask & ended.hit_mask).any()
    assert torch.equal(ended.t[~ended.hit_mask], stopped.t_least[~ended.hit_mask])


def test_parts_of_a_state_march_as_the_whole_does():
    """And what repeats among the rows is harmless."""
    rays, sdf = rays_inwards(60, seed=4), solids.torus(0.5, 0.15)
    whole = march_plain(sdf, rays, cold(rays), 12)
    state, index = march_plain(sdf, rays, cold(rays), 5), torch.tensor([3, 9, 0, 0, 41])
    part = state.replaced(index, march_plain(sdf, rays[index], state[index], 7))
    for name in ("t", "hit_mask", "least", "value_low"):
        assert torch.equal(getattr(part, name)[index], getattr(whole, name)[index])
        assert torch.equal(getattr(part, name)[10:40], getattr(state, name)[10:40])
