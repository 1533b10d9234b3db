"""Depth maps, what they say at points of space, and which of their depths other views confirm."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from data_processing.stereo.plane_sweep import depth_in, depth_rays
from utils.geometry.cameras import Cameras, ndc_to_grid

#: A depth counts at a point where this fraction of the four pixels about it has one.
MIN_COVERED = 0.5


@dataclass(frozen=True)
class DepthMaps:
    """Depths of V views.

    Attributes:
        depth: (V, H, W) along the camera's axis, object units; 1 where there is none.
        confidence: (V, H, W) in [0, 1], 0 where there is no depth.
        mask: (V, H, W) bool, where there is one.
    """

    depth: Tensor
    confidence: Tensor
    mask: Tensor


@dataclass(frozen=True)
class SeenDepth:
    """What one depth map says about N points.

    Attributes:
        before: (N,) how far the point lies in front of the map's surface, along the camera's
            axis, object units; negative behind it.
        confidence: (N,) interpolated, 0 where the map says nothing.
        known_mask: (N,) bool, the map has a depth there.
    """

    before: Tensor
    confidence: Tensor
    known_mask: Tensor


def seen_depth(maps: DepthMaps, view: int, camera: Cameras, points_obj: Tensor) -> SeenDepth:
    """A view's depth map at points.

    Inverse depths are interpolated, between those of the four pixels that have one.

    Args:
        maps: of V views.
        view: which of them.
        camera: of that view (V = 1).
        points_obj: (N, 3), object space.
    """
    xy_ndc, along = depth_in(camera, points_obj)
    grid = ndc_to_grid(xy_ndc[0], camera.resolution)[None, None]       # (1, 1, N, 2)
    mask = maps.mask[view].to(maps.depth)
    layers = torch.stack([mask / maps.depth[view], mask, maps.confidence[view]])
    inverse, covered, confidence = F.grid_sample(layers[None], grid, padding_mode="border",
                                                 align_corners=True)[0, :, 0]
    framed = (along[0] > 0) & (xy_ndc[0].abs() <= 1).all(-1)
    known = framed & (covered >= MIN_COVERED)
    surface = covered / inverse.clamp(min=1e-6)                        # (N,)
    return SeenDepth(surface - along[0], confidence * known, known)


def num_agreeing(maps: DepthMaps, cameras: Cameras, tolerance: float) -> Tensor:
    """How many other views see the same surface point, for each depth.

    Args:
        maps: of V views.
        cameras: V cameras.
        tolerance: along the other view's axis, object units.
    Returns:
        (V, H, W) int64, 0 where there is no depth.
    """
    count = torch.zeros_like(maps.depth, dtype=torch.int64)
    for view in range(len(cameras)):
        mask = maps.mask[view]
        points = depth_rays(cameras[view]).points(maps.depth[view])[mask]      # (N, 3)
        for other in range(len(cameras)):
            if other != view:
                seen = seen_depth(maps, other, cameras[other], points)
                count[view, mask] += seen.known_mask & (seen.before.abs() < tolerance)
    return count
