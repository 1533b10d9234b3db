"""Pictures of an exported scene, as docs/scene_format.md says: surface, blend, D, outline.

The parts of a frame are methods of their own, so that each can be timed, and shown.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from realtime.blending import Blending, SurfacePoints, make_blending
from realtime.mesh_rays import Hits, coverage, make_mesh_rays, mesh_normals, rays_at
from realtime.scene import ExportedScene
from realtime.students import NUM_EXTRA, StudentDecoder
from utils.fast.kernels.loading import loops_for
from utils.fast.threads import in_shares
from utils.geometry.cameras import Cameras

#: Rows of a picture that a thread decodes at once: their maps stay in its cache.
ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Frame:
    """One picture and what it is made from; maps of H x W pixels.

    Attributes:
        picture: (3, H, W) RGB in [0, 1] on the background.
        image: (3, H, W), what the decoder gives, not clamped; right on the object and near it.
        coverage: (H, W), fraction of a pixel that the object covers.
        hit_mask: (1, H, W) bool.
        points_obj, normals_obj: (3, H, W), 0 where no hit.
        depth: (1, H, W) along the camera's axis, object units, 0 where no hit.
        weights: (K, H, W) of the source views, summing to 1 where any sees the point.
    """

    picture: Tensor
    image: Tensor
    coverage: Tensor
    hit_mask: Tensor
    points_obj: Tensor
    normals_obj: Tensor
    depth: Tensor
    weights: Tensor


class SceneRenderer:
    """Renders an exported scene.

    Args:
        scene: read, or about to be written.
        device: where to compute.
        blending: of the scene; None: the fastest that can be had.
    """

    def __init__(self, scene: ExportedScene, device: torch.device | str = "cpu",
                 blending: Blending | None = None) -> None:
        self.scene, self.device = scene, torch.device(device)
        self.rays = make_mesh_rays(scene.mesh, device)
        self.face_normals = torch.from_numpy(mesh_normals(scene.mesh)).to(device)
        self.blending = make_blending(scene, device) if blending is None else blending
        self.decoder = scene.decoder.to(device)
        self.background = torch.tensor(scene.background, device=device)[:, None, None]
        self._nothing: Tensor | None = None

    @torch.no_grad()
    def render(self, camera: Cameras, exclude: int | None = None) -> Frame:
        """Return the picture of one camera.

        Args:
            camera: one, of any size, straight from object space (`rigid_cameras`).
            exclude: number of a source view that must not be used.
        """
        camera = camera.to(self.device)
        hits = self.rays.first_hits(camera)
        covered = coverage(self.rays, camera, hits.mask)
        points = surface_points(camera, hits)
        blended, weights = self.blending(points, exclude)
        image = self.decode(blended, points, camera.resolution)
        picture = covered * image.clamp(0, 1) + (1 - covered) * self.background
        return Frame(picture, image, covered, *self._maps(camera, hits, points), weights=scattered(
            weights, points.pixels, camera.resolution))

    def decode(self, blended: Tensor, points: SurfacePoints,
               resolution: tuple[int, int]) -> Tensor:
        """Return D's image (3, H, W), not clamped, of blended samples (C + 4, P).

        Convolutions are computed about the object; beyond, the image is what D makes of nothing.
        """
        image = self._of_nothing(resolution).clone()
        if not len(points.pixels):
            return image
        inner, outer = rectangles(points.pixels, resolution)
        loops = loops_for(blended, "convolutions")
        if loops is not None and isinstance(self.decoder, StudentDecoder):
            decode_rows(loops, self.decoder, (blended, points.pixels), inner, image)
            return image
        maps = scattered(blended, points.pixels, resolution)[None, :, outer[0], outer[1]]
        rows, columns = (slice(part.start - whole.start, part.stop - whole.start)
                         for part, whole in zip(inner, outer, strict=True))
        image[:, inner[0], inner[1]] = self.decoder(maps)[0, :, rows, columns]
        return image

    def _of_nothing(self, resolution: tuple[int, int]) -> Tensor:
        """Return D's image (3, H, W) of a view without surface; the last size's is kept."""
        if self._nothing is None or self._nothing.shape[:0:-1] != resolution:
            width, height = resolution
            self._nothing = self.decoder(torch.zeros(
                1, self.decoder.num_features + NUM_EXTRA, height, width, device=self.device))[0]
        return self._nothing

    def _maps(self, camera: Cameras, hits: Hits,
              points: SurfacePoints) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return hit mask (1, H, W), points, normals (3, H, W) and depth (1, H, W)."""
        _, depth = camera.project(points.points_obj)
        faces = hits.face.reshape(-1)[points.pixels]
        normals = self.face_normals[faces].T
        # towards the camera, whichever side is seen
        normals = normals * torch.where((normals * points.dirs_obj.T).sum(0) > 0, -1.0, 1.0)
        size = camera.resolution
        return (hits.mask[None], scattered(points.points_obj.T, points.pixels, size),
                scattered(normals, points.pixels, size), scattered(depth, points.pixels, size))


def decode_rows(loops: Any, decoder: StudentDecoder, surface: tuple[Tensor, Tensor],
                rectangle: tuple[slice, slice], image: Tensor) -> None:
    """Write a decoder's image into a rectangle of `image` (3, H, W), threads sharing its rows.

    Args:
        loops: `utils.fast.kernels.convolutions`.
        decoder: as in the scene.
        surface: blended samples (C + 4, P) and pixels (P,), rising.
        rectangle: rows and columns that have all pixels within the decoder's reach.
    """
    rows, columns = rectangle
    values, pixels = surface[0].contiguous().numpy(), surface[1].numpy()
    layers = [(layer.weight.detach().contiguous().numpy(), layer.bias.detach().numpy())
              for layer in (decoder.hidden, decoder.out)]
    into = image.numpy()

    def work(parts: list[slice]) -> None:
        for part in parts:
            loops.decode_rows(values, pixels, *layers, (
                rows.start + part.start, rows.start + part.stop, columns.start, columns.stop), into)

    in_shares(work, rows.stop - rows.start, ROWS_AT_ONCE, least=ROWS_AT_ONCE)


def surface_points(camera: Cameras, hits: Hits) -> SurfacePoints:
    """Return the pixels with a hit, their points and directions."""
    pixels = hits.face.reshape(-1).ge(0).nonzero()[:, 0]
    origins, dirs = rays_at(camera, pixels)
    return SurfacePoints(pixels, origins + hits.t.reshape(-1)[pixels, None] * dirs, dirs)


def rectangles(pixels: Tensor, resolution: tuple[int, int],
               reach: int = 2) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return rows and columns of what depends on some pixels, and of what that is computed from.

    Args:
        pixels: (P,), P > 0, rising.
        resolution: (W, H).
        reach: pixels that the decoder's convolutions reach; each of them pads with zeros, so that
            what is computed is wider by as much.
    """
    width, height = resolution
    column = pixels % width
    found = []
    for grow in (reach, 2 * reach):
        found.append(tuple(slice(max(low - grow, 0), min(high + 1 + grow, side))
                           for low, high, side in (
                               (int(pixels[0]) // width, int(pixels[-1]) // width, height),
                               (int(column.min()), int(column.max()), width))))
    return found[0], found[1]


def scattered(values: Tensor, pixels: Tensor, resolution: tuple[int, int]) -> Tensor:
    """Return maps (C, H, W) of values (C, P) at pixels (P,), 0 elsewhere."""
    width, height = resolution
    maps = values.new_zeros(len(values), height * width)
    maps[:, pixels] = values
    return maps.reshape(-1, height, width)
