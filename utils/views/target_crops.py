"""The pixels of its targets that a training step renders: all, or a random crop of each.

A crop is drawn so that every part of the image comes up, and each of its pixels has the weight that
makes the expectation of a mean over crops the mean over whole images: one over how often a pixel
is rendered, about 1.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from utils.devices import numbers_like, to_device
from utils.geometry.rays import Rays, Surface, make_rays
from utils.views.surface_buffer import SurfaceBuffer

#: Crops begin at multiples of it and are as long: D halves twice, and pools the same pixels so.
STRIDE = 4
#: The least side: at D's coarsest stage four pixels are left.
LEAST_SIDE = 16


class TargetPixels(Protocol):
    """What a step renders of T targets; h x w pixels each.

    Attributes:
        index: (T,) of the views.
        weight: (T, 1, h, w), mean about 1, that losses at these pixels have; None: all the same.
    """

    index: Tensor
    weight: Tensor | None

    def cut(self, maps: Tensor) -> Tensor:
        """(T, C, h, w) of maps (T, C, H, W) of the targets."""
        ...

    def rays(self) -> Rays:
        """Rays through the pixels, flat (T * h * w,)."""
        ...

    def store(self, t: Tensor, hit_mask: Tensor) -> None:
        """Put (T * h * w,) distances and hits into the buffer."""
        ...

    def surface(self) -> Surface:
        """The buffered surface at the pixels, (T, ., h, w); no gradient."""
        ...


class WholeTargets:
    """All pixels of views `index` (T,) of a buffer."""

    weight = None

    def __init__(self, buffer: SurfaceBuffer, index: Tensor) -> None:
        self.buffer, self.index = buffer, index

    def cut(self, maps: Tensor) -> Tensor:
        """Return the maps as they are."""
        return maps

    def rays(self) -> Rays:
        """Return the rays through the pixels, flat; see `TargetPixels`."""
        return self.buffer.rays(self.index)

    def store(self, t: Tensor, hit_mask: Tensor) -> None:
        """Put distances and hits of the pixels into the buffer."""
        self.buffer.store(self.index, t, hit_mask)

    def surface(self) -> Surface:
        """Return the buffered surface at the pixels, no gradient."""
        return self.buffer.surface(self.index)


@dataclass(frozen=True)
class Crops:
    """A crop of each of T images.

    Attributes:
        rows, columns: (T, h) and (T, w) int64.
        weight: (T, 1, h, w).
    """

    rows: Tensor
    columns: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> Crops:
        """The same on a device."""
        return Crops(*(to_device(x, device) for x in (self.rows, self.columns, self.weight)))


class CropSampler:
    """Draws crops.

    Args:
        size: (W, H) of the images.
        crop: (w, h) of the crops; rounded up to multiples of STRIDE, at most the image.
    """

    def __init__(self, size: tuple[int, int], crop: tuple[int, int]) -> None:
        self.columns, self.rows = (_Side(whole, part) for whole, part in zip(size, crop,
                                                                             strict=True))

    def draw(self, count: int, generator: torch.Generator) -> Crops:
        """One crop for each of `count` images; the generator lives on the CPU."""
        rows, row_weight = self.rows.draw(count, generator)
        columns, column_weight = self.columns.draw(count, generator)
        return Crops(rows, columns, row_weight[:, None, :, None] * column_weight[:, None, None])


class _Side:
    """Crops along one side of an image.

    They may begin up to half a crop before the image and end as much after it, and are then moved
    inside: pixels at the border are rendered half to one and a half times as often as others.
    """

    def __init__(self, whole: int, part: int) -> None:
        self.part = min(whole, -(-max(part, LEAST_SIDE) // STRIDE) * STRIDE)
        room = whole - self.part
        over = self.part // 2 // STRIDE * STRIDE if room else 0
        starts = torch.arange(-over, room + over + STRIDE, STRIDE) if room else torch.zeros(1)
        self.starts = starts.long().clamp(0, room)
        pixels = torch.arange(whole)
        inside = (self.starts[:, None] <= pixels) & (pixels < self.starts[:, None] + self.part)
        fraction = inside.float().mean(0)                              # of the crops, (whole,)
        self.weight = self.part / whole / fraction

    def at(self, choice: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (T, part) of crops `choice` (T,), and their weights (T, part)."""
        pixels = self.starts[choice][:, None] + torch.arange(self.part)
        return pixels, self.weight[pixels]

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The same of crops drawn at random."""
        return self.at(torch.randint(len(self.starts), (count,), generator=generator))


class CroppedTargets:
    """A crop of each of views `index` (T,) of a buffer."""

    def __init__(self, buffer: SurfaceBuffer, index: Tensor, crops: Crops) -> None:
        self.buffer, self.index, self.crops = buffer, index, crops
        self.weight = crops.weight.to(buffer.t.dtype)

    def cut(self, maps: Tensor) -> Tensor:
        """(T, C, h, w) of (T, C, H, W); differentiable."""
        target = torch.arange(len(maps), device=maps.device)[:, None, None]
        rows, columns = self.crops.rows[:, :, None], self.crops.columns[:, None]
        return maps.permute(0, 2, 3, 1)[target, rows, columns].permute(0, 3, 1, 2)

    def rays(self) -> Rays:
        """Return the rays through the pixels, flat; see `TargetPixels`."""
        parts = (self.cut(x[self.index]) for x in (self.buffer.origins, self.buffer.dirs))
        return make_rays(*(part.permute(0, 2, 3, 1).reshape(-1, 3) for part in parts))

    def store(self, t: Tensor, hit_mask: Tensor) -> None:
        """Put distances and hits of the pixels into the buffer."""
        self.buffer.store_pixels(self._pixels().reshape(-1), t, hit_mask)

    def surface(self) -> Surface:
        """Return the buffered surface at the pixels, no gradient."""
        found = self.buffer.surface(self.index)
        return Surface(self.cut(found.points_obj), self.cut(found.hit_mask))

    def _pixels(self) -> Tensor:
        """(T, h, w) index of the pixels among all V * H * W of the buffer."""
        height, width = self.buffer.t.shape[2:]
        rows, columns = self.crops.rows[:, :, None], self.crops.columns[:, None]
        return (self.index[:, None, None] * height + rows) * width + columns


def touched_pixels(uv_grid: Tensor, inside_mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels of K images that bilinear samples read.

    The host waits for their number.

    Args:
        uv_grid: (K, N, 2) grid_sample coordinates, first and last pixel centre at -1, 1.
        inside_mask: (K, N) bool, samples that count.
        size: (W, H) of the images.
    Returns:
        (M,) int64, index among all K * H * W pixels, each once.
    """
    width, height = size
    limit = numbers_like(uv_grid, width - 1, height - 1)
    low = torch.minimum(((uv_grid + 1) / 2 * limit).clamp(min=0), limit).floor().long()  # (K, N, 2)
    high = torch.minimum(low + 1, limit.long())
    image = torch.arange(len(uv_grid), device=uv_grid.device)[:, None].expand(inside_mask.shape)
    image, low, high = image[inside_mask], low[inside_mask], high[inside_mask]
    touched = torch.zeros(len(uv_grid) * height * width, dtype=torch.bool, device=uv_grid.device)
    for rows in (low[:, 1], high[:, 1]):
        for columns in (low[:, 0], high[:, 0]):
            touched[(image * height + rows) * width + columns] = True
    return touched.nonzero()[:, 0]
