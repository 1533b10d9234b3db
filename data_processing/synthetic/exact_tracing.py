"""Rays against analytic distances, traced until they touch, and points spread over a surface.

The method's tracer (`sdf_rendering`) stops after ten steps, as networks are costly and not quite
distances; here distances are cheap and true: sphere tracing runs until every ray has converged.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from utils.geometry.sdf import Sdf, gradient

#: A ray hits where the distance is below this (object units; float32 rounding is 5e-7).
HIT_TOLERANCE = 4e-6
#: A ray along a surface would creep: after FREE_STEPS each further step is at least STEP_GROWTH
#: longer than the one before, up to STEP_FLOOR (object units). What it may miss then is a cut
#: shorter than STEP_FLOOR, into a ball of radius 0.5 no deeper than 3e-7.
FREE_STEPS, STEP_GROWTH, STEP_FLOOR = 64, 1e-5, 1e-3
#: Bisections of a step that went inside; STEP_FLOOR / 2^9 is below HIT_TOLERANCE.
HALVINGS = 9
#: Points are spread from a shell of this half thickness around the surface (object units).
SHELL = 0.02
#: Batches that `spread_points` draws before it gives up on a solid that is nearly empty.
MAX_DRAWS = 64
#: Points drawn at once by `spread_points`, and points whose distance is taken at once.
DRAW, CHUNK = 1 << 18, 1 << 16


@dataclass(frozen=True)
class Hits:
    """Where R rays first touch the surface.

    Attributes:
        hit_mask: (R,) bool.
        points: (R, 3) object space; zero where the ray misses.
    """

    hit_mask: Tensor
    points: Tensor


def trace(sdf: Sdf, origins: Tensor, dirs: Tensor, bound: float) -> Hits:
    """Return the first hit of each ray, by sphere tracing.

    t <- t + f(o + t d), until f is 0 or t leaves the bound.

    Args:
        sdf: points (N, 3) to (N,), gradient at most 1 long, positive beyond radius `bound`.
        origins: (R, 3) object space, outside that sphere.
        dirs: (R, 3) unit.
        bound: radius about the object origin that holds the whole solid.
    Returns:
        Hits, detached.
    """
    with torch.no_grad():
        middle = -(origins * dirs).sum(-1, keepdim=True)
        closest = origins + middle * dirs                              # (R, 3) nearest to centre
        half_sq = bound * bound - closest.square().sum(-1)             # (R,) half chord, squared
        index = torch.nonzero((half_sq > 0) & (middle[:, 0] > 0))[:, 0]
        # Distances are measured from the point nearest to the centre, as those from a camera far
        # away would lose digits. Planes of x, y and z are contiguous, which is fastest to read.
        found, points = _march(sdf, closest[index].T.contiguous(), dirs[index].T.contiguous(),
                               half_sq[index].sqrt())
        points = _backed_out(sdf, points, dirs[index[found]])
        hit_mask = torch.zeros_like(origins[:, 0], dtype=torch.bool)
        hit_mask[index[found]] = True
        points_out = torch.zeros_like(origins)
        points_out[index[found]] = points
    return Hits(hit_mask, points_out)


def _march(sdf: Sdf, base: Tensor, step: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """March rays base + t step, planes (3, n) each, from t = -half to half (n,).

    Returns:
        Indices (m,) of the rays that hit, and their points (m, 3).
    """
    index, t, count, floor = torch.arange(len(half), device=half.device), -half, 0, 0.0
    found, points_found = [index[:0]], [base.T[:0]]
    while len(index):
        points = torch.addcmul(base, step, t)                          # (3, n)
        value = torch.cat([sdf(part) for part in points.T.split(CHUNK)])
        done = value < HIT_TOLERANCE
        found.append(index[done])
        points_found.append(points[:, done].T)
        floor = min(STEP_FLOOR, STEP_GROWTH * max(0, count - FREE_STEPS))
        t = t + value.clamp_min(floor)
        keep = torch.nonzero(~done & (t < half))[:, 0]
        index, t, half = index[keep], t[keep], half[keep]
        base, step, count = base[:, keep], step[:, keep], count + 1
    return torch.cat(found), torch.cat(points_found)


def _backed_out(sdf: Sdf, points: Tensor, dirs: Tensor) -> Tensor:
    """Return hits (m, 3) on the surface: those that a forced step took inside are bisected back."""
    value = torch.cat([sdf(part) for part in points.split(CHUNK)])
    inside = torch.nonzero(value < -HIT_TOLERANCE)[:, 0]
    if not len(inside):
        return points
    start, back = points[inside], dirs[inside]
    low, high = torch.zeros_like(start[:, :1]), torch.full_like(start[:, :1], STEP_FLOOR)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_in = sdf(start - middle * back)[:, None] < 0
        low, high = torch.where(is_in, middle, low), torch.where(is_in, high, middle)
    return points.index_put((inside,), start - high * back)


def spread_points(sdf: Sdf, count: int, bound: float, generator: torch.Generator) -> Tensor:
    """Return points spread evenly over the whole surface.

    Points drawn evenly in the ball and within SHELL of the surface slide onto it along the
    gradient; a shell of even thickness puts the same number on every area.

    Args:
        sdf: points (N, 3) to (N,), gradient at most 1 long.
        count: how many points.
        bound: radius of a ball that holds the solid.
        generator: source of the draws.
    Returns:
        (count, 3) with |sdf| < HIT_TOLERANCE, or fewer where the solid is nearly empty.
    """
    found, total = [], 0
    for _ in range(MAX_DRAWS):
        if total >= count:
            break
        points = (torch.rand(DRAW, 3, generator=generator) * 2 - 1) * bound
        value = torch.cat([sdf(part) for part in points.split(CHUNK)])
        points = _slide(sdf, points[value.abs() < SHELL])
        found.append(points)
        total += len(points)
    return torch.cat(found)[:count]


def _slide(sdf: Sdf, points: Tensor) -> Tensor:
    """Return points (N, 3) of the shell moved onto the surface by Newton steps.

    Strays are left out.
    """
    value, grad = gradient(sdf, points)
    near = value.abs() < SHELL * grad.norm(dim=-1)
    start, points = points[near], points[near]
    for _ in range(6):
        value, grad = gradient(sdf, points)
        points = points - grad * (value / grad.square().sum(-1).clamp_min(1e-6))[:, None]
    converged = sdf(points).abs() < HIT_TOLERANCE
    return points[converged & ((points - start).norm(dim=-1) < 2 * SHELL)]
