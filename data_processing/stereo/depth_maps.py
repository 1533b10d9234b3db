"""Depths of every training view, and how far they can be relied on."""
from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from data_processing.stereo.aggregation import aggregate, least_planes
from data_processing.stereo.blending import trace_grid
from data_processing.stereo.consistency import DepthMaps, num_agreeing
from data_processing.stereo.plane_sweep import (
    DepthRays,
    Photographs,
    SweptView,
    box_sums,
    depth_in,
    depth_rays,
    nearest_sources,
    photographs_of,
    sweep_along,
    sweep_planes,
)
from utils.geometry.cameras import Cameras
from utils.geometry.visual_hull import Hull

#: Costs of a hypothesis outside the hull: in the aggregation, and when the best plane is taken.
OUTSIDE_COST, NEVER = 2.0, 1e3
#: A hypothesis may lie outside the hull by this fraction of a cell.
HULL_SLACK = 0.5
#: Steps before and behind the hull's own range that the surface parallel to it is moved.
SPARE_STEPS = 2
#: Side of the window in which confident depths support each other, pixels.
SUPPORT_SIZE = 7


@dataclass(frozen=True)
class SweepSettings:
    """How depths are looked for. Measured on five real scenes of 7 views; none is critical.

    Attributes:
        num_planes: through the hull's range of depths.
        patch_size: pixels, odd.
        num_sources: nearest other views that a view is compared with.
        max_degrees: the largest angle to them at the object.
        min_degrees: of the angles that are preferred.
        small_penalty, large_penalty: of the aggregation, in units of 1 - NCC.
        tolerance: depths of two views within it confirm each other, object units.
        ncc: at which confidence begins, and at which it is 1.
        by_agreement: factor on the confidence of a depth that 0, 1, 2 or more views confirm.
    """

    num_planes: int = 64
    patch_size: int = 5
    num_sources: int = 4
    max_degrees: float = 45.0
    min_degrees: float = 15.0
    small_penalty: float = 0.08
    large_penalty: float = 0.5
    tolerance: float = 0.02
    ncc: tuple[float, float] = (0.4, 0.8)
    by_agreement: tuple[float, ...] = (0.0, 0.5, 1.0)
    support: tuple[float, float] = (0.2, 0.5)


SWEEP = SweepSettings()


def sources_of(cameras: Cameras, hull: Hull, settings: SweepSettings) -> list[list[int]]:
    """For each view the others that it is compared with; see `nearest_sources`."""
    return nearest_sources(cameras, hull.points().mean(0), max_degrees=settings.max_degrees,
                           num_sources=settings.num_sources, min_degrees=settings.min_degrees)


def find_depths(cameras: Cameras, images: Tensor, masks: Tensor, hull: Hull,
                settings: SweepSettings = SWEEP) -> DepthMaps:
    """Depths of all views by plane sweeps inside the hull, checked against each other.

    Args:
        cameras: V cameras.
        images: (V, 3, H, W) RGB in [0, 1].
        masks: (V, 1, H, W) bool, object.
        hull: bounds the depths; not empty.
        settings: see the class.
    Returns:
        depths, with confidences by NCC and by agreement. A view without sources has none.
    """
    photographs = photographs_of(cameras, images, masks)
    fronts = front_depths(hull, cameras)
    depth, ncc = torch.ones_like(fronts), torch.zeros_like(fronts)
    found_mask = torch.zeros_like(fronts, dtype=torch.bool)
    sources = sources_of(cameras, hull, settings)
    for view in tqdm(range(len(cameras)), desc="depth of views", unit="view", leave=False):
        if sources[view] and bool(masks[view].any()):
            depth[view], ncc[view], found_mask[view] = _depth_of_view(
                photographs, view, sources[view], hull, front=fronts[view], settings=settings)
    maps = DepthMaps(depth, ncc, found_mask)
    low, high = settings.ncc
    factors = torch.tensor(settings.by_agreement, device=depth.device)
    agreeing = num_agreeing(maps, cameras, settings.tolerance).clamp(max=len(factors) - 1)
    confidence = ((ncc - low) / (high - low)).clamp(0, 1) * factors[agreeing]
    confidence = confidence * found_mask
    factor = supported(confidence, masks[:, 0], settings.support)
    return replace(maps, confidence=confidence * factor)


