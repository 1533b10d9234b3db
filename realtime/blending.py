"""What source views show of surface points, blended: samples, visibility, aggregation.

`PlainBlending` is the reference, tensor by tensor; `FusedBlending` takes each point through all of
it in one loop, on the CPU with the extra `fast`.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from realtime.scene import ExportedScene, object_to_pixels
from realtime.students import PRIORS, StudentAggregation, blend_samples, direction_prior
from utils.fast.kernels.loading import loops_for
from utils.fast.threads import in_shares

#: Points that a thread takes at once.
SLICE = 4096


@dataclass(frozen=True)
class SurfacePoints:
    """The P pixels of a picture that see the surface.

    Attributes:
        pixels: (P,) their numbers, row by row, rising.
        points_obj: (P, 3).
        dirs_obj: (P, 3) unit directions of their rays.
    """

    pixels: Tensor
    points_obj: Tensor
    dirs_obj: Tensor


@dataclass(frozen=True)
class Samples:
    """What K source views show of P points.

    Attributes:
        features: (K, C, P).
        colours: (K, 3, P) in [0, 1].
        counts_mask: (K, P) bool, the view sees the point.
    """

    features: Tensor
    colours: Tensor
    counts_mask: Tensor


class Blending(Protocol):
    """Blends what source views show of points."""

    def __call__(self, points: SurfacePoints, exclude: int | None = None) -> tuple[Tensor, Tensor]:
        """Return what the decoder takes (C + 4, P), and the weights (K, P), which sum to 1.

        Args:
            points: P of them.
            exclude: number of a source view that must not be used.
        """
        ...


def make_blending(scene: ExportedScene, device: torch.device | str = "cpu") -> Blending:
    """Return the fused form where it can be had, else the plain one."""
    loops = loops_for(torch.zeros(0, device=device), "scene_views")
    if loops is None or not isinstance(scene.aggregation, StudentAggregation):
        return PlainBlending(scene, device)
    return FusedBlending(scene, loops)


class PlainBlending:
    """The reference.

    Args:
        scene: whose views are sampled.
        device: where to compute.
    """

    def __init__(self, scene: ExportedScene, device: torch.device | str = "cpu") -> None:
        self.device, self.tolerance = torch.device(device), scene.depth_tolerance
        self.cameras = scene.cameras.to(device)
        self.maps = torch.cat([scene.features.values(), scene.photographs.float() / 255,
                               scene.masks.float()], 1).to(device)       # (K, C + 4, H, W)
        self.depths = scene.depths.values().flatten(1).to(device)        # (K, H W)
        self.aggregation = scene.aggregation.to(device)

    def __call__(self, points: SurfacePoints, exclude: int | None = None) -> tuple[Tensor, Tensor]:
        """See `Blending`."""
        samples = self.sample(points, exclude)
        return blend_samples(samples.features, samples.colours, self.weigh(samples, points),
                             samples.counts_mask)

    def sample(self, points: SurfacePoints, exclude: int | None = None) -> Samples:
        """Sample all source views at P points, and tell which of them see each."""
        xy_ndc, depth = self.cameras.project(points.points_obj)          # (K, P, 2), (K, P)
        width, height = self.cameras.resolution
        grid = xy_ndc[:, :, None] * torch.tensor([1.0, -1.0], device=self.device)
        found = F.grid_sample(self.maps, grid, padding_mode="border",
                              align_corners=False)[..., 0]               # (K, C + 4, P)
        corner = torch.tensor([width, height], device=self.device)
        uv = (grid[:, :, 0] + 1) / 2 * corner                            # (K, P, 2)
        counts = (depth > 0) & (xy_ndc.abs() <= 1).all(-1) & (found[:, -1] >= 0.5)
        surface = bilinear(self.depths, uv, (width, height))             # nan: no surface
        counts &= (surface - depth).abs() <= self.tolerance
        if exclude is not None:
            counts[exclude] = False
        return Samples(found[:, :-4], found[:, -4:-1], counts)

    def weigh(self, samples: Samples, points: SurfacePoints) -> Tensor:
        """Return G's weights (K, P), not normalised; 0 where a sample does not count."""
        view, point = samples.counts_mask.nonzero().unbind(-1)
        weights = torch.zeros(samples.counts_mask.shape, device=self.device)
        weights[view, point] = self.aggregation(samples.features[view, :, point],
                                                points.dirs_obj[point])
        return weights * direction_prior(
            self.aggregation.prior, points.points_obj, points.dirs_obj, self.cameras.centers_obj,
            counts_mask=samples.counts_mask)


