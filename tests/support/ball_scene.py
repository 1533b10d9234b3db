"""A ball photographed all around, in closed form: cameras, masks and a texture that can be matched.

Its photographs follow from the ray's hit with the ball alone, so that a test knows everything.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor

from data_processing.scenes.scene import Scene
from data_processing.synthetic.camera_arrangements import camera_dirs
from utils.geometry.cameras import Cameras, look_at, projection_from_intrinsics


def ball_cameras(num_views: int = 12, *, resolution: tuple[int, int] = (160, 120),
                 arrangement: str = "sphere", distance: float = 3.0,
                 center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Cameras:
    """Cameras round `center` (world) that look at it; object space is world space, float64."""
    width, height = resolution
    middle = torch.tensor(center, dtype=torch.float64)
    dirs = camera_dirs(arrangement, num_views)
    up = torch.tensor([0.1, 1.0, 0.05], dtype=torch.float64)
    view = look_at(middle + distance * dirs, middle, up)
    k = torch.tensor([[1.1 * width, 0, (width - 1) / 2 + 3], [0, 1.1 * width, (height - 1) / 2 - 2],
                      [0, 0, 1]], dtype=torch.float64)
    projection = projection_from_intrinsics(k.repeat(num_views, 1, 1), resolution)
    return Cameras(view, projection, torch.eye(4, dtype=torch.float64), resolution)


def ball_scene(radius: float = 0.6, **how) -> Scene:
    """A textured ball of the radius about `center`; other arguments as in `ball_cameras`."""
    cameras = ball_cameras(**how)
    center = torch.tensor(how.get("center", (0.0, 0.0, 0.0)), dtype=torch.float64)
    origins, dirs = cameras.pixel_rays()                               # (V, H, W, 3)
    offset = origins - center
    along = (offset * dirs).sum(-1)
    inside = along.square() - offset.square().sum(-1) + radius ** 2
    hit_mask = inside > 0
    points = offset + dirs * (-along - inside.clamp_min(0).sqrt())[..., None]
    colours = _texture(points / radius)
    images = torch.where(hit_mask[..., None], colours, torch.full_like(colours, 0.1))
    return Scene("ball", (images.movedim(-1, 1).float() * 255).round() / 255, hit_mask[:, None],
                 cameras.to(torch.float32),
                 view_names=tuple(f"{v:03d}" for v in range(len(cameras))))


def _texture(points: Tensor) -> Tensor:
    """(..., 3) points on the unit sphere to colours in [0, 1]: blobs at fixed random places."""
    generator = torch.Generator().manual_seed(3)
    places = torch.nn.functional.normalize(torch.randn(400, 3, generator=generator), dim=-1)
    shades = torch.rand(400, 3, generator=generator)
    sizes = 0.03 + 0.07 * torch.rand(400, generator=generator)
    flat = points.reshape(-1, 3).float()
    out = torch.full_like(flat, 0.5)
    for chunk in torch.arange(len(flat)).split(20000):
        angle = torch.acos((flat[chunk] @ places.T).clamp(-1, 1))       # (n, 400)
        weight = torch.exp(-(angle / sizes).square() * math.log(2) * 4)
        total = weight.sum(-1, keepdim=True)
        out[chunk] = (weight @ shades + 0.02 * 0.5) / (total + 0.02)
    return out.reshape(points.shape).to(points)
