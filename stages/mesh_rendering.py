"""New views from a trained model whose surface is a mesh: what tracing the SDF takes is saved.

Source views keep the surface that was traced, so that what they see is tested as in training.
"""
from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from realtime.mesh_rays import MeshRays, coverage, make_mesh_rays, mesh_normals
from realtime.scene import TriangleMesh
from sdf_meshing import Mesh, extract_mesh
from stages.evaluation import current_renderer
from stages.view_rendering import Rendering, ViewRenderer
from training import SceneTrainer
from utils.config.stage_sections import TestConfig
from utils.errors import ConfigError, UserError
from utils.geometry.cameras import Cameras
from utils.geometry.rays import Rays, Surface
from utils.geometry.sdf import Sdf
from utils.views.regions import mask_regions
from utils.views.tiles import PIXELS_AT_ONCE

#: Pixels around the object in which pictures are computed; masks of photographs reach less far.
BEYOND = 16


class MeshViewRenderer(ViewRenderer):
    """Renders new views as `ViewRenderer` does, from the first hits of rays with a mesh.

    Args:
        renderer: whose model, sources and features are used; nothing is computed again.
        mesh: the zero level of the model's SDF, in object space.
        rays: of the mesh; None: `make_mesh_rays`.
    """

    def __init__(self, renderer: ViewRenderer, mesh: TriangleMesh,
                 rays: MeshRays | None = None) -> None:
        self.model, self.sources = renderer.model, renderer.sources
        self.occ_threshold, self.tracer = renderer.occ_threshold, renderer.tracer
        self.features = renderer.features
        self.rays = make_mesh_rays(mesh, self.features.device) if rays is None else rays
        self.face_normals = torch.from_numpy(mesh_normals(mesh)).to(self.features.device)

    def see(self, cameras: Cameras, rays: Rays | None = None) -> tuple[Surface, Tensor, Tensor]:
        """See `ViewRenderer.see`; normals are those of triangles."""
        points, masks, normals = [], [], []
        origins, dirs = cameras.pixel_rays()                             # (T, H, W, 3)
        for number in range(len(cameras)):
            hits = self.rays.first_hits(cameras[number].to(torch.float32))
            t = torch.where(hits.mask, hits.t, torch.zeros_like(hits.t)).to(dirs)
            points.append(origins[number] + t[..., None] * dirs[number])
            masks.append(hits.mask)
            normals.append(self.face_normals[hits.face.clamp(min=0)].to(dirs)
                           * hits.mask[..., None])
        as_maps = (torch.stack(maps).permute(0, 3, 1, 2).contiguous()
                   for maps in (points, [mask[..., None] for mask in masks], normals))
        surface_points, hit_mask, surface_normals = as_maps
        return (Surface(surface_points, hit_mask), dirs.permute(0, 3, 1, 2).contiguous(),
                surface_normals)

    def decode(self, blended: Tensor, surface: Surface) -> Tensor:
        """See `ViewRenderer.decode`; farther than BEYOND pixels from the surface it may be 0."""
        if blended[:, 0].numel() > PIXELS_AT_ONCE:
            return super().decode(blended, surface)
        regions = [region.grown(BEYOND) for region in mask_regions(surface.hit_mask)]
        return self.model.decode(blended, regions)

    def __call__(self, cameras: Cameras, exclude: int | None = None) -> Rendering:
        """See `ViewRenderer.__call__`; the rendering has its coverage."""
        found = super().__call__(cameras, exclude)
        cameras = cameras.to(self.features.device, torch.float32)
        covered = [coverage(self.rays, cameras[number], hit_mask[0])
                   for number, hit_mask in enumerate(found.hit_mask)]
        return replace(found, coverage=torch.stack(covered)[:, None])


def renderer_of(trainer: SceneTrainer, step: int | None, test: TestConfig) -> ViewRenderer:
    """Return the renderer that `--renderer` names, with the trainer's weights of this moment.

    Raises:
        UserError: a mesh is asked for, and the SDF has no surface, or the run samples misses too.
    """
    renderer = current_renderer(trainer, step)
    if test.renderer == "sdf":
        return renderer
    if renderer.model.settings.sampling == "release":
        raise ConfigError("--renderer mesh shows hits alone, and --sampling release takes features "
                          "where rays miss, too; give --renderer sdf")
    mesh = surface_mesh(renderer.model.sdf, test.mesh_resolution, trainer.device)
    return MeshViewRenderer(renderer, TriangleMesh(mesh.vertices_obj, mesh.faces))


def surface_mesh(sdf: Sdf, resolution: int, device: torch.device) -> Mesh:
    """Return the mesh of a trained surface.

    Raises:
        UserError: there is none.
    """
    mesh = extract_mesh(sdf, resolution=resolution, device=device)
    if mesh.is_empty:
        raise UserError("the SDF has no surface, so there is no mesh to render; train longer, or "
                        "check that the masks show the object")
    return mesh
