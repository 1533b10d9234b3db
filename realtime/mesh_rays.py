"""Where the rays of a camera meet a mesh: by a compiled loop over triangles, by Embree, by torch.

All three answer the same question, the first hit of the ray through each pixel's centre, both sides
of triangles counting, so that each can test the others. The rasteriser in torch needs no package,
and runs where its tensors are; numba and Embree, on the CPU, come with the extra `fast`.
"""
from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from realtime.scene import TriangleMesh, object_to_pixels
from utils.fast.kernels.loading import loops_for
from utils.fast.threads import in_shares, num_threads
from utils.geometry.cameras import Cameras

log = logging.getLogger(__name__)

#: Pairs of triangle and pixel that the rasteriser tests at once.
MAX_CANDIDATES = 4_000_000
#: Vertices nearer to the camera's plane than this, object units, have no place in the picture.
MIN_DEPTH = 1e-4
#: Barycentric coordinates as low as this count as inside: two triangles leave no gap between them.
EDGE = -1e-6


@dataclass(frozen=True)
class Hits:
    """What one camera sees of a mesh, maps of H x W pixels.

    Attributes:
        t: (H, W) distance along the unit ray, object units, inf where there is no hit.
        face: (H, W) int64, number of the triangle, -1 where there is no hit.
    """

    t: Tensor
    face: Tensor

    @property
    def mask(self) -> Tensor:
        """Return (H, W) bool: there is a hit."""
        return self.face >= 0


class MeshRays(Protocol):
    """Finds first hits on one mesh."""

    def first_hits(self, camera: Cameras) -> Hits:
        """Return the first hits of one camera's rays."""
        ...

    def hit_at(self, camera: Cameras, index: Tensor) -> Tensor:
        """Return (R,) bool: the rays of some pixels (R,), numbered row by row, hit the mesh."""
        ...


def make_mesh_rays(mesh: TriangleMesh, device: torch.device | str = "cpu") -> MeshRays:
    """Return what finds hits on a mesh soonest, of what is installed and computes on the device."""
    loops = loops_for(torch.zeros(0, device=device), "triangles")
    if loops is not None:
        return CompiledRays(mesh, loops)
    if torch.device(device).type == "cpu":
        if importlib.util.find_spec("embreex") is not None:
            return EmbreeRays(mesh)
        log.info("neither numba nor embreex is installed, rays are 5 to 10 times slower without "
                 "them: pip install numba embreex")
    return RasterRays(mesh, device)


