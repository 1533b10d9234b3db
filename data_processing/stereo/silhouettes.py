"""Giving back to a surface what the masks prove to be there.

Every pixel of a mask shows the object, so that its ray must meet the surface somewhere inside the
visual hull. Where wrong depths have carved all of it away, a ball is put back at the place of the
ray that comes nearest to the surface (after Cremers and Kolev 2011, who demand the same).
"""
from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from utils.geometry.cameras import Cameras
from utils.geometry.rays import camera_rays
from utils.geometry.visual_hull import Hull

NUM_SAMPLES = 128        # of a ray, between its ends in the unit sphere
NUM_ROUNDS = 2           # a ball may be cut by the hull, so that its ray misses again
CHUNK = 1 << 13          # rays at once
FAR = 1.0                # distance that stands for "no ball near", object units


def cover_masks(surface: Hull, hull: Hull, cameras: Cameras, masks: Tensor, *,
                radius: float) -> Hull:
    """The surface, grown until rays through the masks meet it.

    Args:
        surface: grid (N, N, N) with distances near its zero crossing.
        hull: outer bound, on the same grid.
        cameras: V cameras.
        masks: (V, 1, H, W) bool.
        radius: of the balls, object units: of the order of a cell, or of a pixel at the object.
    """
    rays = camera_rays(cameras)
    rays = rays[masks.flatten() & rays.sphere_mask]
    fraction = torch.linspace(0, 1, NUM_SAMPLES, device=rays.t_near.device)
    for _ in range(NUM_ROUNDS):
        t = rays.t_near[:, None] + (rays.t_far - rays.t_near)[:, None] * fraction   # (R, S)
        rows = torch.arange(len(rays), device=t.device).split(CHUNK)
        found = [_least(surface, hull, rays[part].points(t[part])) for part in rows]
        if not found:
            break
        value, place = (torch.cat(part) for part in zip(*found, strict=True))
        missed = (value > 0).nonzero()[:, 0]
        if not len(missed):
            break
        rays = rays[missed]
        points = rays.points(t[missed].gather(1, place[missed, None])[:, 0])
        grown = torch.minimum(surface.distance, _balls(surface, points, radius))
        surface = replace(surface, distance=torch.maximum(hull.distance, grown))
    return surface


def _least(surface: Hull, hull: Hull, points: Tensor) -> tuple[Tensor, Tensor]:
    """Least distance of points (R, S, 3) from the surface, and which of the S it is.

    It is looked for in the hull, as a ball elsewhere would be cut away.
    """
    value = surface.sdf(points)
    least = torch.where(hull.sdf(points) <= 0, value, value.abs() + FAR).min(1)
    return least.values, least.indices


def _balls(grid: Hull, points: Tensor, radius: float) -> Tensor:
    """(N, N, N) signed distances to balls about points (M, 3), FAR away from them."""
    size, corner = len(grid.distance), grid.center.to(points) - grid.half
    out = torch.full((size ** 3,), FAR, device=points.device)
    nodes = ((points - corner) / grid.cell).round().long()             # (M, 3)
    reach = int(radius / grid.cell) + 2
    steps = torch.arange(-reach, reach + 1, device=points.device)
    around = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    nodes = (nodes[:, None] + around).clamp(0, size - 1)               # (M, B, 3)
    value = (nodes * grid.cell + corner - points[:, None]).norm(dim=-1) - radius
    flat = (nodes[..., 0] * size + nodes[..., 1]) * size + nodes[..., 2]
    out.scatter_reduce_(0, flat.flatten(), value.flatten(), "amin")
    return out.reshape(grid.distance.shape)
