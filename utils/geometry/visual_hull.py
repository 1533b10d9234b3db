"""The visual hull: the largest solid whose outlines are the masks, carved in object space.

A point belongs to the hull when no view shows it outside its mask. Instead of yes and no the
carving keeps a distance: in each view the signed distance (pixels) of the projected point from the
mask's outline, times what a pixel measures at that depth; the largest of the views counts. That is
the distance from the hull's surface inside it, and at most that outside.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from utils.geometry.cameras import Cameras, ndc_to_grid

#: Masks are brought to this size before carving; the outline keeps its place to half a pixel.
MAX_MASK_SIDE = 512
#: Points that this many cells separate from the hull are not asked about in further views.
SURE_CELLS = 2.0
#: A point must lie in the frames of this many views to count as inside.
LEAST_VIEWS = 2
#: Distance that stands for "outside, nobody knows how far", object units.
FAR_OUTSIDE = 10.0
#: Least step along a ray, in cells.
LEAST_STEP = 0.5
CHUNK = 1 << 18


@dataclass(frozen=True)
class Hull:
    """A solid on the cubic grid over [center - half, center + half]^3.

    Attributes:
        distance: (N, N, N) float32, indices x, y, z; negative inside. Exact inside up to the grid,
            a lower bound of the distance outside. Object units.
        center: (3,) float32, object space.
        half: half the side of the cube, object units; the grid's first and last points lie on it.
    """

    distance: Tensor
    center: Tensor
    half: float

    @property
    def cell(self) -> float:
        """Distance between neighbouring grid points, object units."""
        return 2 * self.half / (len(self.distance) - 1)

    @property
    def occupied_mask(self) -> Tensor:
        """(N, N, N) bool, True in the hull."""
        return self.distance <= 0

    @property
    def is_empty(self) -> bool:
        """Whether no grid point is in the hull."""
        return not bool(self.occupied_mask.any())

    def points(self) -> Tensor:
        """(M, 3) grid points in the hull, object space."""
        index = self.occupied_mask.nonzero().float()
        return index * self.cell + (self.center - self.half)

    def grid_points(self) -> Tensor:
        """(N, N, N, 3) all grid points, object space."""
        return _cube_points(len(self.distance), self.half, self.center.to(self.distance))

    def cut_to_ball(self, radius: float) -> Hull:
        """The part of the solid inside a ball about the origin of object space."""
        away = self.grid_points().square().sum(-1).sqrt()
        return replace(self, distance=torch.maximum(self.distance, away - radius))

    def sdf(self, points_obj: Tensor) -> Tensor:
        """Signed distance of points, interpolated between the grid's.

        Args:
            points_obj: (..., 3), object space; outside the cube the way to it is added.
        Returns:
            (...), negative inside, object units. Differentiable in the points.
        """
        offset = (points_obj.reshape(1, 1, 1, -1, 3) - self.center.to(points_obj)) / self.half
        inner = offset.clamp(-1, 1)
        beyond = (offset - inner)[0, 0, 0].norm(dim=-1) * self.half
        return (self._interpolated(inner) + beyond).reshape(points_obj.shape[:-1])

    def _interpolated(self, inner: Tensor) -> Tensor:
        """Distance (P,) at points (1, 1, 1, P, 3) of the cube, which is [-1, 1]^3 here."""
        grid = self.distance.to(inner)[None, None]                     # (1, 1, x, y, z)
        return functional.grid_sample(grid, inner.flip(-1), align_corners=True)[0, 0, 0, 0]


def carve(cameras: Cameras, masks: Tensor, *, resolution: int = 64, half: float = 1.0,
          center: tuple[float, float, float] | Tensor = (0.0, 0.0, 0.0)) -> Hull:
    """The visual hull inside a cube.

    Outside the frame of a view whose mask keeps away from the frame's border there is no object;
    where the mask touches the border, that view says nothing about what lies beyond. Views with an
    empty mask are left out.

    Args:
        cameras: V cameras.
        masks: (V, 1, H, W) bool, True on the object.
        resolution: N, grid points along a side.
        half: half the side of the cube, object units.
        center: of the cube, object space.
    Returns:
        the hull; `is_empty` where the masks agree on no grid point.
    """
    if masks.ndim != 4 or masks.shape[1] != 1 or len(masks) != len(cameras):
        raise ValueError(f"masks are {tuple(masks.shape)}, need ({len(cameras)}, 1, H, W)")
    cameras, center = cameras.to(torch.float32), torch.as_tensor(center, dtype=torch.float32)
    points = _cube_points(resolution, half, center).reshape(-1, 3)
    sure = SURE_CELLS * 2 * half / (resolution - 1)
    distance = torch.full((len(points),), -torch.inf)
    num_framed = torch.zeros(len(points), dtype=torch.int16)
    for view in _informative_order(masks):
        alive = (distance < sure).nonzero()[:, 0]
        for index in alive.split(CHUNK):
            value, framed_mask = _distance_in_view(cameras[view], masks[view, 0], points[index])
            distance[index] = torch.maximum(distance[index], value)
            num_framed[index] += framed_mask.to(torch.int16)
    distance[num_framed < LEAST_VIEWS] = distance[num_framed < LEAST_VIEWS].clamp_min(sure)
    distance = distance.reshape(resolution, resolution, resolution)
    return Hull(_grown_outside(distance, 2 * half / (resolution - 1)), center, half)


def _informative_order(masks: Tensor) -> list[int]:
    """Views with some mask, in big steps through the list: neighbours carve the same away."""
    views = [v for v in range(len(masks)) if bool(masks[v].any())]
    step = max(1, round(len(views) * 0.38))
    while np.gcd(step, max(1, len(views))) != 1:
        step += 1
    return [views[i * step % len(views)] for i in range(len(views))]


def mask_distance(mask: Tensor) -> Tensor:
    """(H, W) bool to (H, W) float32, pixels from the outline: negative on the object."""
    inside = mask.numpy().astype(np.uint8)
    within = _distance_to_zero(inside)
    if inside.all():
        return torch.full(mask.shape, -float(max(mask.shape)))
    outside = _distance_to_zero(1 - inside)
    return torch.from_numpy(np.where(inside > 0, 0.5 - within, outside - 0.5))


def _distance_to_zero(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 to (H, W) float32, pixels from the nearest 0, rounded as IEEE's square root.

    OpenCV's own root differs in the last bit by where the image lies in memory. The squares are
    whole numbers, and exact for images up to MAX_MASK_SIDE.
    """
    found = cv2.distanceTransform(image, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.sqrt(np.rint(found * found))


def touches_border(mask: Tensor) -> bool:
    """Whether an (H, W) bool mask reaches the border of the frame."""
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def _shrunk(mask: Tensor) -> Tensor:
    """The (H, W) mask, its longer side at most MAX_MASK_SIDE; NDC does not change."""
    height, width = mask.shape
    scale = MAX_MASK_SIDE / max(height, width)
    if scale >= 1:
        return mask
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    small = cv2.resize(mask.numpy().astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(small >= 0.5)


def _distance_in_view(camera: Cameras, mask: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Signed distance (N,) from one view's cone in object units, and whether framed (N,) bool.

    Args:
        camera: one camera.
        mask: (H, W) bool.
        points: (N, 3), object space.
    """
    mask = _shrunk(mask)
    height, width = mask.shape
    xy_ndc, depth = (part[0] for part in camera.project(points))       # (N, 2), (N,)
    uv = ndc_to_grid(xy_ndc, (width, height))
    inner = uv.clamp(-1, 1)
    pixels = functional.grid_sample(mask_distance(mask)[None, None], inner[None, None],
                                    align_corners=True)[0, 0, 0]
    sides = torch.tensor([width - 1, height - 1]) / 2
    pixels = pixels + ((uv - inner) * sides).norm(dim=-1)
    focal = camera.projection[0, [0, 1], [0, 1]].abs() * torch.tensor([width, height]) / 2
    value = pixels * depth / (focal.mean() * camera.model_scale)
    framed_mask = (xy_ndc.abs() <= 1).all(-1) & (depth > 0)
    if touches_border(mask):
        value = torch.where(framed_mask, value, -torch.inf)
    else:
        behind = (-depth / camera.model_scale).clamp_min(1e-6)     # from the plane of the camera
        value = torch.where(depth > 0, value, behind)
    return value, framed_mask


def _grown_outside(distance: Tensor, cell: float) -> Tensor:
    """Distances outside raised to those of the nearest grid point inside, less a cell."""
    inside_mask = (distance <= 0).numpy()
    if not inside_mask.any():
        return torch.full_like(distance, FAR_OUTSIDE)
    away = np.asarray(ndimage.distance_transform_edt(~inside_mask, sampling=cell), np.float32)
    return torch.where(distance <= 0, distance.clamp_min(-FAR_OUTSIDE),
                       torch.maximum(distance.clamp_max(FAR_OUTSIDE),
                                     torch.from_numpy(away) - cell).clamp_min(1e-6))


def hull_masks(hull: Hull, cameras: Cameras, *, radius: float | None = None) -> Tensor:
    """Outlines of the hull in every view, by steps along each pixel's ray.

    Args:
        hull: object space.
        cameras: V cameras; their resolution (W, H) is the result's.
        radius: what lies outside this sphere about the origin is left out; None keeps all.
    Returns:
        (V, 1, H, W) bool.
    """
    cameras = cameras.to(torch.float32)
    width, height = cameras.resolution
    hull = hull if radius is None else hull.cut_to_ball(radius)
    out = torch.zeros(len(cameras), 1, height, width, dtype=torch.bool)
    for view in range(len(cameras)):
        origins, dirs = (part.reshape(-1, 3) for part in cameras[view].pixel_rays())
        out[view, 0] = (_least_along(hull, origins, dirs) <= 0).reshape(height, width)
    return out


def _cube_points(resolution: int, half: float, center: Tensor) -> Tensor:
    """(N, N, N, 3) points of a cubic grid, object space, on the centre's device."""
    ticks = torch.linspace(-half, half, resolution, device=center.device)
    return torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij"), -1) + center


def _least_along(hull: Hull, origins: Tensor, dirs: Tensor) -> Tensor:
    """(R,) least distance on the part of each ray that passes the hull's cube.

    Steps are as long as the distance allows, as outside it is a lower bound, and at least
    LEAST_STEP of a cell. A ray ends at its first point that is not outside.
    """
    inverse = 1 / torch.where(dirs.abs() < 1e-9, torch.full_like(dirs, 1e-9), dirs)
    low, high = ((hull.center + sign * hull.half - origins) * inverse for sign in (-1, 1))
    near = torch.minimum(low, high).amax(-1).clamp_min(0)
    far = torch.maximum(low, high).amin(-1)
    least = torch.full((len(dirs),), FAR_OUTSIDE)
    alive, t = (far > near).nonzero()[:, 0], near.clone()
    while len(alive):
        points = origins[alive] + dirs[alive] * t[alive, None]
        inner = ((points - hull.center) / hull.half).clamp(-1, 1)
        value = hull._interpolated(inner[None, None, None])
        least[alive] = torch.minimum(least[alive], value)
        t[alive] += value.clamp_min(LEAST_STEP * hull.cell)
        alive = alive[(value > 0) & (t[alive] < far[alive])]
    return least


def outline_agreement(found: Tensor, masks: Tensor) -> Tensor:
    """(V,) intersection over union of (V, 1, H, W) bool masks; 1 where both are empty."""
    both = (found & masks).flatten(1).sum(1).float()
    either = (found | masks).flatten(1).sum(1).float()
    return torch.where(either > 0, both / either.clamp_min(1), torch.ones_like(both))
