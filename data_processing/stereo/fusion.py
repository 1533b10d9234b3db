"""Fusion of depth maps to a signed distance grid inside the visual hull (Curless and Levoy 1996).

Each view measures, along its axis, how far a grid point lies in front of its depths, truncated.
What lies further behind a depth than the truncation stays unknown to that view. The hull is an
outer bound, a weak measurement of its own, and the answer where no view knows anything.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from data_processing.stereo.consistency import DepthMaps, seen_depth
from utils.geometry.cameras import Cameras
from utils.geometry.visual_hull import Hull

#: Grid points further outside the hull than so many cells are not asked about.
MARGIN_CELLS = 3.0


@dataclass(frozen=True)
class FusionSettings:
    """How depths become a surface.

    Attributes:
        truncation: of a measured distance, object units.
        spread: standard deviation of the Gaussian that measurements are smoothed with, cells.
        hull_weight: of the hull's distance, where a confident depth of one view weighs 1.
        min_weight: of all depths at a point; with less the hull stays.
    """

    truncation: float = 0.04
    spread: float = 1.0
    hull_weight: float = 0.3
    min_weight: float = 0.05


FUSION = FusionSettings()


def fuse(hull: Hull, maps: DepthMaps, cameras: Cameras,
         settings: FusionSettings = FUSION) -> Hull:
    """The surface that depth maps agree on, inside the hull.

    Args:
        hull: distance grid (N, N, N).
        maps: of V views; confidences are weights.
        cameras: V cameras.
        settings: see the class.
    Returns:
        grid whose zero crossing is the surface; its values are distances only next to it, see
        `redistanced`.
    """
    total, weight = measured(hull, maps, cameras, settings.truncation)
    if settings.spread > 0:
        total, weight = blurred(total, settings.spread), blurred(weight, settings.spread)
    bounded = hull.distance.clamp(-settings.truncation, settings.truncation)
    mean = (total + settings.hull_weight * bounded) / (weight + settings.hull_weight)
    nothing = torch.full_like(mean, -torch.inf)
    fused = torch.where(weight >= settings.min_weight, mean, nothing)
    return replace(hull, distance=torch.maximum(hull.distance, fused))


def measured(hull: Hull, maps: DepthMaps, cameras: Cameras,
             truncation: float) -> tuple[Tensor, Tensor]:
    """What the views measure at the grid points in and about the hull.

    Returns:
        sums over views of weighted truncated distances, and of weights: (N, N, N) each.
    """
    index = (hull.distance.flatten() < MARGIN_CELLS * hull.cell).nonzero()[:, 0]
    points = hull.grid_points().reshape(-1, 3)[index]
    sums = torch.zeros(2, hull.distance.numel(), device=points.device)
    for view in range(len(cameras)):
        seen = seen_depth(maps, view, cameras[view], points)
        weight = seen.confidence * (seen.before > -truncation)
        sums[0, index] += weight * seen.before.clamp(-truncation, truncation)
        sums[1, index] += weight
    return sums[0].reshape(hull.distance.shape), sums[1].reshape(hull.distance.shape)


def blurred(grid: Tensor, spread: float) -> Tensor:
    """A grid (N, N, N) convolved with a Gaussian of `spread` cells; zero beyond its border."""
    half = max(1, round(2.5 * spread))
    offsets = torch.arange(-half, half + 1, device=grid.device).to(grid)
    kernel = torch.exp(-(offsets / spread).square() / 2)
    kernel = kernel / kernel.sum()
    for _ in range(3):                                   # each axis once, as the axes rotate
        padded, out = F.pad(grid, (half, half)), torch.zeros_like(grid)
        for shift, factor in enumerate(kernel):
            out += factor * padded[..., shift:shift + grid.shape[-1]]
        grid = out.permute(2, 0, 1).contiguous()
    return grid


def ball(radius: float, like: Hull) -> Hull:
    """A ball about the origin on the grid of another solid."""
    distance = like.grid_points().norm(dim=-1) - radius
    return replace(like, distance=distance)
