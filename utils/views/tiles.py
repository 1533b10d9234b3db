"""Networks on images too large to be taken at once: one after another, in tiles if need be.

What differs from whole images is the networks' resampling (`align_corners`), whose phase depends on
the size of what they see.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PIXELS_AT_ONCE = 1 << 20  # of all images together: a map of 64 channels then takes 256 MiB
TILE = 768                # pixels of a side, without margins
ALIGNED = 8               # tiles begin at multiples of E's stride


def in_tiles(function: Callable[[Tensor], Tensor], maps: Tensor, margin: int,
             *, most: int = PIXELS_AT_ONCE, tile: int = TILE) -> Tensor:
    """function(maps), in parts of at most about `most` pixels; no gradient.

    Args:
        function: (N, C, H, W) to (N, C', H, W), in evaluation mode: each image by itself.
        maps: (N, C, H, W).
        margin: pixels around a pixel that its result depends on; a multiple of ALIGNED.
        most: pixels in all that are taken at once.
        tile: side of a tile, a multiple of ALIGNED.
    """
    count, _, height, width = maps.shape
    with torch.no_grad():
        if count * height * width <= most or not count:
            return function(maps)
        images = maps.split(1)
        if height * width <= most:
            return torch.cat([function(image) for image in images])
        return torch.cat([_tiled(function, image, margin, tile) for image in images])


def _tiled(function: Callable[[Tensor], Tensor], image: Tensor, margin: int, tile: int) -> Tensor:
    height, width = image.shape[2:]
    rows = []
    for top in range(0, height, tile):
        parts = []
        for left in range(0, width, tile):
            first_row, first_column = max(top - margin, 0), max(left - margin, 0)
            seen = image[:, :, first_row:top + tile + margin, first_column:left + tile + margin]
            found = function(seen)
            parts.append(found[:, :, top - first_row:top - first_row + tile,
                               left - first_column:left - first_column + tile])
        rows.append(torch.cat(parts, -1))
    return torch.cat(rows, -2)
