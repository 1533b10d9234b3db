"""Views of a signed distance grid, coloured by the source photographs: no network, no training.

It is the baseline of image-based rendering, and the measure by which a start is chosen: how well a
surface renders each training view from the others.
"""
from __future__ import annotations

import torch
from torch import Tensor

from sdf_rendering import lumigraph_weights, project_to_sources, sample_maps, visible_in_sources
from utils.geometry.cameras import Cameras
from utils.geometry.rays import Rays, Surface, camera_rays
from utils.geometry.visual_hull import Hull
from utils.views.training_views import Sources

#: Squared distance in object units under which a source sees a point: that of training's begin.
OCC_THRESHOLD = 1e-3
NUM_MARCH_STEPS, NUM_SECANT_STEPS = 64, 4


def trace_grid(hull: Hull, cameras: Cameras) -> tuple[Surface, Tensor]:
    """Where the rays of V cameras meet a distance grid, inside the unit sphere.

    Returns:
        the surface, and the rays' unit directions (V, 3, H, W).
    """
    rays = camera_rays(cameras)
    t, before = rays.t_near.clone(), rays.t_near.clone()
    alive = rays.sphere_mask.nonzero()[:, 0]
    hit_mask = torch.zeros_like(rays.sphere_mask)
    for _ in range(NUM_MARCH_STEPS):
        value = hull.sdf(rays[alive].points(t[alive]))
        inside = value <= 0
        hit_mask[alive[inside]] = True
        alive, value = alive[~inside], value[~inside]
        before[alive] = t[alive]
        t[alive] += value.clamp(min=0.25 * hull.cell)
        alive = alive[t[alive] < rays.t_far[alive]]
        if not len(alive):
            break
    index = hit_mask.nonzero()[:, 0]
    t[index] = _settled(hull, rays[index], before[index], t[index])
    width, height = cameras.resolution

    def as_maps(flat: Tensor) -> Tensor:
        return flat.reshape(len(cameras), height, width, -1).permute(0, 3, 1, 2).contiguous()

    return Surface(as_maps(rays.points(t)), as_maps(hit_mask)), as_maps(rays.dirs_obj)


def _settled(hull: Hull, rays: Rays, low: Tensor, high: Tensor) -> Tensor:
    """(R,) distances of the crossing between low (outside) and high (inside).

    By bisection and a last secant step.
    """
    for _ in range(NUM_SECANT_STEPS):
        middle = (low + high) / 2
        inside = hull.sdf(rays.points(middle)) <= 0
        low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
    first, second = hull.sdf(rays.points(low)), hull.sdf(rays.points(high))
    return low + (high - low) * (first / (first - second).clamp(min=1e-9)).clamp(0, 1)


def blend_colours(surface: Surface, dirs_obj: Tensor, sources: Sources,
                  exclude: int | None = None) -> Tensor:
    """Source colours at the surface of T targets, weighed by angle (unstructured lumigraph).

    Where the occlusion test leaves no source, all that show the point count.

    Args:
        surface, dirs_obj: of the targets, (T, 3, H, W) each.
        sources: K views.
        exclude: source that is a target itself.
    Returns:
        (T, 3, H, W) RGB, 0 where the surface is missed.
    """
    uv_grid, inside = project_to_sources(surface.points_obj, sources.cameras)
    if exclude is not None:
        inside = inside.clone()
        inside[exclude] = False
    seen = visible_in_sources(surface, sources.surface, sources.masks, uv_grid,
                              inside_mask=inside, occ_threshold=OCC_THRESHOLD)
    shown = inside & surface.hit_mask[:, 0]
    counts = torch.where(seen.any(0), seen, shown)
    weights = lumigraph_weights(surface.points_obj, dirs_obj, sources.cameras, counts,
                                epipolar=True)
    weights = weights / weights.sum(0).clamp(min=1e-9)
    colours = sample_maps(sources.images, uv_grid)                     # (K, T, 3, H, W)
    return (colours * weights[:, :, None]).sum(0)


def masked_error(image: Tensor, photograph: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of masked images over all pixels, as the paper's PSNR takes it."""
    return ((image.clamp(0, 1) - photograph) * mask).square().mean()


def held_out_psnr(hull: Hull, cameras: Cameras, images: Tensor, masks: Tensor) -> Tensor:
    """(V,) PSNR of each view, rendered from the others on a surface.

    Args:
        hull: distance grid.
        cameras, images (V, 3, H, W), masks (V, 1, H, W) bool.
    """
    surface, dirs = trace_grid(hull, cameras)
    sources = Sources(cameras, images, masks, surface)
    found = []
    for view in range(len(cameras)):
        own = Surface(surface.points_obj[view:view + 1], surface.hit_mask[view:view + 1])
        image = blend_colours(own, dirs[view:view + 1], sources, exclude=view)[0]
        found.append(-10 * masked_error(image, images[view], masks[view]).clamp(min=1e-10).log10())
    return torch.stack(found)