class FusedBlending:
    """All of it in one loop over points.

    Codes are blended as they are: features and colours are affine in them, and so is the first
    layer of the aggregation.

    Args:
        scene: whose views are sampled; its aggregation may still be changed.
        loops: `utils.fast.kernels.scene_views`.
    """

    def __init__(self, scene: ExportedScene, loops: Any) -> None:
        self.loops, self.aggregation = loops, scene.aggregation
        self.tolerance, self.resolution = scene.depth_tolerance, scene.cameras.resolution
        codes = torch.cat([scene.features.codes, scene.photographs], 1).permute(0, 2, 3, 1)
        table = torch.zeros(codes.numel() + loops.WIDE, dtype=torch.uint8)
        table[:codes.numel()].view(codes.shape).copy_(codes)
        self.maps = (table.numpy(), scene.masks.to(torch.uint8).flatten().numpy(),
                     scene.depths.values().flatten().numpy())
        self.cameras = (object_to_pixels(scene.cameras).float().contiguous().numpy(),
                        scene.cameras.centers_obj.float().contiguous().numpy())
        self.low = torch.cat([scene.features.low, torch.zeros(3)])
        self.scale = torch.cat([(scene.features.high - scene.features.low) / 255,
                                torch.full((3,), 1 / 255)])

    def __call__(self, points: SurfacePoints, exclude: int | None = None) -> tuple[Tensor, Tensor]:
        """See `Blending`."""
        rays = tuple(x.float().contiguous().numpy() for x in (points.points_obj, points.dirs_obj))
        network, count = self._folded(), len(points.pixels)
        blended = torch.empty(count, len(self.low) + 1)
        weights = torch.empty(len(self.cameras[0]), count)
        found = blended.numpy().reshape(-1), weights.numpy()
        choice = (*self.resolution, PRIORS.index(self.aggregation.prior),
                  -1 if exclude is None else exclude)

        def work(slices: list[slice]) -> None:
            for part in slices:
                self.loops.blend_points(self.maps, self.cameras, rays, network,
                                        (*choice, part.start, part.stop), found)

        in_shares(work, count, SLICE)
        return blended.T, weights

    def _folded(self) -> tuple[Any, ...]:
        """Return the aggregation's weights for codes in place of features, as the loops take them.
        """
        hidden, out = self.aggregation.hidden, self.aggregation.out
        num, lanes = self.aggregation.num_features, self.loops.LANES
        weight, bias = hidden.weight.detach(), hidden.bias.detach()
        more = -len(bias) % lanes                                        # units of weight 0
        first = F.pad(weight[:, :num] * self.scale[:num], (0, -num % lanes, 0, more))
        first = first.unfold(0, lanes, lanes).unfold(1, lanes, lanes)    # (h / L, C / L, L, L)
        bias = bias + weight[:, :num] @ self.low[:num]
        along = F.pad(torch.cat([weight[:, num:].T, bias[None]]), (0, more))       # (4, h)
        last = F.pad(out.weight.detach()[0], (0, more))
        numbers = torch.cat([out.bias.detach(), torch.tensor([self.tolerance])])
        return tuple(part.float().contiguous().numpy() for part in (
            first.transpose(2, 3).flatten(), along.flatten(), last, numbers,
            torch.cat([self.scale, self.low])))


def bilinear(maps: Tensor, uv: Tensor, resolution: tuple[int, int]) -> Tensor:
    """Return maps (K, H W) at pixels uv (K, P, 2), bilinearly, the border repeated.

    Unlike `grid_sample`, nan in any of the four pixels is nan, even where its weight is 0.
    """
    width, height = resolution
    limits = torch.tensor([width - 1, height - 1], device=uv.device)
    place = torch.nan_to_num(uv - 0.5).clamp(-1, max(width, height))     # far outside as beside
    low = place.floor()
    fraction = place - low
    low, high = (torch.minimum(side.clamp(min=0), limits) for side in (low.long(), low.long() + 1))
    total = torch.zeros_like(place[..., 0])
    for row, down in ((low[..., 1], 1 - fraction[..., 1]), (high[..., 1], fraction[..., 1])):
        for column, right in ((low[..., 0], 1 - fraction[..., 0]), (high[..., 0],
                                                                    fraction[..., 0])):
            total = total + maps.gather(1, row * width + column) * down * right
    return total
