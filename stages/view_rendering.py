"""New views from a trained model (docs/method.md, section 8): image, normals, depth, weights.

The model comes in as an `nn.Module` that encodes, corresponds, blends and decodes
(`modules_sdf.ImageBasedModel`).
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdf_rendering import project_to_sources, visible_in_sources
from utils.geometry.cameras import Cameras
from utils.geometry.rays import Rays, Surface, Tracer, camera_rays
from utils.geometry.sdf import gradient
from utils.views.source_crops import MARGIN
from utils.views.tiles import in_tiles
from utils.views.training_views import Sources, Targets, TrainingViews

TRACE_CHUNK = 1 << 16          # rays traced at once when whole views are rendered


@dataclass(frozen=True)
class Rendering:
    """T rendered views.

    Attributes:
        images: (T, 3, H, W) RGB, not clamped.
        hit_mask: (T, 1, H, W) bool.
        points_obj: (T, 3, H, W).
        normals_obj: (T, 3, H, W) unit, 0 where no hit.
        depth: (T, 1, H, W) along the camera's axis, world units, 0 where no hit.
        weights: (K, T, H, W) blending weights of the sources.
        coverage: (T, 1, H, W), how much of a pixel the surface covers, in [0, 1]; None: not known,
            all or nothing of it by hit_mask.
    """

    images: Tensor
    hit_mask: Tensor
    points_obj: Tensor
    normals_obj: Tensor
    depth: Tensor
    weights: Tensor
    coverage: Tensor | None = None


def make_renderer(model: Any, views: TrainingViews, *, occ_threshold: float,
                  tracer: Tracer) -> ViewRenderer:
    """Return a renderer of new views from these, with the surface and weights of this moment."""
    with evaluating(model):
        surface, _ = trace_views(model.sdf, views.cameras, tracer)
    sources = Sources(views.cameras, views.images, views.masks, surface)
    return ViewRenderer(model, sources, occ_threshold=occ_threshold, tracer=tracer)


class ViewRenderer:
    """Renders new views from a trained model: all sources, nothing drawn at random.

    Source features are computed once. The model is in evaluation mode while rendering, and back
    in its former mode afterwards.

    Args:
        model: trained.
        sources: all training views, with the surface that they see now.
        occ_threshold: the one that training ended with.
        tracer: finds the surface.
    """

    def __init__(self, model: Any, sources: Sources, *, occ_threshold: float,
                 tracer: Tracer) -> None:
        self.model, self.sources = model, sources
        self.occ_threshold, self.tracer = occ_threshold, tracer
        self.is_dense = sources.images.device.type != "cpu"
        with evaluating(model):
            self.features = in_tiles(model.encode, sources.images, model.source_margin)

    def __call__(self, cameras: Cameras, exclude: int | None = None) -> Rendering:
        """Render T cameras; source number `exclude` (the target itself, say) does not feed them."""
        cameras = cameras.to(self.features.device)
        own = torch.zeros(len(self.sources.images), len(cameras), dtype=torch.bool,
                          device=self.features.device)
        if exclude is not None:
            own[exclude] = True
        with evaluating(self.model):
            return self.frame(cameras, own)

    def frame(self, cameras: Cameras, own: Tensor) -> Rendering:
        """Render T cameras on the device; own (K, T) bool: source k must not feed view t."""
        return self.rendering(cameras, own)

    def rendering(self, cameras: Cameras, own: Tensor, rays: Rays | None = None) -> Rendering:
        """Render as `frame`; rays are those of the cameras, None: not computed yet."""
        surface, dirs, normals = self.see(cameras, rays)
        targets = Targets(surface, dirs, own)
        where = self.model.correspond(targets, self.sources, self.occ_threshold)
        blended, weights = self.model.blend(self.features, targets, self.sources, where)
        return Rendering(self.decode(blended, surface), surface.hit_mask, surface.points_obj,
                         normals, view_depth(cameras, surface), weights)

    def see(self, cameras: Cameras, rays: Rays | None = None) -> tuple[Surface, Tensor, Tensor]:
        """Return what T cameras see of the surface, their ray directions and its normals.

        The last two are (T, 3, H, W); normals are 0 where there is no hit.
        """
        surface, dirs = trace_views(self.model.sdf, cameras, self.tracer, rays)
        return surface, dirs, surface_normals(self.model.sdf, surface, is_dense=self.is_dense)

    def decode(self, blended: Tensor, surface: Surface) -> Tensor:
        """Return D's images (T, 3, H, W), not clamped, of blended features (T, C, H, W)."""
        return in_tiles(self.model.decode, blended, MARGIN)

    def visible(self, points_obj: Tensor) -> Tensor:
        """Return (K, N) bool: which sources see points (N, 3) of the surface, object space."""
        with torch.no_grad():
            maps = points_obj.T[None, :, None]                         # (1, 3, 1, N)
            hits = torch.ones_like(maps[:, :1], dtype=torch.bool)
            uv_grid, inside_mask = project_to_sources(maps, self.sources.cameras)
            seen = visible_in_sources(Surface(maps, hits), self.sources.surface, self.sources.masks,
                                      uv_grid, inside_mask=inside_mask,
                                      occ_threshold=self.occ_threshold)
            return seen[:, 0, 0]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode without gradients for the block; former modes come back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, was_training in modes.items():
            module.training = was_training


