"""Tracing an SDF, and sampling source views at the surface (docs/method.md, sections 4 and 5).

In this order: trace, minimum SDF, differentiable hits, projection and sampling, tracers.

The SDF comes in as a callable `points (N, 3) -> sdf (N,)`; nothing here knows networks.
"""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.config.sections import TracingConfig
from utils.fast.siren.evaluator import fast_evaluator
from utils.fast.tracing.cpu_tracer import FastTracer
from utils.fast.tracing.gpu_tracer import DeviceTracer
from utils.geometry.cameras import Cameras, ndc_to_grid
from utils.geometry.rays import Rays, Surface, Tracer, TraceResult
from utils.geometry.sdf import SDF_THRESHOLD, Sdf, Terms, gradient

NUM_SPHERE_STEPS = 10       # the release's code takes 10 (docs/method.md, section 9)
NUM_SECTION_SAMPLES = 100
NUM_SECANT_STEPS = 8
NUM_MASK_SAMPLES = 40
MIN_DERIVATIVE = 1e-2       # least |<grad Phi, d>| of the differentiable hit


def trace_reference(sdf: Sdf, rays: Rays) -> TraceResult:
    """Trace rays with IDR's tracer (docs/method.md, section 4): no gradient, all in one batch.

    Marches from both ends of the sphere's chord at once; what has not converged after
    NUM_SPHERE_STEPS is sampled at NUM_SECTION_SAMPLES points between the ends, and the first
    change of sign refined by secant steps.

    Args:
        sdf: points (N, 3) to (N,), object space.
        rays: R rays.
    Returns:
        TraceResult with (R,) tensors.
    """
    with torch.no_grad():
        front, back, converged_mask, spent = _march_both_ends(sdf, rays)
        hit_mask = converged_mask.clone()
        t = torch.where(rays.sphere_mask, front, rays.t_near)
        index = (rays.sphere_mask & ~converged_mask & (front < back)).nonzero()[:, 0]
        if len(index):
            found = _section_search(sdf, rays[index], front[index], back[index])
            t[index], hit_mask[index] = found.t, found.hit_mask
            spent += found.num_evaluations
        return TraceResult(t, hit_mask, spent)


def _march_both_ends(sdf: Sdf, rays: Rays) -> tuple[Tensor, Tensor, Tensor, int]:
    """Sphere tracing from the near and the far end.

    Returns:
        front (R,): where the near march stands, not past the last point known to be outside when
        it has not converged; back (R,); converged_mask (R,): the near march is on the surface; the
        number of SDF evaluations.
    """
    active = rays.sphere_mask.nonzero()[:, 0]
    front, back = rays.t_near.clone(), rays.t_far.clone()
    converged_mask = torch.zeros_like(rays.sphere_mask)
    sdf_front, sdf_back = torch.zeros_like(front), torch.zeros_like(back)
    sdf_front[active] = sdf(rays[active].points(front[active]))
    sdf_back[active] = sdf(rays[active].points(back[active]))
    spent, last_outside = 2 * len(active), front.clone()
    converged_mask |= sdf_front < -SDF_THRESHOLD           # begins inside: hits where it begins
    for _ in range(NUM_SPHERE_STEPS):
        converged_mask |= (sdf_front.abs() <= SDF_THRESHOLD) & rays.sphere_mask & (front < back)
        near_open = rays.sphere_mask & ~converged_mask & (front < back)
        far_open = near_open & (sdf_back > SDF_THRESHOLD)
        ends = ((front, sdf_front, near_open, 1), (back, sdf_back, far_open, -1))
        for t, value, open_mask, sign in ends:
            index = open_mask.nonzero()[:, 0]
            if len(index):
                step = value[index] * sign
                t[index], value[index], used = _one_step(sdf, rays[index], t[index], step)
                spent += used
        last_outside = torch.where(sdf_front > 0, front, last_outside)
    converged_mask |= (sdf_front.abs() <= SDF_THRESHOLD) & rays.sphere_mask & (front < back)
    stuck_inside = ~converged_mask & (sdf_front < 0)
    return torch.where(stuck_inside, last_outside, front), back, converged_mask, spent


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

    Without a change of sign the point of minimum SDF is returned as a miss.
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


def minimum_sdf_reference(sdf: Sdf, rays: Rays, num_samples: int = NUM_MASK_SAMPLES) -> Tensor:
    """(R,) distance of the minimum SDF among uniform samples of each ray's chord; no gradient."""
    with torch.no_grad():
        fractions = torch.linspace(0, 1, num_samples).to(rays.t_near)
        t = rays.t_near[:, None] + (rays.t_far - rays.t_near)[:, None] * fractions   # (R, S)
        values = sdf(rays.points(t).reshape(-1, 3)).reshape(t.shape)
        return t.gather(1, values.argmin(1, keepdim=True))[:, 0]


