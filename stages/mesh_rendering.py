"""New views from a trained model whose surface is a mesh: what tracing the SDF takes is saved.

Source views keep the surface that was traced, so that what they see is tested as in training.
"""
from __future__ import annotations

import torch
from torch import Tensor

from realtime.mesh_rays import MeshRays, coverage, make_mesh_rays, mesh_normals
from realtime.scene import TriangleMesh
from sdf_meshing import Mesh, extract_mesh
from stages.evaluation import TrainedScene
from stages.view_rendering import Rendering, ViewRenderer
from utils.errors import UserError
from utils.geometry.cameras import Cameras
from utils.geometry.rays import Surface

RENDERERS = ("sdf", "mesh")


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

    def see(self, cameras: Cameras) -> tuple[Surface, Tensor, Tensor]:
        """See `ViewRenderer.see`; normals are those of triangles."""
        points, masks, normals = [], [], []
        origins, dirs = cameras.pixel_rays()                             # (T, H, W, 3)
        for number in range(len(cameras)):
            hits = self.rays.first_hits(cameras[number])
            t = torch.where(hits.mask, hits.t, torch.zeros_like(hits.t))
            points.append(origins[number] + t[..., None] * dirs[number])
            masks.append(hits.mask)
            normals.append(self.face_normals[hits.face.clamp(min=0)] * hits.mask[..., None])
        as_maps = (torch.stack(maps).permute(0, 3, 1, 2).contiguous()
                   for maps in (points, [mask[..., None] for mask in masks], normals))
        surface_points, hit_mask, surface_normals = as_maps
        return (Surface(surface_points, hit_mask), dirs.permute(0, 3, 1, 2).contiguous(),
                surface_normals)

    def coverage(self, camera: Cameras, rendering: Rendering) -> Tensor:
        """Return how much of each pixel (H, W) of a rendered camera the mesh covers."""
        return coverage(self.rays, camera.to(self.features.device), rendering.hit_mask[0, 0])


def surface_mesh(trained: TrainedScene, resolution: int) -> Mesh:
    """Return the mesh of a trained surface.

    Raises:
        UserError: there is none.
    """
    mesh = extract_mesh(trained.sdf, resolution=resolution, device=trained.device)
    if mesh.is_empty:
        raise UserError("the SDF has no surface, so there is no mesh to render; train longer, or "
                        "check that the masks show the object")
    return mesh


def as_triangles(mesh: Mesh) -> TriangleMesh:
    """Return a mesh without its normals."""
    return TriangleMesh(mesh.vertices_obj, mesh.faces)
