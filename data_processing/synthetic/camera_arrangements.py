"""Where the cameras of a synthetic scene stand, and the world that they stand in."""
from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from data_processing.synthetic.scene_kinds import axis_rotation
from utils.geometry.cameras import Cameras, look_at, projection_from_intrinsics

#: Distance of the cameras from the object, object units (DTU's are at 4 of theirs).
CAMERA_DISTANCE = 4.0
#: Fraction of the frame that is free, half of it at either end, in the view that the object fills
#: most.
MARGIN = 0.08
#: Principal points are up to this fraction of the shorter side away from the middle.
OFF_CENTRE = 0.03
#: Views of the `nlr` arrangement that stand close together in the middle; they come last.
NUM_NLR_CENTRAL = 6
#: Views of a scene where no number is given: as many as the named splits have.
NUM_VIEWS = {"dtu": 49, "nlr": 22, "sphere": 49}
ARRANGEMENTS = tuple(NUM_VIEWS)


def _on_sphere(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Return unit vectors (V, 3) of angles in degrees; azimuth 0, elevation 0 is +z, up is +y."""
    azimuth, elevation = torch.deg2rad(azimuth.double()), torch.deg2rad(elevation.double())
    return torch.stack([torch.sin(azimuth) * torch.cos(elevation), torch.sin(elevation),
                        torch.cos(azimuth) * torch.cos(elevation)], -1)


def _row_sizes(num_views: int) -> list[int]:
    """Return the views in each row of the `dtu` arc: 5, 6, 8, 9, 10, 11 of 49."""
    num_rows = max(1, round(math.sqrt(num_views * 36 / 49)))
    wanted = torch.linspace(5, 11, num_rows).double()
    ends = (wanted.cumsum(0) * num_views / wanted.sum()).round().long()
    return torch.diff(ends, prepend=ends.new_zeros(1)).tolist()


def _dtu_dirs(num_views: int) -> Tensor:
    """Return the directions (V, 3) of a one-sided arc in rows, from left and right alternately."""
    sizes = _row_sizes(num_views)
    spacing = 90 / max(max(sizes) - 1, 1)                              # degrees between columns
    azimuth, elevation = [], []
    for row, size in enumerate(sizes):
        columns = (torch.arange(size) - (size - 1) / 2) * spacing
        azimuth.append(columns.flip(0) if row % 2 else columns)
        height = 72 * row / max(len(sizes) - 1, 1) - 16 if len(sizes) > 1 else 20.0
        elevation.append(torch.full((size,), float(height)))
    return _on_sphere(torch.cat(azimuth), torch.cat(elevation))


def _nlr_dirs(num_views: int) -> Tensor:
    """Return directions (V, 3): two wide rows around, then a narrow row of six in the middle."""
    num_central = min(NUM_NLR_CENTRAL, num_views)
    num_around = num_views - num_central
    upper = (num_around + 1) // 2
    rows = [torch.linspace(-50, 50, size) if size > 1 else torch.zeros(size)
            for size in (upper, num_around - upper)]
    central = torch.linspace(-15, 15, num_central)
    azimuth = torch.cat([*rows, central])
    elevation = torch.cat([torch.full_like(part, height)
                           for part, height in zip((*rows, central), (32.0, -12.0, 10.0))])
    return _on_sphere(azimuth, elevation)


def _sphere_dirs(num_views: int) -> Tensor:
    """Return directions (V, 3) evenly over the sphere: a spiral by the golden angle."""
    height = 1 - (2 * torch.arange(num_views) + 1) / num_views
    azimuth = torch.rad2deg(torch.arange(num_views) * math.pi * (3 - math.sqrt(5)))
    return _on_sphere(azimuth, torch.rad2deg(torch.asin(height.double())))


def camera_dirs(arrangement: str, num_views: int) -> Tensor:
    """Return the directions from the object to the cameras.

    Args:
        arrangement: `dtu`, `nlr` or `sphere`.
        num_views: V.
    Returns:
        (V, 3) unit, object space, float64.
    Raises:
        ValueError: an unknown arrangement.
    """
    makers = {"dtu": _dtu_dirs, "nlr": _nlr_dirs, "sphere": _sphere_dirs}
    if arrangement not in makers:
        raise ValueError(f"arrangement is {arrangement!r}, need one of {', '.join(ARRANGEMENTS)}")
    return makers[arrangement](num_views)


def arrange_cameras(arrangement: str, num_views: int, points_obj: Tensor, *,
                    resolution: tuple[int, int], generator: torch.Generator) -> Cameras:
    """Return cameras that look at the object, in a world of their own.

    The world differs from object space by a rotation, a scale and a translation. Positions, aim,
    roll and principal points vary a little; the focal length is the longest that shows the whole
    object in every view.

    Args:
        arrangement, num_views: as in `camera_dirs`.
        points_obj: (N, 3) points of the object, which every frame holds.
        resolution: (W, H) in pixels.
        generator: source of the draws.
    Returns:
        V cameras, float32.
    """
    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).double() * 2 - 1

    model = torch.eye(4, dtype=torch.float64)
    rotation = axis_rotation(normalize(draw(3), dim=0).float(), float(draw()) * math.pi).double()
    model[:3, :3] = rotation * (1.7 + 0.4 * float(draw()))
    model[:3, 3] = draw(3) * 0.8
    distance = CAMERA_DISTANCE * (1 + 0.02 * draw(num_views, 1))
    eye = camera_dirs(arrangement, num_views) * distance               # (V, 3) object space
    target = 0.015 * draw(num_views, 3)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64) + 0.02 * draw(num_views, 3)
    to_world = model[:3, :3].T
    view = look_at(eye @ to_world + model[:3, 3], target @ to_world + model[:3, 3], up @ to_world)
    points_cam = points_obj.double() @ (view @ model)[:, :3, :3].mT + (view @ model)[:, None, :3, 3]
    intrinsics = _intrinsics(resolution, draw(num_views, 2), points_cam)
    projection = projection_from_intrinsics(intrinsics, resolution)
    return Cameras(view, projection, model, resolution).to(torch.float32)


def _intrinsics(resolution: tuple[int, int], off_centre: Tensor, points_cam: Tensor) -> Tensor:
    """Return K in pixels, OpenCV axes, with one focal length for all.

    Args:
        resolution: (W, H).
        off_centre: (V, 2) in [-1, 1], of the principal points, in units of OFF_CENTRE.
        points_cam: (V, N, 3) OpenGL camera space, which the frames hold.
    Returns:
        (V, 3, 3).
    """
    sides = torch.tensor(resolution, dtype=torch.float64)
    offsets = OFF_CENTRE * sides.min() * off_centre                    # (V, 2) pixels
    xy = points_cam[..., :2] / -points_cam[..., 2:] * torch.tensor([1.0, -1.0]).double()
    room = (1 - MARGIN) * sides / 2 - torch.sign(xy) * offsets[:, None]
    focal = (room / xy.abs().clamp_min(1e-9)).min()
    k = torch.zeros(len(off_centre), 3, 3, dtype=torch.float64)
    k[:, 0, 0] = k[:, 1, 1] = focal
    k[:, :2, 2] = (sides - 1) / 2 + offsets
    k[:, 2, 2] = 1
    return k
