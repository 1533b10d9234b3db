"""IDR's tracer (METHOD 4), the plain path: the twin of everything faster."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from utils.geometry.rays import Rays, TraceResult

Sdf = Callable[[Tensor], Tensor]

SDF_THRESHOLD = 5e-5        # object units; |SDF| below it is on the surface (IDR's tracer)
NUM_SPHERE_STEPS = 10       # the release's config says 8, its code takes 10 (METHOD 9)
NUM_SECTION_SAMPLES = 100
NUM_SECANT_STEPS = 8
NUM_MASK_SAMPLES = 40


def trace_reference(sdf: Sdf, rays: Rays) -> TraceResult:
    """IDR's tracer, the plain form (METHOD 4): no gradient, everything in one batch.

    Marches from both ends of the sphere's chord at once; what has not settled after
    NUM_SPHERE_STEPS is sampled at NUM_SECTION_SAMPLES points between the ends, and the first
    change of sign refined by secant steps.

    Args:
        sdf: points (N, 3) to (N,), object space.
        rays: R rays.
    Returns:
        TraceResult with (R,) tensors.
    """
    with torch.no_grad():
        front, back, settled_mask, spent = _march_both_ends(sdf, rays)
        hit_mask = settled_mask.clone()
        t = torch.where(rays.sphere_mask, front, rays.t_near)
        index = (rays.sphere_mask & ~settled_mask & (front < back)).nonzero()[:, 0]
        if len(index):
            found = _section_search(sdf, rays[index], front[index], back[index])
            t[index], hit_mask[index] = found.t, found.hit_mask
            spent += found.num_evaluations
        return TraceResult(t, hit_mask, spent)


def _march_both_ends(sdf: Sdf, rays: Rays) -> tuple[Tensor, Tensor, Tensor, int]:
    """Sphere tracing from the near and the far end.

    Returns:
        front (R,): where the near march stands, not past the last point known to be outside when
        it has not settled; back (R,); settled_mask (R,): the near march is on the surface; the
        number of SDF evaluations.
    """
    active = rays.sphere_mask.nonzero()[:, 0]
    front, back = rays.t_near.clone(), rays.t_far.clone()
    settled_mask = torch.zeros_like(rays.sphere_mask)
    sdf_front, sdf_back = torch.zeros_like(front), torch.zeros_like(back)
    sdf_front[active] = sdf(rays[active].points(front[active]))
    sdf_back[active] = sdf(rays[active].points(back[active]))
    spent, last_outside = 2 * len(active), front.clone()
    settled_mask |= sdf_front < -SDF_THRESHOLD           # begins inside: hits where it begins
    for _ in range(NUM_SPHERE_STEPS):
        settled_mask |= (sdf_front.abs() <= SDF_THRESHOLD) & rays.sphere_mask & (front < back)
        near_open = rays.sphere_mask & ~settled_mask & (front < back)
        far_open = near_open & (sdf_back > SDF_THRESHOLD)
        ends = ((front, sdf_front, near_open, 1), (back, sdf_back, far_open, -1))
        for t, value, open_mask, sign in ends:
            index = open_mask.nonzero()[:, 0]
            if len(index):
                step = value[index] * sign
                t[index], value[index], used = _one_step(sdf, rays[index], t[index], step)
                spent += used
        last_outside = torch.where(sdf_front > 0, front, last_outside)
    settled_mask |= (sdf_front.abs() <= SDF_THRESHOLD) & rays.sphere_mask & (front < back)
    stuck_inside = ~settled_mask & (sdf_front < 0)
    return torch.where(stuck_inside, last_outside, front), back, settled_mask, spent


def _one_step(sdf: Sdf, rays: Rays, t: Tensor, step: Tensor) -> tuple[Tensor, Tensor, int]:
    """One step along (R,) rays; where it lands inside the surface, half of it is taken back."""
    new_t = t + step
    value = sdf(rays.points(new_t))
    inside = (value < -SDF_THRESHOLD).nonzero()[:, 0]
    if len(inside):
        new_t[inside] -= 0.5 * step[inside]
        value[inside] = sdf(rays[inside].points(new_t[inside]))
    return new_t, value, len(t) + len(inside)


def _section_search(sdf: Sdf, rays: Rays, start: Tensor, stop: Tensor) -> TraceResult:
    """First change of sign among uniform samples of [start, stop], refined by secant steps.

    Without a change of sign the point of least SDF is returned as a miss.
    """
    fractions = torch.linspace(0, 1, NUM_SECTION_SAMPLES).to(start)
    t = start[:, None] + (stop - start)[:, None] * fractions           # (R, S)
    values = sdf(rays.points(t).reshape(-1, 3)).reshape(t.shape)       # (R, S)
    inside = values < 0
    hit_mask = inside.any(-1)
    first = inside.int().argmax(-1).clamp(min=1)                       # first sample inside
    least = values.argmin(-1)
    rows = torch.arange(len(t), device=t.device)
    t_least = t[rows, least]
    low, high = t[rows, first - 1], t[rows, first]
    value_low, value_high = values[rows, first - 1], values[rows, first]
    hits = hit_mask.nonzero()[:, 0]
    refined = _secant(sdf, rays[hits], (low[hits], high[hits]), (value_low[hits], value_high[hits]))
    t_least[hits] = refined
    return TraceResult(t_least, hit_mask, values.numel() + NUM_SECANT_STEPS * len(hits))


def _secant(sdf: Sdf, rays: Rays, t: tuple[Tensor, Tensor],
            values: tuple[Tensor, Tensor]) -> Tensor:
    """Refine brackets t = (outside, inside) with SDF values (> 0, < 0) by false position."""
    (low, high), (value_low, value_high) = t, values
    middle = _false_position(low, high, value_low, value_high)
    for _ in range(NUM_SECANT_STEPS):
        value = sdf(rays.points(middle))
        outside = value > 0
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
        value_low = torch.where(outside, value, value_low)
        value_high = torch.where(outside, value_high, value)
        middle = _false_position(low, high, value_low, value_high)
    return middle


def _false_position(low: Tensor, high: Tensor, value_low: Tensor, value_high: Tensor) -> Tensor:
    drop = (value_low - value_high).clamp(min=1e-12)
    return low + (high - low) * (value_low / drop).clamp(0, 1)


def least_sdf_reference(sdf: Sdf, rays: Rays, num_samples: int = NUM_MASK_SAMPLES) -> Tensor:
    """(R,) distance of the least SDF among uniform samples of each ray's chord; no gradient."""
    with torch.no_grad():
        fractions = torch.linspace(0, 1, num_samples).to(rays.t_near)
        t = rays.t_near[:, None] + (rays.t_far - rays.t_near)[:, None] * fractions   # (R, S)
        values = sdf(rays.points(t).reshape(-1, 3)).reshape(t.shape)
        return t.gather(1, values.argmin(1, keepdim=True))[:, 0]