def supported(confidence: Tensor, masks: Tensor, support: tuple[float, float]) -> Tensor:
    """Factor (V, H, W) in [0, 1] by how much of the object about each pixel is confident.

    Confident pixels that stand alone in parts without texture agree by accident.

    Args:
        confidence: (V, H, W).
        masks: (V, H, W) bool, object.
        support: fractions at which the factor is 0, and 1.
    """
    inside = masks.to(confidence)
    fraction = box_sums((confidence > 0) * inside, SUPPORT_SIZE) \
        / box_sums(inside, SUPPORT_SIZE).clamp(min=1)
    return ((fraction - support[0]) / (support[1] - support[0])).clamp(0, 1)


def front_depths(hull: Hull, cameras: Cameras) -> Tensor:
    """(V, H, W) depth of the hull's front, object units; beside it, that of the nearest pixel."""
    surface, _ = trace_grid(hull, cameras)
    fronts = []
    for view in range(len(cameras)):
        depth = depth_in(cameras[view], surface.points_obj[view].permute(1, 2, 0))[1][0]
        missed = ~surface.hit_mask[view, 0]
        index = ndimage.distance_transform_edt(missed.cpu().numpy(), return_distances=False,
                                               return_indices=True)
        fronts.append(depth[tuple(torch.from_numpy(index).to(depth.device))])
    return torch.stack(fronts)


def _depth_of_view(photographs: Photographs, view: int, sources: list[int], hull: Hull, *,
                   front: Tensor, settings: SweepSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Depth, NCC and where they are: (H, W) each, of one view."""
    cut = _box_of(photographs.maps[view, 1] > 0.5)
    rays = depth_rays(photographs.cameras[view])
    swept = SweptView(DepthRays(rays.origin, rays.steps[cut]),
                      photographs.maps[view][(slice(None), *cut)], settings.patch_size)
    inverses = _inverse_planes(photographs.cameras[view], hull, settings.num_planes)
    inside = _inside_hull(swept, inverses, hull)                       # (D, h, w)
    others = Photographs(photographs.cameras[sources], photographs.maps[sources])
    score = torch.maximum(
        sweep_planes(swept, others, inverses),
        sweep_along(swept, others, inverses, surface=front[cut],
                    offsets=_offsets(inside, inverses, front[cut])))
    cost = torch.where(inside, 1 - score, OUTSIDE_COST) * (swept.maps[1] > 0.5)
    cost = aggregate(cost, small_penalty=settings.small_penalty,
                     large_penalty=settings.large_penalty)
    index, place = least_planes(torch.where(inside, cost, NEVER))
    found = inside.any(0)
    inverse = inverses[0] - place * (inverses[0] - inverses[1])
    depth, ncc = torch.ones_like(front), torch.zeros_like(front)
    found_mask = torch.zeros_like(front, dtype=torch.bool)
    depth[cut] = torch.where(found, 1 / inverse, torch.ones_like(inverse))
    ncc[cut] = score.gather(0, index[None])[0] * found
    found_mask[cut] = found
    return depth, ncc, found_mask


def _box_of(mask: Tensor) -> tuple[slice, slice]:
    """Rows and columns of a mask's (H, W) bounding box."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    return (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))


def _inverse_planes(camera: Cameras, hull: Hull, num_planes: int) -> Tensor:
    """(D,) inverse depths, evenly spaced, through the hull's range in a view, near ones first."""
    _, depth = depth_in(camera, hull.points())
    near = max(float(depth.min()) - hull.cell, hull.cell)
    far = max(float(depth.max()), near) + hull.cell
    return torch.linspace(1 / near, 1 / far, num_planes, device=depth.device)


def _inside_hull(swept: SweptView, inverses: Tensor, hull: Hull) -> Tensor:
    """(D, H, W) bool: the hypothesis is of a pixel of the object and lies in the hull."""
    mask = swept.maps[1] > 0.5
    planes = (1 / inverses)[:, None, None].expand(-1, *mask.shape)
    points = swept.rays.points(planes)[:, mask]                        # (D, P, 3)
    inside = torch.zeros(planes.shape, dtype=torch.bool, device=mask.device)
    inside[:, mask] = hull.sdf(points) < HULL_SLACK * hull.cell
    return inside


def _offsets(inside: Tensor, inverses: Tensor, front: Tensor) -> range:
    """By how many planes the hull's front is moved to reach its back, everywhere."""
    numbers = torch.arange(len(inverses), device=front.device)[:, None, None]
    last = (inside * numbers).amax(0)
    first = (inverses[0] - 1 / front) / (inverses[0] - inverses[1])
    thickness = (last - first)[inside.any(0)]
    deepest = int(thickness.max()) if len(thickness) else 0
    return range(-SPARE_STEPS, max(deepest, 0) + SPARE_STEPS + 1)
