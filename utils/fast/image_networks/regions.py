"""Windows of maps: what of a network's input its result inside a window depends on.

A map of the whole is never needed for a part of the result; only resizing has to know where the
part lies (`joined_convolution`), as its phase depends on the size of the whole.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Size = tuple[int, int]

#: Shapes of a scene's windows: oneDNN prepares itself for each shape of a convolution's input, 2 ms
#: that it needs again when it has seen 1,024 others; D and E have 26 convolutions in windows, each
#: with two gradients.
MOST_SHAPES = 10


@dataclass(frozen=True)
class Window:
    """Rows top <= i < bottom and columns left <= j < right of maps of a size (H, W)."""

    top: int
    bottom: int
    left: int
    right: int
    size: Size

    @property
    def shape(self) -> Size:
        """(h, w)."""
        return self.bottom - self.top, self.right - self.left

    @property
    def num_pixels(self) -> int:
        """h * w."""
        return self.shape[0] * self.shape[1]

    def grown(self, by: int) -> Window:
        """With `by` pixels more on each side; at a border all of them on the other side.

        So that a shape follows from a shape alone: a convolution's first call for a shape takes
        milliseconds.
        """
        return self._spread(self.shape[0] + 2 * by, self.shape[1] + 2 * by, by)

    def rounded(self, unit: int) -> Window:
        """The least window about this one whose sides are multiples of `unit`, where they fit."""
        height, width = (-(-side // unit) * unit for side in self.shape)
        return self._spread(height, width, 0)

    def _spread(self, height: int, width: int, before: int) -> Window:
        """Another shape, from `before` pixels before on, moved into the maps."""
        spans = []
        for start, length, most in ((self.top, height, self.size[0]),
                                    (self.left, width, self.size[1])):
            length = min(length, most)
            start = min(max(start - before, 0), most - length)
            spans += [start, start + length]
        return Window(*spans, self.size)

    def joined(self, other: Window) -> Window:
        """The least that holds both, of maps of the same size."""
        return Window(min(self.top, other.top), max(self.bottom, other.bottom),
                      min(self.left, other.left), max(self.right, other.right), self.size)

    def unpooled(self, size: Size) -> Window:
        """What averaging over 2 x 2 pixels reads of maps of a size, rounded up, for this."""
        return Window(2 * self.top, min(2 * self.bottom, size[0]),
                      2 * self.left, min(2 * self.right, size[1]), size)

    def unresized(self, size: Size) -> Window:
        """What `resized_maps.resized` reads for this of maps of a size.

        Its shape follows from this one's.
        """
        return Window(*read_side(self.top, self.bottom, self.size[0], size[0]),
                      *read_side(self.left, self.right, self.size[1], size[1]), size)


@dataclass(frozen=True)
class Part:
    """A window of maps: (B, C, h, w)."""

    maps: Tensor
    window: Window

    def cut(self, window: Window) -> Tensor:
        """A window inside this one, (B, C, h', w').

        By padding with less than nothing: the gradient of a slice would not be in channels-last
        memory, and all that follows it would be slower.
        """
        own = self.window
        if window == own:
            return self.maps
        return F.pad(self.maps, (own.left - window.left, window.right - own.right,
                                 own.top - window.top, window.bottom - own.bottom))

    def split(self) -> list[Part]:
        """Of each map."""
        return [Part(maps, self.window) for maps in self.maps.split(1)]

    def padded(self) -> Tensor:
        """(B, C, H, W), zero elsewhere."""
        own, (height, width) = self.window, self.window.size
        return F.pad(self.maps, (own.left, width - own.right, own.top, height - own.bottom))


def whole(maps: Tensor) -> Part:
    """All of (B, C, H, W)."""
    height, width = maps.shape[-2:]
    return Part(maps, Window(0, height, 0, width, (height, width)))


def reach(network: nn.Module) -> int:
    """Pixels on each side that a chain of convolutions without strides depends on."""
    return sum(module.kernel_size[0] // 2 for module in network.modules()
               if isinstance(module, nn.Conv2d))


def on_window(network: nn.Module, part: Part, window: Window) -> Part:
    """The result on a window of such a chain, which keeps the maps' size, from what it reads."""
    read = window.grown(reach(network))
    return Part(Part(network(part.cut(read)), read).cut(window), window)


def mask_windows(masks: Tensor) -> list[Window]:
    """The least window of each mask (B, 1, H, W) that holds all of it; one pixel of an empty one.

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
    return [Window(*bounds, tuple(masks.shape[-2:])) for bounds in zip(*sides, strict=True)]


@dataclass(frozen=True)
class ViewWindows:
    """What a training step reads of views.

    Attributes:
        targets: of their rendered images: what lies under the masks.
        sources: of their features: samples that count touch the mask.
    """

    targets: list[Window]
    sources: list[Window]

    def of(self, targets: Tensor, sources: Tensor) -> ViewWindows:
        """Those of some views, by their index."""
        return ViewWindows([self.targets[view] for view in targets.tolist()],
                           [self.sources[view] for view in sources.tolist()])


def view_windows(masks: Tensor) -> ViewWindows:
    """Of all views of a scene with masks (V, 1, H, W)."""
    tight = mask_windows(masks)
    return ViewWindows(of_few_shapes(tight), of_few_shapes([window.grown(1) for window in tight]))


def of_few_shapes(windows: list[Window], most: int = MOST_SHAPES) -> list[Window]:
    """Windows about these of at most `most` shapes."""
    unit = 1
    while len({window.rounded(unit).shape for window in windows}) > most:
        unit *= 2
    return [window.rounded(unit) for window in windows]


def read_side(start: int, stop: int, length: int, length_read: int) -> tuple[int, int]:
    """First pixel that a resized side's pixels need, and the one after the last.

    What lies on a pixel may be rounded to just before it.
    """
    steps = max(length - 1, 1)
    count = min((stop - start - 1) * (length_read - 1) // steps + 3, length_read)
    first = max((start * (length_read - 1) - 1) // steps, 0)
    first = min(first, length_read - count)
    return first, first + count
