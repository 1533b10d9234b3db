"""Tracing an SDF, and sampling source views at the surface (METHOD 4 and 5).

The SDF comes in as a callable `points (N, 3) -> sdf (N,)`; nothing here knows networks.
"""
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.config.sections import TracingConfig
from utils.fast.siren.evaluator import fast_evaluator
from utils.fast.tracing.cpu_tracer import FastTracer
from utils.fast.tracing.gpu_tracer import DeviceTracer
from utils.geometry.cameras import Cameras, ndc_to_grid
from utils.geometry.rays import Rays, Surface, Tangents, Tracer, TraceResult
from utils.geometry.sdf import Sdf, Terms, gradient

SDF_THRESHOLD = 5e-5        # object units; |SDF| below it is on the surface (IDR's tracer)
NUM_SPHERE_STEPS = 10       # the release's config says 8, its code takes 10 (METHOD 9)
NUM_SECTION_SAMPLES = 100
NUM_SECANT_STEPS = 8
NUM_MASK_SAMPLES = 40
MIN_SLOPE = 1e-2            # least |<grad Phi, d>| of the differentiable hit


def trace_reference(sdf: Sdf, rays: Rays) -> TraceResult:
    """IDR's tracer, the plain form (METHOD 4): no gradient, everything in one batch.

    Marches from both ends of the sphere's chord at once; what has not settled after
    NUM_SPHERE_STEPS is sampled at NUM_SECTION_SAMPLES points between the ends, and the first
    change of sign refined by secant steps.

    Args:
        sdf: points (N, 3) to (N,), object space.
        rays: R rays.
    Returns:
        TraceResult with (R,) tensors.
    """
    with torch.no_grad():
        front, back, settled_mask, spent = _march_both_ends(sdf, rays)
        hit_mask = settled_mask.clone()
        t = torch.where(rays.sphere_mask, front, rays.t_near)
        index = (rays.sphere_mask & ~settled_mask & (front < back)).nonzero()[:, 0]
        if len(index):
            found = _section_search(sdf, rays[index], front[index], back[index])
            t[index], hit_mask[index] = found.t, found.hit_mask
            spent += found.num_evaluations
        return TraceResult(t, hit_mask, spent)


def _march_both_ends(sdf: Sdf, rays: Rays) -> tuple[Tensor, Tensor, Tensor, int]:
    """Sphere tracing from the near and the far end.

    Returns:
        front (R,): where the near march stands, not past the last point known to be outside when
        it has not settled; back (R,); settled_mask (R,): the near march is on the surface; the
        number of SDF evaluations.
    """
    active = rays.sphere_mask.nonzero()[:, 0]
    front, back = rays.t_near.clone(), rays.t_far.clone()
    settled_mask = torch.zeros_like(rays.sphere_mask)
    sdf_front, sdf_back = torch.zeros_like(front), torch.zeros_like(back)
    sdf_front[active] = sdf(rays[active].points(front[active]))
    sdf_back[active] = sdf(rays[active].points(back[active]))
    spent, last_outside = 2 * len(active), front.clone()
    settled_mask |= sdf_front < -SDF_THRESHOLD           # begins inside: hits where it begins
    for _ in range(NUM_SPHERE_STEPS):
        settled_mask |= (sdf_front.abs() <= SDF_THRESHOLD) & rays.sphere_mask & (front < back)
        near_open = rays.sphere_mask & ~settled_mask & (front < back)
        far_open = near_open & (sdf_back > SDF_THRESHOLD)
        ends = ((front, sdf_front, near_open, 1), (back, sdf_back, far_open, -1))
        for t, value, open_mask, sign in ends:
            index = open_mask.nonzero()[:, 0]
            if len(index):
                step = value[index] * sign
                t[index], value[index], used = _one_step(sdf, rays[index], t[index], step)
                spent += used
        last_outside = torch.where(sdf_front > 0, front, last_outside)
    settled_mask |= (sdf_front.abs() <= SDF_THRESHOLD) & rays.sphere_mask & (front < back)
    stuck_inside = ~settled_mask & (sdf_front < 0)
    return torch.where(stuck_inside, last_outside, front), back, settled_mask, spent