def trace_views(sdf: nn.Module, cameras: Cameras, tracer: Tracer,
                rays: Rays | None = None) -> tuple[Surface, Tensor]:
    """Return the surface of V views and their ray directions (V, 3, H, W), traced in chunks.

    Args:
        rays: of the cameras, flat; None: not computed yet.
    """
    rays = camera_rays(cameras) if rays is None else rays
    index = torch.arange(len(rays), device=rays.t_near.device).split(TRACE_CHUNK)
    parts = [tracer.trace(sdf, rays[part]) for part in index]
    t, hit_mask = (torch.cat(x) for x in zip(*[(p.t, p.hit_mask) for p in parts], strict=True))
    width, height = cameras.resolution

    def as_maps(flat: Tensor) -> Tensor:
        return flat.reshape(len(cameras), height, width, -1).permute(0, 3, 1, 2).contiguous()

    return Surface(as_maps(rays.points(t)), as_maps(hit_mask)), as_maps(rays.dirs_obj)


def surface_normals(sdf: nn.Module, surface: Surface, *, is_dense: bool = False) -> Tensor:
    """Return (V, 3, H, W) unit outward normals at the hits, 0 elsewhere.

    Args:
        is_dense: compute all of them and mask the rest, so that nobody asks how many there are.
    """
    points = surface.points_obj.permute(0, 2, 3, 1)                    # (V, H, W, 3)
    mask = surface.hit_mask[:, 0]
    normals = torch.zeros_like(points)
    chosen = points.reshape(-1, 3) if is_dense else points[mask]
    parts = [gradient(sdf, part, create_graph=False)[1] for part in chosen.split(TRACE_CHUNK)]
    if is_dense:
        found = F.normalize(torch.cat(parts), dim=-1).reshape(points.shape)
        normals = torch.where(mask[..., None], found, normals)
    elif parts:
        normals[mask] = F.normalize(torch.cat(parts), dim=-1)
    return normals.permute(0, 3, 1, 2)


def view_depth(cameras: Cameras, surface: Surface) -> Tensor:
    """Return the hits' distance along each camera's axis, (V, 1, H, W) world units, 0 elsewhere."""
    row = cameras.object_to_camera[:, 2]                               # (V, 4)
    depth = -(torch.einsum("vc,vchw->vhw", row[:, :3], surface.points_obj) + row[:, 3, None, None])
    return depth[:, None] * surface.hit_mask