class CompiledRays:
    """Hits by a compiled loop over triangles, on the CPU; threads share the rows of the picture.

    Args:
        mesh: the surface.
        loops: `utils.fast.kernels.triangles`.
    """

    def __init__(self, mesh: TriangleMesh, loops: Any) -> None:
        self.loops = loops
        self.vertices_obj = mesh.vertices_obj.astype(np.float64)
        self.faces = np.ascontiguousarray(mesh.faces, np.int64)

    def first_hits(self, camera: Cameras) -> Hits:
        """See `MeshRays.first_hits`."""
        width, height = camera.resolution
        nearest, face = np.zeros((height, width)), np.full((height, width), -1)
        t = torch.empty(height, width)
        matrix = self._draw(camera, self.loops.draw_triangles, nearest, face)
        self.loops.distances(nearest, np.linalg.inv(matrix[:, :3]), t.numpy())
        return Hits(t, torch.from_numpy(face))

    def hit_at(self, camera: Cameras, index: Tensor) -> Tensor:
        """See `MeshRays.hit_at`."""
        width, height = camera.resolution
        state = torch.zeros(height * width, dtype=torch.uint8)
        state[index] = 1
        self._draw(camera, self.loops.mark_hits, state.reshape(height, width).numpy())
        return state[index] == 2

    def _draw(self, camera: Cameras, loop: Any, *maps: np.ndarray) -> np.ndarray:
        """Let a loop over triangles write to maps (H, W); return the matrix (3, 4) to pixels."""
        matrix = object_to_pixels(camera)[0].numpy()
        points, height = self.vertices_obj @ matrix[:, :3].T + matrix[:, 3], len(maps[0])

        def work(parts: list[slice]) -> None:
            for part in parts:
                loop(points, self.faces, (part.start, part.stop), MIN_DEPTH, *maps)

        in_shares(work, height, height, least=-(-height // num_threads()))
        return matrix


class EmbreeRays:
    """Hits by Intel's Embree, on the CPU."""

    def __init__(self, mesh: TriangleMesh) -> None:
        scene: Any = importlib.import_module("embreex.rtcore_scene")
        construction: Any = importlib.import_module("embreex.mesh_construction")
        self.vertices_obj = torch.from_numpy(mesh.vertices_obj)
        self.scene = scene.EmbreeScene()
        corners = np.ascontiguousarray(mesh.vertices_obj[mesh.faces], np.float32)
        self.triangles = construction.TriangleMesh(self.scene, corners)

    def first_hits(self, camera: Cameras) -> Hits:
        """See `MeshRays.first_hits`."""
        width, height = camera.resolution
        t = torch.full((height * width,), torch.inf)
        face = torch.full((height * width,), -1, dtype=torch.int64)
        index = _pixels_to_ask(camera, self.vertices_obj)
        if len(index):
            origins, dirs = rays_at(camera, index)
            found = self.scene.run(origins.contiguous().numpy(), dirs.contiguous().numpy(),
                                   query="INTERSECT", output=1)
            own = torch.from_numpy(found["primID"]).long()
            face[index] = own
            t[index] = torch.where(own >= 0, torch.from_numpy(found["tfar"]), torch.inf)
        return Hits(t.reshape(height, width), face.reshape(height, width))

    def hit_at(self, camera: Cameras, index: Tensor) -> Tensor:
        """See `MeshRays.hit_at`."""
        origins, dirs = rays_at(camera, index)
        return torch.from_numpy(self.scene.run(origins.contiguous().numpy(),
                                               dirs.contiguous().numpy())) >= 0


class RasterRays:
    """Hits by testing each triangle with the rays of the pixels that its rectangle covers.

    Args:
        mesh: the surface.
        device: where to compute.
    """

    def __init__(self, mesh: TriangleMesh, device: torch.device | str = "cpu") -> None:
        self.vertices_obj = torch.from_numpy(mesh.vertices_obj).to(device)
        self.faces = torch.from_numpy(mesh.faces).to(device)

    def first_hits(self, camera: Cameras) -> Hits:
        """See `MeshRays.first_hits`."""
        return self._hits(camera)

    def hit_at(self, camera: Cameras, index: Tensor) -> Tensor:
        """See `MeshRays.hit_at`."""
        width, height = camera.resolution
        asked = torch.zeros(height * width, dtype=torch.bool, device=index.device)
        asked[index] = True
        return self._hits(camera, asked.reshape(height, width)).mask.reshape(-1)[index]

    def _hits(self, camera: Cameras, where_mask: Tensor | None = None) -> Hits:
        """Return the first hits at the pixels of a mask (H, W); None: at all."""
        width, height = camera.resolution
        first, size = self._rectangles(camera)                           # (F, 2), (F, 2)
        counts = size.prod(-1)
        t = torch.full((height * width,), torch.inf, device=counts.device)
        face = torch.full((height * width,), -1, dtype=torch.int64, device=counts.device)
        asked = None if where_mask is None else where_mask.reshape(-1).to(counts.device)
        # neighbours in the list are tested together, as many as there is room for
        group = (counts.cumsum(0) - counts) // MAX_CANDIDATES
        for number in group.unique().tolist():
            faces = ((group == number) & (counts > 0)).nonzero()[:, 0]
            if not len(faces):
                continue
            pixel, own = pixels_of_rectangles(first[faces], size[faces], width)
            own = faces[own]
            if asked is not None:
                pixel, own = pixel[asked[pixel]], own[asked[pixel]]
            self._test(camera, pixel, own, t, face)
        return Hits(t.reshape(height, width), face.reshape(height, width))

    def _rectangles(self, camera: Cameras) -> tuple[Tensor, Tensor]:
        """Return first pixel (F, 2) and size (F, 2), columns and rows, of what triangles cover."""
        sides = torch.tensor(camera.resolution, device=self.faces.device)
        xy_ndc, depth = camera.project(self.vertices_obj)
        pixels = (xy_ndc[0] * torch.tensor([1.0, -1.0]).to(xy_ndc) + 1) / 2 * sides     # (N, 2)
        corners, depth = pixels[self.faces], depth[0][self.faces]        # (F, 3, 2), (F, 3)
        # the centres i + 0.5 within [low, high], a hundredth of a pixel wider for rounding
        low = (corners.amin(1) - 0.51).ceil().clamp(min=0)
        high = (corners.amax(1) - 0.49).floor()
        high = torch.minimum(high, (sides - 1).to(high))
        behind, in_front = depth <= MIN_DEPTH, depth > MIN_DEPTH
        crosses = (behind.any(1) & in_front.any(1))[:, None]
        low = torch.where(crosses, torch.zeros_like(low), low)
        high = torch.where(crosses, (sides - 1).to(high).expand_as(high), high)
        size = (high - low + 1).clamp(min=0) * in_front.any(1)[:, None]
        return low.nan_to_num(0).long(), size.nan_to_num(0).long()

    def _test(self, camera: Cameras, pixel: Tensor, own: Tensor, t: Tensor, face: Tensor) -> None:
        """Let candidates of pixels (M,) and triangles (M,) compete for the nearest hit, in place.
        """
        origins, dirs = rays_at(camera, pixel)
        found = ray_triangle(origins, dirs, self.vertices_obj[self.faces[own]])
        pixel, own, found = (x[found.isfinite()] for x in (pixel, own, found))
        nearest = t.scatter_reduce(0, pixel, found, "amin")
        wins = found == nearest[pixel]
        face[pixel[wins]] = own[wins]
        t.copy_(nearest)


def pixels_of_rectangles(first: Tensor, size: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return the pixels (M,) of F rectangles, numbered row by row, and the rectangle of each.

    Args:
        first: (F, 2) column and row of the first pixel.
        size: (F, 2) columns and rows, 0 where there is none.
        width: of the picture.
    """
    counts = size.prod(-1)
    own = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    within = torch.arange(len(own), device=own.device) - (counts.cumsum(0) - counts)[own]
    columns = size[own, 0]
    column, row = first[own, 0] + within % columns, first[own, 1] + within // columns
    return row * width + column, own


def ray_triangle(origins: Tensor, dirs: Tensor, corners: Tensor) -> Tensor:
    """Return the distance (M,) at which rays (M, 3) meet triangles (M, 3, 3); inf where not.

    Moller and Trumbore's test, both sides of a triangle counting.
    """
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    cross = torch.linalg.cross(dirs, second)
    det = (first * cross).sum(-1)
    offset = origins - corners[:, 0]
    scaled = torch.linalg.cross(offset, first)
    inverse = 1 / torch.where(det == 0, torch.ones_like(det), det)
    u, v = (offset * cross).sum(-1) * inverse, (dirs * scaled).sum(-1) * inverse
    t = (second * scaled).sum(-1) * inverse
    hits = (det != 0) & (u >= EDGE) & (v >= EDGE) & (u + v <= 1 - EDGE) & (t > 0)
    return torch.where(hits, t, torch.inf)


def rays_at(camera: Cameras, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return origins and unit directions (R, 3) of the rays of pixels, numbered row by row."""
    width, height = camera.resolution
    column, row = index % width, index // width
    xy_ndc = torch.stack([(2 * column + 1) / width - 1, 1 - (2 * row + 1) / height], -1)
    origins, dirs = camera.rays_through(xy_ndc.to(camera.view))
    return origins[0], dirs[0]


def _pixels_to_ask(camera: Cameras, vertices_obj: Tensor) -> Tensor:
    """Return the pixels (R,) inside the rectangle of the mesh."""
    width, height = camera.resolution
    xy_ndc, depth = camera.project(vertices_obj)
    columns, rows = slice(0, width), slice(0, height)
    if depth.min() > MIN_DEPTH:
        low, high = xy_ndc[0].amin(0).tolist(), xy_ndc[0].amax(0).tolist()
        columns = _covered((low[0] + 1) / 2 * width, (high[0] + 1) / 2 * width, width)
        rows = _covered((1 - high[1]) / 2 * height, (1 - low[1]) / 2 * height, height)
    return torch.arange(height * width).reshape(height, width)[rows, columns].reshape(-1)


def _covered(low: float, high: float, side: int) -> slice:
    """Return the pixels whose centres may lie in [low, high], one wider for rounding."""
    return slice(min(max(int(low) - 1, 0), side), min(max(int(high) + 2, 0), side))


def coverage(rays: MeshRays, camera: Cameras, hit_mask: Tensor) -> Tensor:
    """Return how much of each pixel (H, W) the mesh covers: four rays where the outline passes.

    Elsewhere it is 0 or 1, as the pixel's centre says.

    Args:
        rays: of the mesh.
        camera: one.
        hit_mask: (H, W) bool, from `first_hits` of the same camera.
    """
    found = hit_mask.float()
    index = outline(hit_mask).reshape(-1).nonzero()[:, 0]
    if not len(index):
        return found
    width, height = camera.resolution
    fine = replace(camera, resolution=(2 * width, 2 * height))
    # numbers of the four pixels of twice the size in each
    first = 2 * (index // width) * 2 * width + 2 * (index % width)
    quarters = torch.stack([first, first + 1, first + 2 * width, first + 2 * width + 1])
    hits = rays.hit_at(fine, quarters.reshape(-1)).reshape(4, -1)
    return found.reshape(-1).index_copy(0, index, hits.float().mean(0)).reshape(height, width)


def outline(mask: Tensor) -> Tensor:
    """Return (H, W) bool: the 3x3 pixels about it are not all alike in a mask (H, W)."""
    padded = F.pad(mask.to(torch.uint8)[None, None], (1, 1, 1, 1), value=2)[0, 0]
    inner = padded[1:-1, 1:-1]
    height, width = mask.shape
    differs = torch.zeros_like(mask)
    for row in range(3):
        for column in range(3):
            other = padded[row:row + height, column:column + width]
            differs |= (other != inner) & (other != 2)
    return differs


def mesh_normals(mesh: TriangleMesh) -> np.ndarray:
    """Return unit normals (F, 3) float32 of the triangles, outward."""
    corners = mesh.vertices_obj[mesh.faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return (normals / np.maximum(length, 1e-20)).astype(np.float32)
