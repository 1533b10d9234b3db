"""Parts of maps: networks computed on a region, from no more than it depends on.

The twin is the network on whole maps, cut to the region (`modules_unet.UNet.forward`). Only
resizing has to know where a part lies (`joined_convolution`), as its phase depends on the size of
the whole.
"""
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from utils.views.regions import Region


@dataclass(frozen=True)
class Part:
    """A region of maps: (B, C, h, w)."""

    maps: Tensor
    region: Region

    def cut(self, region: Region) -> Tensor:
        """A region inside this one, (B, C, h', w').

        By padding with less than nothing: the gradient of a slice would not be in channels-last
        memory, and all that follows it would be slower.
        """
        own = self.region
        if region == own:
            return self.maps
        return F.pad(self.maps, (own.left - region.left, region.right - own.right,
                                 own.top - region.top, region.bottom - own.bottom))

    def split(self) -> list[Part]:
        """Return the part of each map by itself."""
        return [Part(maps, self.region) for maps in self.maps.split(1)]

    def padded(self) -> Tensor:
        """(B, C, H, W), zero elsewhere."""
        own, (height, width) = self.region, self.region.size
        return F.pad(self.maps, (own.left, width - own.right, own.top, height - own.bottom))


def whole(maps: Tensor) -> Part:
    """All of (B, C, H, W)."""
    height, width = maps.shape[-2:]
    return Part(maps, Region(0, height, 0, width, (height, width)))


def reach(network: nn.Module) -> int:
    """Pixels on each side that a chain of convolutions without strides depends on."""
    return sum(module.kernel_size[0] // 2 for module in network.modules()
               if isinstance(module, nn.Conv2d))


def on_region(network: nn.Module, part: Part, region: Region) -> Part:
    """The result on a region of such a chain, which keeps the maps' size, from what it reads."""
    read = region.grown(reach(network))
    return Part(Part(network(part.cut(read)), read).cut(region), region)
