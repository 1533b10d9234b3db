"""Photo-consistency of depth hypotheses: 1 - NCC of patches warped along fields of depths.

A view is swept with a stack of surfaces, either planes parallel to its image or copies of a known
surface (the visual hull, or an earlier estimate) moved along the rays. Along each of them another
photograph is warped onto the view, and patches are compared by normalised cross-correlation, of
grey values about each patch's own mean. Depth is measured along the camera's axis, in object units;
hypotheses are spaced evenly in its inverse, as pixels of disparity are.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.geometry.cameras import Cameras, ndc_to_grid

#: A patch is compared when this fraction of its pixels shows the object in both photographs.
MIN_PATCH_FRACTION = 0.3
#: Variance (squared grey values) that noise and compression give a patch without texture.
NOISE_VARIANCE = 1e-4
#: Samples of a warped stack at once; bounds memory.
CHUNK = 1 << 20


@dataclass(frozen=True)
class DepthRays:
    """Rays of one view, scaled so that depth along the camera's axis is their parameter.

    Attributes:
        origin: (3,) camera centre, object space.
        steps: (H, W, 3), object space; origin + depth * steps has that depth.
    """

    origin: Tensor
    steps: Tensor

    def points(self, depth: Tensor) -> Tensor:
        """(..., H, W, 3) points at depths (..., H, W), object space."""
        return self.origin + depth[..., None] * self.steps


def depth_rays(camera: Cameras) -> DepthRays:
    """The rays of one camera (V = 1)."""
    origins, dirs = camera.pixel_rays()
    along = dirs @ camera.forward_obj[0]
    return DepthRays(origins[0, 0, 0], dirs[0] / along[0, ..., None])


def depth_in(cameras: Cameras, points_obj: Tensor) -> tuple[Tensor, Tensor]:
    """NDC (V, ..., 2) and depth (V, ...) in object units of points (..., 3) in V cameras."""
    xy_ndc, depth = cameras.project(points_obj)
    return xy_ndc, depth / cameras.model_scale


def nearest_sources(cameras: Cameras, center: Tensor, *, max_degrees: float, num_sources: int,
                    min_degrees: float = 0.0) -> list[list[int]]:
    """For each camera the others by angle at the object, nearest first.

    Those that are nearer than `min_degrees` come last, as they tell depth less precisely.

    Args:
        cameras: V cameras.
        center: (3,) of the object, object space.
        max_degrees: larger angles are left out.
        num_sources: at most so many.
        min_degrees: of the angles that are preferred.
    """
    degrees = angles_between(cameras, center)
    degrees.fill_diagonal_(torch.inf)
    preference = torch.where(degrees < min_degrees, max_degrees, degrees)
    order = preference.argsort(dim=1, stable=True)[:, :num_sources]
    return [[int(i) for i in row if degrees[view, i] <= max_degrees]
            for view, row in enumerate(order)]


def angles_between(cameras: Cameras, center: Tensor) -> Tensor:
    """(V, V) angles in degrees between directions from a point (3,) to the cameras."""
    dirs = F.normalize(cameras.centers_obj - center.to(cameras.view), dim=-1)
    return torch.rad2deg(torch.acos((dirs @ dirs.T).clamp(-1, 1)))


def box_sums(maps: Tensor, size: int) -> Tensor:
    """Sums over size x size windows about every pixel of maps (..., H, W); zero beyond the border.

    Powers of two of shifted copies are added, so that the work grows with the logarithm of `size`.
    """
    return _sums_along(_sums_along(maps, size, -1), size, -2)


def _sums_along(maps: Tensor, size: int, dim: int) -> Tensor:
    half = size // 2
    padding = (half, half) if dim == -1 else (0, 0, half, half)
    power, span = F.pad(maps, padding), 1                  # power: sums over `span` entries
    length, offset, total = maps.shape[dim], 0, None
    while True:
        if size & span:
            part = power.narrow(dim, offset, length)
            total = part if total is None else total + part
            offset += span
        if 2 * span > size:
            return total
        count = power.shape[dim] - span
        power = power.narrow(dim, 0, count) + power.narrow(dim, span, count)
        span *= 2


@dataclass(frozen=True)
class SweptView:
    """The view whose depths are looked for, cut to the object.

    Attributes:
        rays: of the cut-out's pixels (H, W).
        maps: (2, H, W) grey, see `grey_of`, and mask (1 on the object).
        patch_size: side of a patch, pixels, odd.
    """

    rays: DepthRays
    maps: Tensor
    patch_size: int


def grey_of(image: Tensor, mask: Tensor) -> Tensor:
    """(H, W) grey values of an image (3, H, W), about their mean on the mask (H, W), 0 off it."""
    grey = image.mean(0)
    mean = (grey * mask).sum() / mask.sum().clamp(min=1)
    return (grey - mean) * mask


def warp(source: Tensor, source_camera: Cameras, points_obj: Tensor) -> Tensor:
    """Maps of a source at points, 0 where it does not show them.

    Args:
        source: (C, Hs, Ws).
        source_camera: one camera.
        points_obj: (D, H, W, 3), object space.
    Returns:
        (C, D, H, W).
    """
    xy_ndc, depth = source_camera.project(points_obj)
    grid = ndc_to_grid(xy_ndc[0], source_camera.resolution)            # (D, H, W, 2)
    inside = (depth[0] > 0) & (xy_ndc[0].abs() <= 1).all(-1)
    shape = grid.shape[:-1]
    out = F.grid_sample(source[None], grid.reshape(1, -1, shape[-1], 2), padding_mode="border",
                        align_corners=True)
    return out.reshape(-1, *shape) * inside


def patch_ncc(swept: SweptView, warped: Tensor) -> Tensor:
    """NCC of the swept view's patches with a warped source's.

    Only pixels that show the object in both count. A patch whose texture is weak against noise is
    damped towards 0.

    Args:
        swept: the view.
        warped: (2, D, H, W) grey and mask of the source along D hypotheses.
    Returns:
        (D, H, W) in [-1, 1]; -1 where too little of the patch is seen.
    """
    joint = swept.maps[1] * (warped[1] > 0.5)                           # (D, H, W)
    ours, theirs = swept.maps[0] * joint, warped[0] * joint
    stack = torch.stack([joint, ours, theirs, ours * ours, theirs * theirs, ours * theirs])
    count, first, second, first_sq, second_sq, product = box_sums(stack, swept.patch_size)
    inverse = 1 / count.clamp(min=1)
    first, second = first * inverse, second * inverse
    covariance = product * inverse - first * second
    variances = [(square * inverse - mean * mean).clamp(min=0) + NOISE_VARIANCE
                 for square, mean in ((first_sq, first), (second_sq, second))]
    ncc = covariance / (variances[0] * variances[1]).sqrt()
    enough = count >= MIN_PATCH_FRACTION * swept.patch_size ** 2
    return torch.where(enough, ncc, -torch.ones_like(ncc))


@dataclass(frozen=True)
class Photographs:
    """What stereo reads of V views.

    Attributes:
        cameras: V cameras.
        maps: (V, 2, H, W) grey (see `grey_of`) and mask.
    """

    cameras: Cameras
    maps: Tensor


def photographs_of(cameras: Cameras, images: Tensor, masks: Tensor) -> Photographs:
    """Photographs of images (V, 3, H, W) and masks (V, 1, H, W) bool."""
    masks = masks.to(images)
    grey = torch.stack([grey_of(image, mask[0])
                        for image, mask in zip(images, masks, strict=True)])
    return Photographs(cameras.to(images), torch.cat([grey[:, None], masks], 1))


def best_two_ncc(swept: SweptView, sources: Photographs, depth: Tensor) -> Tensor:
    """Mean NCC of the two best sources along depth hypotheses of a view.

    Occluded sources drop out, as their patches do not fit. Where one source alone shows a patch,
    that one counts.

    Args:
        swept: the view.
        sources: photographs that it is compared with.
        depth: (D, H, W), object units.
    Returns:
        (D, H, W), -1 where no source shows the patch.
    """
    out = []
    for part in depth.split(max(1, CHUNK // depth[0].numel())):
        points = swept.rays.points(part)
        best = torch.full_like(part, -1.0)
        second = torch.full_like(part, -1.0)
        for source in range(len(sources.maps)):
            ncc = patch_ncc(swept, warp(sources.maps[source], sources.cameras[source], points))
            second = torch.maximum(second, torch.minimum(best, ncc))
            best = torch.maximum(best, ncc)
        out.append(torch.where(second > -1, (best + second) / 2, best))
    return torch.cat(out)


def sweep_planes(swept: SweptView, sources: Photographs, inverses: Tensor) -> Tensor:
    """NCC of every pixel at planes of inverse depths (D,), by patches parallel to the image.

    Returns:
        (D, H, W); see `best_two_ncc`.
    """
    depth = (1 / inverses)[:, None, None].expand(-1, *swept.maps.shape[1:])
    return best_two_ncc(swept, sources, depth)


def sweep_along(swept: SweptView, sources: Photographs, inverses: Tensor, *, surface: Tensor,
                offsets: range) -> Tensor:
    """NCC at planes by patches parallel to a surface.

    The surface is moved in inverse depth by whole steps of the planes; what lies in between is
    interpolated.

    Args:
        inverses: (D,) inverse depths of the planes, evenly spaced, descending.
        surface: (H, W) depth, object units.
        offsets: steps away from the camera by which it is moved.
    Returns:
        (D, H, W); -1 where the offsets do not reach.
    """
    step = inverses[0] - inverses[1]                                   # > 0
    moves = torch.arange(offsets.start, offsets.stop, device=step.device).to(step)
    moved = (1 / surface - step * moves[:, None, None]).clamp(min=float(inverses[-1]) / 4)
    found = best_two_ncc(swept, sources, 1 / moved)                    # (J, H, W)
    planes = torch.arange(len(inverses), device=step.device).to(step)[:, None, None]
    place = planes - (inverses[0] - 1 / surface) / step - offsets.start      # (D, H, W)
    low = place.floor()
    reached = (low >= 0) & (low < len(moves) - 1)
    low = low.clamp(0, len(moves) - 2)
    fraction = place - low
    low = low.long()
    values = found.gather(0, low) * (1 - fraction) + found.gather(0, low + 1) * fraction
    return torch.where(reached, values, -torch.ones_like(values))