def _one_step(sdf: Sdf, rays: Rays, t: Tensor, step: Tensor) -> tuple[Tensor, Tensor, int]:
    """One step along (R,) rays; where it lands inside the surface, half of it is taken back."""
    new_t = t + step
    value = sdf(rays.points(new_t))
    inside = (value < -SDF_THRESHOLD).nonzero()[:, 0]
    if len(inside):
        new_t[inside] -= 0.5 * step[inside]
        value[inside] = sdf(rays[inside].points(new_t[inside]))
    return new_t, value, len(t) + len(inside)


def _section_search(sdf: Sdf, rays: Rays, start: Tensor, stop: Tensor) -> TraceResult:
    """First change of sign among uniform samples of [start, stop], refined by secant steps.

    Without a change of sign the point of least SDF is returned as a miss.
    """
    fractions = torch.linspace(0, 1, NUM_SECTION_SAMPLES).to(start)
    t = start[:, None] + (stop - start)[:, None] * fractions           # (R, S)
    values = sdf(rays.points(t).reshape(-1, 3)).reshape(t.shape)       # (R, S)
    inside = values < 0
    hit_mask = inside.any(-1)
    first = inside.int().argmax(-1).clamp(min=1)                       # first sample inside
    least = values.argmin(-1)
    rows = torch.arange(len(t), device=t.device)
    t_least = t[rows, least]
    low, high = t[rows, first - 1], t[rows, first]
    value_low, value_high = values[rows, first - 1], values[rows, first]
    hits = hit_mask.nonzero()[:, 0]
    refined = _secant(sdf, rays[hits], (low[hits], high[hits]), (value_low[hits], value_high[hits]))
    t_least[hits] = refined
    return TraceResult(t_least, hit_mask, values.numel() + NUM_SECANT_STEPS * len(hits))


def _secant(sdf: Sdf, rays: Rays, t: tuple[Tensor, Tensor],
            values: tuple[Tensor, Tensor]) -> Tensor:
    """Refine brackets t = (outside, inside) with SDF values (> 0, < 0) by false position."""
    (low, high), (value_low, value_high) = t, values
    middle = _false_position(low, high, value_low, value_high)
    for _ in range(NUM_SECANT_STEPS):
        value = sdf(rays.points(middle))
        outside = value > 0
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
        value_low = torch.where(outside, value, value_low)
        value_high = torch.where(outside, value_high, value)
        middle = _false_position(low, high, value_low, value_high)
    return middle


def _false_position(low: Tensor, high: Tensor, value_low: Tensor, value_high: Tensor) -> Tensor:
    drop = (value_low - value_high).clamp(min=1e-12)
    return low + (high - low) * (value_low / drop).clamp(0, 1)


def least_sdf_reference(sdf: Sdf, rays: Rays, num_samples: int = NUM_MASK_SAMPLES) -> Tensor:
    """(R,) distance of the least SDF among uniform samples of each ray's chord; no gradient."""
    with torch.no_grad():
        fractions = torch.linspace(0, 1, num_samples).to(rays.t_near)
        t = rays.t_near[:, None] + (rays.t_far - rays.t_near)[:, None] * fractions   # (R, S)
        values = sdf(rays.points(t).reshape(-1, 3)).reshape(t.shape)
        return t.gather(1, values.argmin(1, keepdim=True))[:, 0]