def differentiable_hits(sdf: Sdf, rays: Rays, t: Tensor,
                        derivative: Tensor) -> Tensor:
    """Return hit points as functions of network, ray and camera (docs/method.md, section 4).

    x = o + d (t0 - Phi(o + t0 d) / g), with g = <grad Phi, d> kept away from zero.

    Args:
        sdf: differentiable SDF.
        rays: R rays that hit.
        t: (R,) distances at the hits, or one Newton step from them; taken as constants.
        derivative: (R,) <grad Phi, d> there, taken as constants.
    Returns:
        points_obj (R, 3), differentiable in sdf's parameters and in the rays. A point that would
        leave the unit sphere (a ray that begins inside the object) stays at t.
    """
    t, derivative = t.detach(), derivative.detach()
    sign = torch.where(derivative < 0, -1.0, 1.0).to(derivative)
    derivative = sign * derivative.abs().clamp(min=MIN_DERIVATIVE)
    refined = t - sdf(rays.points(t)) / derivative
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


def sample_maps(maps: Tensor, uv_grid: Tensor, *, padding: str = "border",
                mode: str = "bilinear") -> Tensor:
    """Sample a map of each source at that source's projections; one call for all.

    Args:
        maps: (K, C, Hs, Ws).
        uv_grid: (K, T, H, W, 2).
        padding: what lies beyond the outermost pixel centres: border (repeated) or zeros.
        mode: bilinear or nearest.
    Returns:
        (K, T, C, H, W); mask what falls outside.
    """
    num_sources, num_targets, height, width, _ = uv_grid.shape
    grid = uv_grid.reshape(num_sources, num_targets * height, width, 2)
    out = F.grid_sample(maps, grid, mode=mode, padding_mode=padding, align_corners=True)
    out = out.reshape(num_sources, -1, num_targets, height, width)     # (K, C, T, H, W)
    return out.transpose(1, 2)


def visible_in_sources(targets: Surface, sources: Surface, source_masks: Tensor, uv_grid: Tensor,
                       *, inside_mask: Tensor, occ_threshold: float) -> Tensor:
    """Tell which samples count, with traced surfaces (docs/method.md, section 5, tests 1-3).

    Args:
        targets, sources: surfaces of T and K views.
        source_masks: (K, 1, Hs, Ws) bool, object in the photographs.
        uv_grid, inside_mask: from `project_to_sources`.
        occ_threshold: squared distance in object units that still is the same surface point.
    Returns:
        (K, T, H, W) bool; no gradient.
    """
    with torch.no_grad():
        packed = torch.cat([sources.points_obj, source_masks.to(sources.points_obj.dtype)], 1)
        sampled = sample_maps(packed, uv_grid)                         # (K, T, 4, H, W)
        distance_sq = (sampled[:, :, :3] - targets.points_obj).square().sum(2)
        same_point = distance_sq < occ_threshold
        return inside_mask & targets.hit_mask[:, 0] & same_point & (sampled[:, :, 3] >= 0.5)


def visible_as_released(targets: Surface, sources: Surface, source_masks: Tensor, uv_grid: Tensor,
                        *, inside_mask: Tensor, occ_threshold: float) -> Tensor:
    """Tell which samples count as the released code does; arguments as in `visible_in_sources`.

    Pixels whose ray misses take part too, at the point of minimum SDF. Source masks are read at the
    nearest pixel, source surfaces with zeros beyond the border.
    """
    with torch.no_grad():
        points = sample_maps(sources.points_obj, uv_grid, padding="zeros")
        same_point = (points - targets.points_obj).square().sum(2) < occ_threshold
        masks = sample_maps(source_masks.to(points.dtype), uv_grid, padding="zeros", mode="nearest")
        return inside_mask & same_point & (masks[:, :, 0] > 0)


def agreeing_in_sources(features: Tensor, in_view_mask: Tensor, threshold: float = 0.5) -> Tensor:
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


