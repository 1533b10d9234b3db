"""Pictures of an exported scene, as docs/scene_format.md says: surface, samples, G, D, outline.

The parts of a frame are methods of their own, so that each can be timed, and shown.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from realtime.mesh_rays import Hits, coverage, make_mesh_rays, mesh_normals, rays_at
from realtime.scene import ExportedScene
from realtime.students import blend_samples, direction_prior
from utils.geometry.cameras import Cameras


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


@dataclass(frozen=True)
class SurfacePoints:
    """The P pixels of a picture that see the surface.

    Attributes:
        pixels: (P,) their numbers, row by row.
        points_obj: (P, 3).
        dirs_obj: (P, 3) unit directions of their rays.
    """

    pixels: Tensor
    points_obj: Tensor
    dirs_obj: Tensor


@dataclass(frozen=True)
class Samples:
    """What K source views show of P points.

    Attributes:
        features: (K, C, P).
        colours: (K, 3, P) in [0, 1].
        counts_mask: (K, P) bool, the view sees the point.
    """

    features: Tensor
    colours: Tensor
    counts_mask: Tensor


class SceneRenderer:
    """Renders an exported scene.

    Args:
        scene: read, or about to be written.
        device: where to compute.
    """

    def __init__(self, scene: ExportedScene, device: torch.device | str = "cpu") -> None:
        self.scene, self.device = scene, torch.device(device)
        self.rays = make_mesh_rays(scene.mesh, device)
        self.face_normals = torch.from_numpy(mesh_normals(scene.mesh)).to(device)
        self.cameras = scene.cameras.to(device)
        self.maps = torch.cat([scene.features.values(), scene.photographs.float() / 255,
                               scene.masks.float()], 1).to(device)       # (K, C + 4, H, W)
        depths = scene.depths.values().to(device)
        self.depths = depths.flatten(1)                                  # (K, H W)
        self.aggregation = scene.aggregation.to(device)
        self.decoder = scene.decoder.to(device)
        self.background = torch.tensor(scene.background, device=device)[:, None, None]

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
        samples = self.sample(points, exclude)
        weights = self.weigh(samples, points)
        blended, weights = blend_samples(samples.features, samples.colours, weights,
                                         samples.counts_mask)
        image = self.decode(blended, points, camera.resolution)
        picture = covered * image.clamp(0, 1) + (1 - covered) * self.background
        return Frame(picture, image, covered, *self._maps(camera, hits, points), weights=scattered(
            weights, points.pixels, camera.resolution))

    def sample(self, points: SurfacePoints, exclude: int | None = None) -> Samples:
        """Sample all source views at P points, and tell which of them see each."""
        xy_ndc, depth = self.cameras.project(points.points_obj)          # (K, P, 2), (K, P)
        width, height = self.cameras.resolution
        grid = xy_ndc[:, :, None] * torch.tensor([1.0, -1.0], device=self.device)
        found = F.grid_sample(self.maps, grid, padding_mode="border",
                              align_corners=False)[..., 0]               # (K, C + 4, P)
        corner = torch.tensor([width, height], device=self.device)
        uv = (grid[:, :, 0] + 1) / 2 * corner                            # (K, P, 2)
        counts = (depth > 0) & (xy_ndc.abs() <= 1).all(-1) & (found[:, -1] >= 0.5)
        surface = bilinear(self.depths, uv, (width, height))             # nan: no surface
        counts &= (surface - depth).abs() <= self.scene.depth_tolerance
        if exclude is not None:
            counts[exclude] = False
        return Samples(found[:, :-4], found[:, -4:-1], counts)

    def weigh(self, samples: Samples, points: SurfacePoints) -> Tensor:
        """Return G's weights (K, P), not normalised; 0 where a sample does not count."""
        view, point = samples.counts_mask.nonzero().unbind(-1)
        weights = torch.zeros(samples.counts_mask.shape, device=self.device)
        weights[view, point] = self.aggregation(samples.features[view, :, point],
                                                points.dirs_obj[point])
        return weights * direction_prior(
            self.aggregation.prior, points.points_obj, points.dirs_obj, self.cameras.centers_obj,
            counts_mask=samples.counts_mask)

    def decode(self, blended: Tensor, points: SurfacePoints,
               resolution: tuple[int, int]) -> Tensor:
        """Return D's image (3, H, W), not clamped, of blended samples (C + 4, P)."""
        return self.decoder(scattered(blended, points.pixels, resolution)[None])[0]

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


def surface_points(camera: Cameras, hits: Hits) -> SurfacePoints:
    """Return the pixels with a hit, their points and directions."""
    pixels = hits.face.reshape(-1).ge(0).nonzero()[:, 0]
    origins, dirs = rays_at(camera, pixels)
    return SurfacePoints(pixels, origins + hits.t.reshape(-1)[pixels, None] * dirs, dirs)


def scattered(values: Tensor, pixels: Tensor, resolution: tuple[int, int]) -> Tensor:
    """Return maps (C, H, W) of values (C, P) at pixels (P,), 0 elsewhere."""
    width, height = resolution
    maps = values.new_zeros(len(values), height * width)
    maps[:, pixels] = values
    return maps.reshape(-1, height, width)


def bilinear(maps: Tensor, uv: Tensor, resolution: tuple[int, int]) -> Tensor:
    """Return maps (K, H W) at pixels uv (K, P, 2), bilinearly, the border repeated.

    Unlike `grid_sample`, nan in any of the four pixels is nan, even where its weight is 0.
    """
    width, height = resolution
    limits = torch.tensor([width - 1, height - 1], device=uv.device)
    place = torch.nan_to_num(uv - 0.5).clamp(-1, max(width, height))     # far outside as beside
    low = place.floor()
    fraction = place - low
    low, high = (torch.minimum(side.clamp(min=0), limits) for side in (low.long(), low.long() + 1))
    total = torch.zeros_like(place[..., 0])
    for row, down in ((low[..., 1], 1 - fraction[..., 1]), (high[..., 1], fraction[..., 1])):
        for column, right in ((low[..., 0], 1 - fraction[..., 0]), (high[..., 0],
                                                                    fraction[..., 0])):
            total = total + maps.gather(1, row * width + column) * down * right
    return total