class ReferenceTracer:
    """The plain path: slow, obvious, the twin of everything faster.

    Args:
        num_mask_samples: samples of each ray in the search for its least SDF.
        rays_at_once: those of one view, usually; 0: all.
    """

    def __init__(self, num_mask_samples: int = NUM_MASK_SAMPLES, rays_at_once: int = 0) -> None:
        self.num_mask_samples, self.rays_at_once = num_mask_samples, rays_at_once

    def _parts(self, rays: Rays) -> list[Rays]:
        size = self.rays_at_once or max(len(rays), 1)
        return [rays[start:start + size] for start in range(0, max(len(rays), 1), size)]

    def trace(self, sdf: Sdf, rays: Rays) -> TraceResult:
        """See `trace_reference`; one view at a time."""
        found = [trace_reference(sdf, part) for part in self._parts(rays)]
        return TraceResult(torch.cat([part.t for part in found]),
                           torch.cat([part.hit_mask for part in found]),
                           sum(part.num_evaluations for part in found))

    def least_sdf(self, sdf: Sdf, rays: Rays, counts_mask: Tensor,
                  ignore_above: Tensor) -> tuple[Tensor, Tensor]:
        """See `least_sdf_reference`; every ray, whether it matters or not."""
        t = torch.cat([least_sdf_reference(sdf, part, self.num_mask_samples)
                       for part in self._parts(rays)])
        return torch.arange(len(rays), device=t.device), rays.points(t)

    def threads(self, sdf: Sdf) -> AbstractContextManager:
        """torch's, as ever."""
        return nullcontext()

    def rows(self, mask: Tensor) -> Tensor:
        """Those that are True."""
        return mask.nonzero()[:, 0]

    def value_and_slope(self, sdf: Sdf, points_obj: Tensor,
                        dirs_obj: Tensor) -> tuple[Tensor, Tensor]:
        """By automatic differentiation."""
        value, grad = gradient(sdf, points_obj, create_graph=False)
        return value, (grad * dirs_obj).sum(-1)

    def tangents(self, sdf: Sdf, rays: Rays, t: Tensor, known: Tangents | None) -> Tangents:
        """All at t."""
        return Tangents(t, *self.value_and_slope(sdf, rays.points(t), rays.dirs_obj))

    def values(self, sdf: Sdf, points_obj: Tensor, known: Tensor) -> Tensor:
        """In one batch, computed again."""
        return sdf(points_obj)

    def total_of_values(self, sdf: Sdf, terms: Terms, points_obj: Tensor,
                        *inputs: Tensor) -> Tensor:
        """In one batch."""
        return terms(sdf(points_obj), *inputs).sum()

    def total_of_gradients(self, sdf: Sdf, terms: Terms, points_obj: Tensor) -> Tensor:
        """In one batch, by automatic differentiation with a graph for a second one."""
        return terms(gradient(sdf, points_obj, create_graph=True)[1]).sum()

    def eikonal_points(self, points_obj: Tensor) -> Tensor:
        """All of them."""
        return points_obj


def make_tracer(tracing: TracingConfig, pixels: int = 0,
                device: torch.device | str = "cpu") -> Tracer:
    """The tracer of the flags on a device; the plain one traces `pixels` of one view at once."""
    if tracing.tracer == "reference":
        return ReferenceTracer(tracing.rt_num_mask_steps, pixels)
    if torch.device(device).type != "cpu":
        return DeviceTracer(tracing.rt_num_mask_steps, fast_evaluator)
    return FastTracer(trace_reference, tracing.rt_num_mask_steps, fast_evaluator)


def differentiable_hits(sdf: Sdf, rays: Rays, t: Tensor, slope: Tensor) -> Tensor:
    """Hit points as a function of network, ray and camera (METHOD 4).

    x = o + d (t0 - Phi(o + t0 d) / g), with g = <grad Phi, d> kept away from zero.

    Args:
        sdf: differentiable SDF.
        rays: R rays that hit.
        t: (R,) distances at the hits, or one Newton step from them; taken as constants.
        slope: (R,) <grad Phi, d> there, taken as constants.
    Returns:
        points_obj (R, 3), differentiable in sdf's parameters and in the rays. A point that would
        leave the unit sphere (a ray that begins inside the object) stays at t.
    """
    t, slope = t.detach(), slope.detach()
    sign = torch.where(slope < 0, -1.0, 1.0).to(slope)
    slope = sign * slope.abs().clamp(min=MIN_SLOPE)
    refined = t - sdf(rays.points(t)) / slope
    inside = (refined >= rays.t_near) & (refined <= rays.t_far)
    return rays.points(torch.where(inside, refined, t))


def project_to_sources(points_obj: Tensor, sources: Cameras) -> tuple[Tensor, Tensor]:
    """Surface maps of T targets seen by K sources.

    Args:
        points_obj: (T, 3, H, W), object space.
        sources: K cameras.
    Returns:
        uv_grid (K, T, H, W, 2), grid_sample coordinates (first and last pixel centre at -1, 1), and
        inside_mask (K, T, H, W) bool: in front of the camera and within the image.
    """
    points = points_obj.permute(0, 2, 3, 1)                            # (T, H, W, 3)
    xy_ndc, depth = sources.project(points)        # (K, T, H, W, 2), (K, T, H, W)
    inside_mask = (depth > 0) & (xy_ndc.abs() <= 1).all(-1)
    return ndc_to_grid(xy_ndc, sources.resolution), inside_mask


