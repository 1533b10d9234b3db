"""Tracing an SDF, and sampling source views at the surface (METHOD 4 and 5).

The SDF comes in as a callable `points (N, 3) -> sdf (N,)`; nothing here knows networks.
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.geometry.cameras import Cameras, ndc_to_grid
from utils.config.sections import TracingConfig
from utils.geometry.sdf import gradient
from utils.fast.tracing.gpu_tracer import DeviceTracer
from utils.fast.tracing.cpu_tracer import FastTracer
from utils.geometry.rays import Rays, Surface, Tangents, TraceResult
from utils.reference_tracing import NUM_MASK_SAMPLES, least_sdf_reference, trace_reference
from utils.fast.image_networks.sparse_rows import Rows, weighted_rows
from utils.fast.siren.evaluator import fast_evaluator
from utils.fast.siren.gradients import Terms

Sdf = Callable[[Tensor], Tensor]

MIN_SLOPE = 1e-2            # least |<grad Phi, d>| of the differentiable hit


class Tracer(Protocol):
    """How the surface is found, and how the SDF is evaluated for losses.

    What `trace` and `least_sdf` give are constants: no gradient passes through them.
    """

    def trace(self, sdf: Sdf, rays: Rays) -> TraceResult:
        """Where R rays meet the surface."""

    def least_sdf(self, sdf: Sdf, rays: Rays, counts_mask: Tensor,
                  ignore_above: Tensor) -> tuple[Tensor, Tensor]:
        """Points of least SDF on rays, for the soft mask.

        Args:
            counts_mask: (R,) bool, rays whose loss is not zero anyway.
            ignore_above: (R,) rays whose least SDF is greater may be left out.
        Returns:
            index (R',) of rays that hold all that matter, and their points (R', 3).
        """

    def threads(self, sdf: Sdf) -> AbstractContextManager:
        """In which the shape is traced and its losses are taken: whose threads work."""

    def rows(self, mask: Tensor) -> Tensor:
        """Index of rows that hold all True ones of a mask (N,); others may be among them."""

    def value_and_slope(self, sdf: Sdf, points_obj: Tensor,
                        dirs_obj: Tensor) -> tuple[Tensor, Tensor]:
        """Phi (N,) and <grad Phi, d> (N,) at points (N, 3) along directions; no gradient."""

    def tangents(self, sdf: Sdf, rays: Rays, t: Tensor, known: Tangents | None) -> Tangents:
        """The SDF along R rays at hits t (R,); those that `trace` knows, where it does."""

    def values(self, sdf: Sdf, points_obj: Tensor, known: Tensor) -> Tensor:
        """(N,) SDF at points (N, 3), differentiable in both; `known` are the same numbers, from
        `value_and_slope` or `tangents`."""

    def total_of_values(self, sdf: Sdf, terms: Terms, points_obj: Tensor,
                        *inputs: Tensor) -> Tensor:
        """Sum of terms(Phi(points), *inputs) over points (N, 3), differentiable in the parameters.

        Args:
            terms: values (n,) and rows of the inputs to terms (n,), each of its own point alone.
            inputs: tensors (N, ...).
        """

    def total_of_gradients(self, sdf: Sdf, terms: Terms, points_obj: Tensor) -> Tensor:
        """Sum of terms(grad Phi(points)), gradients (n, 3) to terms (n,); as `total_of_values`."""

    def eikonal_points(self, points_obj: Tensor) -> Tensor:
        """Those of uniform points (N, 3) at which the eikonal term is taken; on the host."""


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


def sample_points(maps: Tensor, source: Tensor, uv: Tensor) -> Tensor:
    """Single samples of the maps, as `sample_maps` takes them.

    Args:
        maps: (K, C, Hs, Ws); fastest in channels-last memory.
        source: (N,) int64, which map.
        uv: (N, 2) grid_sample coordinates.
    Returns:
        (N, C), differentiable in maps and uv.
    """
    height, width = maps.shape[2:]
    limit = uv.new_tensor([width - 1, height - 1])
    xy = (uv + 1) / 2 * limit
    xy = torch.minimum(xy.clamp(min=0), limit)
    first = torch.minimum(xy.detach().floor(), (limit - 1).clamp(min=0)).long()        # (N, 2)
    share = xy - first                                                 # (N, 2)
    second = torch.minimum(first + 1, limit.long())
    columns = torch.stack([first[:, 0], second[:, 0], first[:, 0], second[:, 0]], -1)  # (N, 4)
    rows = torch.stack([first[:, 1], first[:, 1], second[:, 1], second[:, 1]], -1)
    index = (source[:, None] * height + rows) * width + columns        # (N, 4)
    x, y = share.unbind(-1)
    weights = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], -1)
    pixels = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])       # (K * Hs * Ws, C)
    return weighted_rows(pixels, Rows(index, weights))


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
