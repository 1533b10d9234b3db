"""Pictures of a mesh as it lies in its file: its shape in grey, and the colours of its vertices."""
from __future__ import annotations

import numpy as np
import torch

from realtime.mesh_rays import Hits, RasterRays, mesh_normals, rays_at
from realtime.scene import TriangleMesh
from utils.geometry.cameras import Cameras
from utils.results.pictures import image_grid

#: Wider views are drawn smaller.
MAX_WIDTH = 320
#: Grey of a triangle seen edge-on, and how much brighter one is that faces the camera.
DARKEST, RANGE = 60.0, 170.0


def mesh_grid(mesh: TriangleMesh, cameras: Cameras, names: list[str]) -> np.ndarray:
    """Return a column a view: the mesh's shape in grey, and its colours below, before white.

    Args:
        mesh: with at least one triangle; without colours the second row is left out.
        cameras: V cameras.
        names: V, of the views.
    Returns:
        (H, W, 3) uint8.
    """
    rays, normals = RasterRays(mesh), mesh_normals(mesh)
    shapes, colours = [], []
    for number in range(len(cameras)):
        camera = cameras[number].to("cpu", torch.float32)
        width, height = camera.resolution
        if width > MAX_WIDTH:
            camera = camera.resized(MAX_WIDTH, max(1, round(height * MAX_WIDTH / width)))
        hits = rays.first_hits(camera)
        shapes.append(_shape(hits, normals, camera))
        colours.append(None if mesh.colours is None else _colours(hits, mesh))
    rows, labels = [shapes], ["shape"]
    if mesh.colours is not None:
        rows, labels = [*rows, colours], [*labels, "colours of\nits vertices"]
    return image_grid(rows, labels, names)


def _shape(hits: Hits, normals: np.ndarray, camera: Cameras) -> np.ndarray:
    """Return (H, W, 3) uint8: grey by the angle between a triangle and the ray that hits it."""
    picture = np.full((*hits.face.shape, 3), 255, np.uint8)
    hit_mask = hits.mask.numpy()
    _, dirs = rays_at(camera, hits.mask.reshape(-1).nonzero()[:, 0])            # (R, 3)
    facing = np.abs((normals[hits.face.numpy()[hit_mask]] * dirs.numpy()).sum(-1))
    picture[hit_mask] = (DARKEST + RANGE * facing).round().astype(np.uint8)[:, None]
    return picture


def _colours(hits: Hits, mesh: TriangleMesh) -> np.ndarray:
    """Return (H, W, 3) uint8: the mean colour of the three vertices of each triangle hit."""
    assert mesh.colours is not None, "asked for with colours alone"
    picture = np.full((*hits.face.shape, 3), 255, np.uint8)
    hit_mask = hits.mask.numpy()
    corners = mesh.colours[mesh.faces[hits.face.numpy()[hit_mask]]]             # (R, 3, 3)
    picture[hit_mask] = corners.mean(1).round().astype(np.uint8)
    return picture
