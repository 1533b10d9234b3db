"""Rectangles of images and maps, and what of one a result in another depends on.

Regions are lossless: what is computed inside is what the whole would have there. Crops change what
is trained (`target_crops`), tiles bound memory (`tiles`).
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Size = tuple[int, int]

#: Shapes of a scene's regions: oneDNN prepares itself for each shape of a convolution's input, 2 ms
#: that it needs again when it has seen 1,024 others; D and E have 26 convolutions in regions, each
#: with two gradients.
MOST_SHAPES = 10


@dataclass(frozen=True)
class Region:
    """Rows top <= i < bottom and columns left <= j < right of maps of a size (H, W)."""

    top: int
    bottom: int
    left: int
    right: int
    size: Size

    @property
    def shape(self) -> Size:
        """Return the region's height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def num_pixels(self) -> int:
        """Return how many pixels the region holds."""
        return self.shape[0] * self.shape[1]

    def grown(self, by: int) -> Region:
        """With `by` pixels more on each side; at a border all of them on the other side.

        So that a shape follows from a shape alone: a convolution's first call for a shape takes
        milliseconds.
        """
        return self._spread(self.shape[0] + 2 * by, self.shape[1] + 2 * by, by)

    def rounded(self, unit: int) -> Region:
        """The least region about this one whose sides are multiples of `unit`, where they fit."""
        height, width = (-(-side // unit) * unit for side in self.shape)
        return self._spread(height, width, 0)

    def _spread(self, height: int, width: int, before: int) -> Region:
        """Another shape, from `before` pixels before on, moved into the maps."""
        height, width = min(height, self.size[0]), min(width, self.size[1])
        top = min(max(self.top - before, 0), self.size[0] - height)
        left = min(max(self.left - before, 0), self.size[1] - width)
        return Region(top, top + height, left, left + width, self.size)

    def joined(self, other: Region) -> Region:
        """The least that holds both, of maps of the same size."""
        return Region(min(self.top, other.top), max(self.bottom, other.bottom),
                      min(self.left, other.left), max(self.right, other.right), self.size)

    def unpooled(self, size: Size) -> Region:
        """What averaging over 2 x 2 pixels reads of maps of a size, rounded up, for this."""
        return Region(2 * self.top, min(2 * self.bottom, size[0]),
                      2 * self.left, min(2 * self.right, size[1]), size)

    def unresized(self, size: Size) -> Region:
        """What `resized_maps.resized` reads for this of maps of a size.

        Its shape follows from this one's.
        """
        return Region(*read_side(self.top, self.bottom, self.size[0], size[0]),
                      *read_side(self.left, self.right, self.size[1], size[1]), size)


def mask_regions(masks: Tensor) -> list[Region]:
    """The least region of each mask (B, 1, H, W) that holds all of it; one pixel of an empty one.

    The host reads the masks.
    """
    sides = []
    for along in (3, 2):
        has_any = masks.any(along).any(1)                              # (B, H) or (B, W)
        length = has_any.shape[1]
        counts = torch.arange(length, device=masks.device)
        first = torch.where(has_any, counts, length).amin(1).clamp(max=length - 1)
        last = torch.maximum(torch.where(has_any, counts, 0).amax(1), first)
        sides += [first.tolist(), (last + 1).tolist()]
    size = (masks.shape[-2], masks.shape[-1])
    return [Region(top, bottom, left, right, size)
            for top, bottom, left, right in zip(*sides, strict=True)]


@dataclass(frozen=True)
class ViewRegions:
    """What a training step reads of views.

    Attributes:
        targets: of their rendered images: what lies under the masks.
        sources: of their features: samples that count touch the mask.
    """

    targets: list[Region]
    sources: list[Region]

    def of(self, targets: Tensor, sources: Tensor) -> ViewRegions:
        """Those of some views, by their index."""
        return ViewRegions([self.targets[view] for view in targets.tolist()],
                           [self.sources[view] for view in sources.tolist()])


def view_regions(masks: Tensor) -> ViewRegions:
    """Of all views of a scene with masks (V, 1, H, W)."""
    tight = mask_regions(masks)
    return ViewRegions(of_few_shapes(tight), of_few_shapes([region.grown(1) for region in tight]))


def of_few_shapes(regions: list[Region], most: int = MOST_SHAPES) -> list[Region]:
    """Regions about these of at most `most` shapes."""
    unit = 1
    while len({region.rounded(unit).shape for region in regions}) > most:
        unit *= 2
    return [region.rounded(unit) for region in regions]


def read_side(start: int, stop: int, length: int, length_read: int) -> tuple[int, int]:
    """First pixel that a resized side's pixels need, and the one after the last.

    What lies on a pixel may be rounded to just before it.
    """
    steps = max(length - 1, 1)
    count = min((stop - start - 1) * (length_read - 1) // steps + 3, length_read)
    first = max((start * (length_read - 1) - 1) // steps, 0)
    first = min(first, length_read - count)
    return first, first + count
