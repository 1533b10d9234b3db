"""The part of each source view that a step with target crops needs: no view is encoded whole.

E sees MARGIN pixels around a feature; a crop holds all samples of its source and that margin.
What differs from whole images: the statistics of batch normalisation are those of the crops, and
E's resampling (`align_corners`) is that of their size.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from utils.devices import numbers_like

#: Half of E's receptive field, 131 pixels, down to a multiple of its stride.
MARGIN = 64
STRIDE = 8                # E halves three times
STEP = 64                 # crops' sides are multiples of it: few sizes, so that memory is reused


@dataclass(frozen=True)
class SourceCrops:
    """Crops of one size in K images of W x H pixels.

    Attributes:
        left, top: (K,) int64, first column and row.
        size: (width, height).
        whole: (W, H).
    """

    left: Tensor
    top: Tensor
    size: tuple[int, int]
    whole: tuple[int, int]

    def cut(self, images: Tensor) -> Tensor:
        """(K, C, h, w) of images (K, C, H, W)."""
        width, height = self.size
        columns = self.left[:, None] + torch.arange(width, device=self.left.device)
        rows = self.top[:, None] + torch.arange(height, device=self.left.device)
        view = torch.arange(len(images), device=self.left.device)
        found = images.permute(0, 2, 3, 1)[view[:, None, None], rows[:, :, None],
                                           columns[:, None]]            # (K, h, w, C)
        return found.permute(0, 3, 1, 2)

    def uv_grid(self, uv_grid: Tensor) -> Tensor:
        """Coordinates (K, ..., 2) of whole images as those of the crops; differentiable."""
        shape = (-1, *[1] * (uv_grid.dim() - 2), 2)
        first = torch.stack([self.left, self.top], -1).to(uv_grid).reshape(shape)
        last_whole = numbers_like(uv_grid, *self.whole) - 1
        last = (numbers_like(uv_grid, *self.size) - 1).clamp(min=1)
        return ((uv_grid + 1) / 2 * last_whole - first) / last * 2 - 1


def source_crops(uv_grid: Tensor, counts_mask: Tensor, whole: tuple[int, int],
                   margin: int = MARGIN) -> SourceCrops:
    """The smallest crops of one size that hold all samples which count, and a margin.

    The host waits for the size.

    Args:
        uv_grid: (K, T, h, w, 2), grid_sample coordinates in the sources.
        counts_mask: (K, T, h, w) bool.
        whole: (W, H) of the sources.
        margin: pixels on each side.
    """
    with torch.no_grad():
        counts = counts_mask.flatten(1)[..., None]                     # (K, N, 1)
        limit = numbers_like(uv_grid, *whole) - 1
        pixels = (uv_grid.flatten(1, 3) + 1) / 2 * limit               # (K, N, 2)
        low = torch.where(counts, pixels, torch.inf).amin(1)           # (K, 2)
        low = torch.where(low.isfinite(), low, limit / 2).floor()      # of a source without any
        high = torch.where(counts, pixels, -torch.inf).amax(1)
        high = torch.maximum(high, low).ceil()
        spans = (high - low).amax(0).tolist()
        first, size = [], []
        for axis, (span, length) in enumerate(zip(spans, whole, strict=True)):
            side = int(span) + 1 + 2 * margin + STRIDE                 # as starts are rounded down
            side = min(-(-side // STEP) * STEP, length)
            start = (low[:, axis].long() - margin) // STRIDE * STRIDE
            first.append(start.clamp(min=0, max=length - side))
            size.append(side)
        return SourceCrops(first[0], first[1], tuple(size), whole)
