"""Regions of bilinearly resized maps (`align_corners`), and convolutions of them.

Resizing is a product with a matrix for rows and one for columns, sparse ones, as each pixel reads
two of a side alone.
"""
from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.fast.image_networks.parts import Part
from utils.fast.image_networks.sparse_rows import Rows, sparse_rows, weighted_rows
from utils.views.regions import Region, read_side


def resized(part: Part, region: Region) -> Tensor:
    """A region of resized maps from the part that it depends on.

    As `F.interpolate` of the whole, cut, to rounding. In bf16 the weights are rounded too, so that
    the mean error is 1.4 times as great.

    Args:
        part: holds `region.unresized(size)`.
        region: of the result.
    Returns:
        (B, C, h, w) in channels-last memory; differentiable in the maps.
    """
    return _resampled(part.cut(region.unresized(part.region.size)), part.region, region, 1)


def convolve_resized(convolution: nn.Conv2d, coarse: Part, skip: Part) -> Tensor:
    """A convolution of coarse maps, resized to a skip's region, beside the skip; the plain form.

    Args:
        convolution: of `coarse` channels and then `skip` channels; keeps the maps' size.
        coarse: holds what `resized` reads for the skip's region.
        skip: (B, C, h, w).
    Returns:
        (B, C', h, w) on the skip's region; differentiable in maps and weights.
    """
    return convolution(torch.cat([resized(coarse, skip.region), skip.maps], 1))


class JoinedConvolution:
    """As `convolve_resized`, to rounding, for less work; for several maps in a row.

    Resizing R and moving T_d by a tap d of the kernel work on pixels, the tap's weights W_d on
    channels, so that they change places: W [R c, s] = sum_d T_d R (W_d c) + W' s. The products with
    W_d take the coarse pixels then, a quarter of the fine ones. Partial convolutions ask which fine
    pixels are zero, and take the plain form.

    Args:
        convolution: its weights are read at the first call.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        self.convolution = convolution
        self._weights: list[Tensor] = []                   # by tap, and of the skip

    def __call__(self, coarse: Part, skip: Part) -> Tensor:
        """Return the convolution of joined maps; see `convolve_resized`."""
        if type(self.convolution) is not nn.Conv2d:
            return convolve_resized(self.convolution, coarse, skip)
        channels = coarse.maps.shape[1]
        by_tap, of_skip = self._weights = self._weights or self._by_tap(channels)
        found = F.conv2d(coarse.cut(skip.region.unresized(coarse.region.size)), by_tap)
        found = _resampled(found, coarse.region, skip.region, self.convolution.kernel_size[0])
        return found + F.conv2d(skip.maps, of_skip, self.convolution.bias,
                                padding=self.convolution.padding)

    def _by_tap(self, channels: int) -> list[Tensor]:
        """W_d of all taps, (k_x * k_y * C', C, 1, 1), and W', in the precision of convolutions."""
        weight = self.convolution.weight
        if torch.is_autocast_enabled(weight.device.type):
            weight = weight.to(torch.get_autocast_dtype(weight.device.type))
        of_coarse, of_skip = weight.split((channels, weight.shape[1] - channels), 1)
        return [of_coarse.permute(3, 2, 0, 1).reshape(-1, channels, 1, 1), of_skip]


def _resampled(maps: Tensor, origin: Region, region: Region, taps: int) -> Tensor:
    """sum_d T_d R maps_d over taps x taps neighbours d.

    Args:
        maps: (B, taps_x * taps_y * C, h_c, w_c), the region that is read.
        origin: some region of what they are maps of, for its size.
        region: of the result; beyond it T_d finds 0.
    Returns:
        (B, C, h, w).
    """
    size = origin.size
    count, _, height, width = maps.shape
    rows = _side(region.top, region.bottom, region.size[0], size[0], taps, maps.dtype)
    columns = _side(region.left, region.right, region.size[1], size[1], taps, maps.dtype)
    found = maps.permute(0, 2, 3, 1).reshape(count * height, width * taps, -1)
    found = _multiplied(columns, found)                                # (B * h_c, w, k_y * C)
    if taps > 1:
        found = found.reshape(count, height, found.shape[1], taps, -1).transpose(2, 3)
    found = _multiplied(rows, found.reshape(count, height * taps, -1))          # (B, h, w * C)
    return found.reshape(count, *region.shape, -1).permute(0, 3, 1, 2)


class Side(NamedTuple):
    """How pixels of a side are made: a matrix (pixels, pixels read * taps) and its transpose."""

    rows: Rows
    transposed: Rows


def _multiplied(side: Side, maps: Tensor) -> Tensor:
    """(N, pixels read, M) to (N, pixels, M)."""
    count, num_read, width = maps.shape
    rows = side.rows.repeated(count, num_read)
    transposed = side.transposed.repeated(count, len(side.rows.index))
    return weighted_rows(maps.reshape(-1, width), rows, transposed).reshape(count, -1, width)


@lru_cache(maxsize=1024)
def _side(start: int, stop: int, length: int, length_read: int, taps: int,
          dtype: torch.dtype) -> Side:
    """Of a side of a region, pixels start to stop; taps of each pixel read are adjacent."""
    weights = _weights(start, stop, length, length_read, dtype == torch.float64)
    reach = taps // 2
    padded = F.pad(weights, (0, 0, reach, reach))
    moved = torch.stack([padded[tap:tap + len(weights)] for tap in range(taps)], -1)
    matrix = moved.flatten(1).to(dtype)
    return Side(sparse_rows(matrix), sparse_rows(matrix.T))


def _weights(start: int, stop: int, length: int, length_read: int, is_double: bool) -> Tensor:
    """(stop - start, pixels read) weights of a resized side's pixels.

    In the precision in which torch computes them: what lies on a pixel must do so here.
    """
    dtype = torch.float64 if is_double else torch.float32
    scale = torch.tensor(length_read - 1, dtype=dtype) / max(length - 1, 1)
    at = torch.arange(start, stop, dtype=dtype) * scale
    before = at.long()
    first, last = read_side(start, stop, length, length_read)
    weights, rows = torch.zeros(stop - start, last - first, dtype=dtype), torch.arange(len(at))
    for pixel, weight in ((before, 1 - (at - before)), (before + 1, at - before)):
        weights[rows, pixel.clamp(first, last - 1) - first] += weight
    return weights