def correlation_weights(features: Tensor, in_view_mask: Tensor, own_source_mask: Tensor) -> Tensor:
    """Soft occlusion by group-wise correlation with the target's photograph.

    w_i = C max(c_i, 0) / sum_j max(c_j, 0), c_i = <F_i, F> / C, F_i a source's feature and F that
    of the target's own photograph (Guo et al., Group-wise Correlation Stereo, equation 3). The sum
    is over all sources, the target's photograph among them. A target without a photograph among
    the sources (held-out views, videos) takes the mean of the samples in view as F.

    Args:
        features: (K, T, C, H, W) sampled features.
        in_view_mask: (K, T, H, W) bool, samples inside image and mask.
        own_source_mask: (K, T) bool, the source is the target's photograph.
    Returns:
        (K, T, H, W), 0 where the correlation is not positive; no gradient.
    """
    with torch.no_grad():
        own = own_source_mask[:, :, None, None, None].to(features.dtype)
        in_view = in_view_mask[:, :, None].to(features.dtype)
        chosen = torch.where(own_source_mask.any(0)[:, None, None, None], own, in_view)
        target = (features * chosen).sum(0) / chosen.sum(0).clamp(min=1)     # (T, C, H, W)
        correlation = (features * target).mean(2).clamp(min=0)
        total = correlation.sum(0)
        total = torch.where(total > 0, total, torch.ones_like(total))
        return features.shape[2] * correlation / total


def lumigraph_weights(points_obj: Tensor, target_dirs: Tensor, sources: Cameras,
                      counts_mask: Tensor, *, epipolar: bool) -> Tensor:
    """Blending weights from directions alone (unstructured lumigraph; docs/method.md, section 5).

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


class ReferenceTracer:
    """The reference: slow and obvious, the twin of everything in `utils/fast/tracing`.

    Args:
        num_mask_samples: samples of each ray in the search for its minimum SDF.
        rays_at_once: those of one view, usually; 0: all.
    """

    def __init__(self, num_mask_samples: int = NUM_MASK_SAMPLES, rays_at_once: int = 0) -> None:
        self.num_mask_samples, self.rays_at_once = num_mask_samples, rays_at_once

    def trace(self, sdf: Sdf, rays: Rays) -> TraceResult:
        """See `trace_reference`; one view at a time."""
        found = [trace_reference(sdf, part) for part in self._parts(rays)]
        return TraceResult(torch.cat([part.t for part in found]),
                           torch.cat([part.hit_mask for part in found]),
                           sum(part.num_evaluations for part in found))

    def hits(self, sdf: Sdf, rays: Rays, found: TraceResult) -> tuple[Tensor, Tensor]:
        """See `Tracer.hits`; the derivative along the rays by automatic differentiation."""
        index = found.hit_mask.nonzero()[:, 0]
        hit_rays, t = rays[index], found.t[index]
        _, grad = gradient(sdf, hit_rays.points(t), create_graph=False)
        hit_points = differentiable_hits(sdf, hit_rays, t, (grad * hit_rays.dirs_obj).sum(-1))
        refined = ((hit_points.detach() - hit_rays.origins_obj) * hit_rays.dirs_obj).sum(-1)
        points = rays.points(found.t).index_copy(0, index, hit_points)
        return points, found.t.index_copy(0, index, refined.detach())

    def minimum_sdf(self, sdf: Sdf, rays: Rays, counts_mask: Tensor,
                    ignore_above: Tensor) -> tuple[Tensor, Tensor]:
        """See `minimum_sdf_reference`; every ray, whether it matters or not."""
        t = torch.cat([minimum_sdf_reference(sdf, part, self.num_mask_samples)
                       for part in self._parts(rays)])
        return torch.arange(len(rays), device=t.device), rays.points(t)

    def sum_of_values(self, sdf: Sdf, terms: Terms, points_obj: Tensor,
                      *inputs: Tensor) -> Tensor:
        """See `Tracer.sum_of_values`; all points in one batch."""
        return terms(sdf(points_obj), *inputs).sum()

    def sum_of_gradients(self, sdf: Sdf, terms: Terms, points_obj: Tensor) -> Tensor:
        """See `Tracer.sum_of_gradients`; by automatic differentiation, twice differentiable."""
        return terms(gradient(sdf, points_obj, create_graph=True)[1]).sum()

    def _parts(self, rays: Rays) -> list[Rays]:
        """The rays in groups of `rays_at_once`."""
        size = self.rays_at_once or max(len(rays), 1)
        return [rays[start:start + size] for start in range(0, max(len(rays), 1), size)]


def make_tracer(tracing: TracingConfig, pixels: int = 0,
                device: torch.device | str = "cpu") -> Tracer:
    """Return the tracer of the flags: the reference, or its faster twin for the device.

    Args:
        pixels: of one view, which the reference traces at once; 0: all rays.
    """
    if tracing.tracer == "reference":
        return ReferenceTracer(tracing.rt_num_mask_steps, pixels)
    if torch.device(device).type != "cpu":
        return DeviceTracer(differentiable_hits, tracing.rt_num_mask_steps, fast_evaluator)
    return FastTracer(differentiable_hits, tracing.rt_num_mask_steps, fast_evaluator,
                      reference=trace_reference)
