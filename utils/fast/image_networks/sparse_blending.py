"""Blending of the samples that count alone."""
from __future__ import annotations

import torch
from torch import Tensor

from utils.fast.image_networks.sparse_rows import Rows, weighted_rows
from utils.geometry.rays import Surface


def sample_points(maps: Tensor, source: Tensor, uv: Tensor) -> Tensor:
    """Single samples of the maps, as `sample_maps` takes them.

    Args:
        maps: (K, C, Hs, Ws); fastest in channels-last memory.
        source: (N,) int64, which map.
        uv: (N, 2) grid_sample coordinates.
    Returns:
        (N, C), differentiable in maps and uv.
    """
    height, width = maps.shape[2:]
    limit = uv.new_tensor([width - 1, height - 1])
    xy = (uv + 1) / 2 * limit
    xy = torch.minimum(xy.clamp(min=0), limit)
    first = torch.minimum(xy.detach().floor(), (limit - 1).clamp(min=0)).long()        # (N, 2)
    share = xy - first                                                 # (N, 2)
    second = torch.minimum(first + 1, limit.long())
    columns = torch.stack([first[:, 0], second[:, 0], first[:, 0], second[:, 0]], -1)  # (N, 4)
    rows = torch.stack([first[:, 1], first[:, 1], second[:, 1], second[:, 1]], -1)
    index = (source[:, None] * height + rows) * width + columns        # (N, 4)
    x, y = share.unbind(-1)
    weights = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], -1)
    pixels = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])       # (K * Hs * Ws, C)
    return weighted_rows(pixels, Rows(index, weights))

#: Samples that G weighs in bf16 are filled up to a multiple of it: oneDNN prepares itself for each
#: number of them, and forgets as much of what convolutions need again.
BF16_SAMPLES = 4096


def surface_of_pixels(surface: Surface, pixels: Tensor) -> Surface:
    """P pixels of T maps, by number, as one map of one row."""
    points = surface.points_obj.permute(0, 2, 3, 1).reshape(-1, 3).index_select(0, pixels)
    hit_mask = surface.hit_mask.flatten()[pixels]
    return Surface(points.T[None, :, None], hit_mask[None, None, None])
