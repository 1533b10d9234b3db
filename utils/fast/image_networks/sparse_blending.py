"""Blending of the samples that count alone.

The twin is the part of `modules_sdf.ImageBasedModel.blend` that takes every sample.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from utils.devices import numbers_like
from utils.fast.image_networks.sparse_rows import Rows, weighted_rows
from utils.geometry.rays import Surface
from utils.views.training_views import Correspondence, Targets


def sample_points(maps: Tensor, source: Tensor, uv: Tensor) -> Tensor:
    """Return single samples of the maps, as `sdf_rendering.sample_maps` takes them.

    Args:
        maps: (K, C, Hs, Ws); fastest in channels-last memory.
        source: (N,) int64, which map.
        uv: (N, 2) grid_sample coordinates.
    Returns:
        (N, C), differentiable in maps and uv.
    """
    height, width = maps.shape[2:]
    limit = numbers_like(uv, width - 1, height - 1)
    xy = (uv + 1) / 2 * limit
    xy = torch.minimum(xy.clamp(min=0), limit)
    first = torch.minimum(xy.detach().floor(), (limit - 1).clamp(min=0)).long()        # (N, 2)
    within = xy - first                                                # (N, 2)
    second = torch.minimum(first + 1, limit.long())
    columns = torch.stack([first[:, 0], second[:, 0], first[:, 0], second[:, 0]], -1)  # (N, 4)
    rows = torch.stack([first[:, 1], first[:, 1], second[:, 1], second[:, 1]], -1)
    index = (source[:, None] * height + rows) * width + columns        # (N, 4)
    x, y = within.unbind(-1)
    weights = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], -1)
    pixels = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])       # (K * Hs * Ws, C)
    return weighted_rows(pixels, Rows(index, weights))


def surface_hits(targets: Targets) -> tuple[Surface, Tensor, Tensor]:
    """Return the targets' pixels that see the surface, as one map of one row.

    Returns:
        Their surface, own_source_mask (K, 1, 1, P) and the numbers of the pixels (P,).
    """
    surface = targets.surface
    pixels = surface.hit_mask.flatten().nonzero()[:, 0]
    per_target = surface.hit_mask[0].numel()
    own = targets.own_source_mask[:, pixels // per_target][:, None, None]
    return surface_of_pixels(surface, pixels), own, pixels


def blend_samples(features: Tensor, correspondence: Correspondence,
                  weigh: Callable[[Tensor, Tensor, Tensor], Tensor], *, shape: tuple[int, ...],
                  is_normalised: bool) -> tuple[Tensor, Tensor]:
    """Blend only the N samples that count: a fifth of all, usually.

    Args:
        features: (K, C, Hs, Ws).
        correspondence: which samples count, and where they lie.
        weigh: features (N, C), source (N,) and pixel (N,) of samples to their weights (N,).
        shape: (K, T, H, W).
        is_normalised: the weights of a pixel are made to sum to 1.
    Returns:
        blended (T, C, H, W) and the weights (K, T, H, W).
    """
    source, pixel, uv = correspondence.samples()
    sampled = sample_points(features, source, uv)
    num_pixels = math.prod(shape[1:])
    found = weigh(sampled, source, pixel)
    none = sampled.new_zeros(num_pixels)
    if is_normalised:
        total = none.index_add(0, pixel, found)
        total = torch.where(total > 0, total, torch.ones_like(total))
        # an index in brackets would pass its gradient back in an order that threads decide
        found = found / total.index_select(0, pixel)
    blended = none[:, None].repeat(1, features.shape[1])
    blended = blended.index_add(0, pixel, sampled * found[:, None])
    blended = blended.reshape(*shape[1:], -1).permute(0, 3, 1, 2)
    weights = found.new_zeros(shape).flatten(1).index_put((source, pixel), found)
    return blended, weights.reshape(shape)


def surface_of_pixels(surface: Surface, pixels: Tensor) -> Surface:
    """Return P pixels of T maps, by their numbers, as one map of one row."""
    points = surface.points_obj.permute(0, 2, 3, 1).reshape(-1, 3).index_select(0, pixels)
    hit_mask = surface.hit_mask.flatten()[pixels]
    return Surface(points.T[None, :, None], hit_mask[None, None, None])
