"""A ball through wide lenses, as transforms.json: a function a case, everything in closed form."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch

from support.ball_scene import ball_cameras

SIZE = (160, 120)
RADIUS = 1.0


@dataclass(frozen=True)
class Fisheye:
    """A lens theta_d = theta (1 + k1 theta^2 + ...), and how far the cameras stand from the ball.
    """

    focal: float
    center: tuple[float, float]
    coefficients: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    distance: float = 4.0


def of_field(degrees: float, distance: float,
             coefficients: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)) -> Fisheye:
    """A fisheye that sees so many degrees from left to right, its centre 2 and 1 pixels off."""
    focal = SIZE[0] / 2 / np.radians(degrees / 2)
    return Fisheye(focal, (SIZE[0] / 2 + 2, SIZE[1] / 2 - 1), coefficients, distance)


#: Calibrated on the middle alone: the curve turns back 42 degrees from the axis, near the corners.
WILD = Fisheye(126.0, (93.0, 64.7), (-0.24, 0.9, -2.4, 1.0))
#: The curve turns back 12 degrees from the axis.
FOLDED = Fisheye(126.0, (80.0, 60.0), (-7.0, 0.0, 0.0, 0.0))


def ball_colours(origin: np.ndarray, dirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours (..., 3) and hits (...) of unit rays with the ball, world space."""
    along = dirs @ origin
    inside = along ** 2 - origin @ origin + RADIUS ** 2
    hit_mask = (inside > 0) & (along < 0)
    points = origin + (-along - np.sqrt(np.maximum(inside, 0)))[..., None] * dirs
    return np.where(hit_mask[..., None], 0.5 + 0.4 * np.sin(5 * points), 0.15), hit_mask


def _directions(lens: Fisheye) -> np.ndarray:
    """(H, W, 3) unit directions of the pixels, OpenCV axes; the curve inverted by bisection."""
    x, y = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    x, y = (x - lens.center[0]) / lens.focal, (y - lens.center[1]) / lens.focal
    radius = np.hypot(x, y)
    low, high = np.zeros_like(radius), np.full_like(radius, 1.9)
    for _ in range(50):
        middle = (low + high) / 2
        bent = middle * (1 + sum(k * middle ** (2 * i)
                                 for i, k in enumerate(lens.coefficients, 1)))
        low, high = np.where(bent < radius, middle, low), np.where(bent < radius, high, middle)
    scale = np.where(radius > 1e-12, np.sin(low) / np.maximum(radius, 1e-12), 1)
    return np.stack([x * scale, y * scale, np.cos(low)], -1)


def poses(lens: Fisheye) -> np.ndarray:
    """(8, 4, 4) camera to world, OpenGL axes."""
    cameras = ball_cameras(8, distance=lens.distance, resolution=SIZE)
    return torch.linalg.inv(cameras.view).numpy()


def write_fisheye(lens: Fisheye, folder: Path) -> Path:
    """images/, masks/ and transforms.json of eight photographs."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    dirs = _directions(lens) * [1, -1, -1]
    frames = []
    for number, pose in enumerate(poses(lens)):
        colours, hit_mask = ball_colours(pose[:3, 3], dirs @ pose[:3, :3].T)
        name = f"{number:03d}.png"
        imageio.imwrite(folder / "images" / name, (colours * 255).round().astype(np.uint8))
        imageio.imwrite(folder / "masks" / name, hit_mask.astype(np.uint8) * 255)
        frames.append({"file_path": f"images/{name}", "transform_matrix": pose.tolist()})
    (folder / "transforms.json").write_text(json.dumps({
        "camera_model": "OPENCV_FISHEYE", "w": SIZE[0], "h": SIZE[1], "fl_x": lens.focal,
        "fl_y": lens.focal, "cx": lens.center[0], "cy": lens.center[1],
        **dict(zip(("k1", "k2", "k3", "k4"), lens.coefficients)), "frames": frames}))
    return folder