def sample_maps(maps: Tensor, uv_grid: Tensor) -> Tensor:
    """Sample a map of each source bilinearly at that source's projections; one call for all.

    Args:
        maps: (K, C, Hs, Ws).
        uv_grid: (K, T, H, W, 2).
    Returns:
        (K, T, C, H, W); the border is repeated, so mask what falls outside.
    """
    num_sources, num_targets, height, width, _ = uv_grid.shape
    grid = uv_grid.reshape(num_sources, num_targets * height, width, 2)
    out = F.grid_sample(maps, grid, padding_mode="border", align_corners=True)
    out = out.reshape(num_sources, -1, num_targets, height, width)     # (K, C, T, H, W)
    return out.transpose(1, 2)


def visible_in_sources(targets: Surface, sources: Surface, source_masks: Tensor, uv_grid: Tensor,
                       *, inside_mask: Tensor, occ_threshold: float) -> Tensor:
    """Which samples count (METHOD 5, tests 1 to 3), occlusion by traced surfaces; no gradient.

    Args:
        targets, sources: surfaces of T and K views.
        source_masks: (K, 1, Hs, Ws) bool, object in the photographs.
        uv_grid, inside_mask: from `project_to_sources`.
        occ_threshold: squared distance in object units that still is the same surface point.
    Returns:
        (K, T, H, W) bool.
    """
    with torch.no_grad():
        packed = torch.cat([sources.points_obj, source_masks.to(sources.points_obj.dtype)], 1)
        sampled = sample_maps(packed, uv_grid)                         # (K, T, 4, H, W)
        distance_sq = (sampled[:, :, :3] - targets.points_obj).square().sum(2)
        same_point = distance_sq < occ_threshold
        return inside_mask & targets.hit_mask[:, 0] & same_point & (sampled[:, :, 3] >= 0.5)


def correlated_in_sources(features: Tensor, in_view_mask: Tensor, threshold: float = 0.5) -> Tensor:
    """Occlusion test without source surfaces: a sample counts when it agrees with the others.

    Args:
        features: (K, T, C, H, W) sampled features.
        in_view_mask: (K, T, H, W) bool, samples inside image and mask.
        threshold: least cosine between a sample and the mean of all samples of its pixel.
    Returns:
        (K, T, H, W) bool; no gradient.
    """
    with torch.no_grad():
        weight = in_view_mask[:, :, None].to(features.dtype)
        mean = (features * weight).sum(0) / weight.sum(0).clamp(min=1)
        return in_view_mask & (F.cosine_similarity(features, mean[None], dim=2) >= threshold)


def lumigraph_weights(points_obj: Tensor, target_dirs: Tensor, sources: Cameras,
                      counts_mask: Tensor, *, epipolar: bool) -> Tensor:
    """Blending weights from directions alone (unstructured lumigraph; METHOD 5).

    Args:
        points_obj: (T, 3, H, W) surface.
        target_dirs: (T, 3, H, W) unit target ray directions, object space.
        sources: K cameras.
        counts_mask: (K, T, H, W) bool.
        epipolar: False: cosine between the rays to target and source, at least 0. True:
            w = (1 / a) (1 - a / max a), a = angle between them, max over the sources that count.
    Returns:
        (K, T, H, W), not normalised, 0 where the sample does not count.
    """
    centers = sources.centers_obj[:, None, :, None, None]              # (K, 1, 3, 1, 1)
    source_dirs = F.normalize(points_obj - centers, dim=2)             # (K, T, 3, H, W)
    cosine = (source_dirs * target_dirs).sum(2).clamp(-1 + 1e-6, 1 - 1e-6)
    if not epipolar:
        return cosine.clamp(min=0) * counts_mask
    angle = torch.acos(cosine)
    largest = (angle * counts_mask).amax(0)
    # a single source that counts has a = max a, hence weight 0 by the formula: keep it alive
    weight = (1 - angle / largest.clamp(min=1e-6)).clamp(min=1e-3) / angle.clamp(min=1e-3)
    return weight * counts_mask
