"""A tiny scene written by hand in both formats, with numpy and imageio alone."""
from __future__ import annotations

from pathlib import Path

import imageio.v3 as imageio
import numpy as np

NUM_VIEWS, WIDTH, HEIGHT = 5, 24, 16
CENTER_WORLD = np.array([2.0, -1.0, 5.0])
RADIUS_WORLD = 1.5
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def intrinsics(view: int) -> np.ndarray:
    """K in pixels with skew and an off-centre principal point that differs from view to view."""
    return np.array([[30.0, 0.4, 11.0 + 0.3 * view], [0, 28.0, 8.2 - 0.2 * view], [0, 0, 1]])


def opencv_camera(view: int) -> np.ndarray:
    """(4, 4) world to camera, OpenCV axes, on an arc round the centre and looking at it."""
    angle = 0.25 * (view - NUM_VIEWS // 2)
    eye = CENTER_WORLD + 6 * np.array([np.sin(angle), 0.2, np.cos(angle)])
    forward = (CENTER_WORLD - eye) / np.linalg.norm(CENTER_WORLD - eye)
    right = np.cross(forward, [0, 1.0, 0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, -rotation @ eye
    return out


def frustum(k: np.ndarray) -> np.ndarray:
    """glFrustum matrix from the edges of the image at distance `near`, then skew."""
    near, far = 0.1, 100.0
    left, right = (-0.5 - k[0, 2]) / k[0, 0] * near, (WIDTH - 0.5 - k[0, 2]) / k[0, 0] * near
    top, bottom = (k[1, 2] + 0.5) / k[1, 1] * near, (k[1, 2] + 0.5 - HEIGHT) / k[1, 1] * near
    out = np.array([
        [2 * near / (right - left), 0, (right + left) / (right - left), 0],
        [0, 2 * near / (top - bottom), (top + bottom) / (top - bottom), 0],
        [0, 0, -(far + near) / (far - near), -2 * far * near / (far - near)],
        [0, 0, -1, 0]])
    out[0, 1] = -2 * k[0, 1] / WIDTH
    return out


def model_matrix() -> np.ndarray:
    """Object to world."""
    out = np.eye(4)
    out[:3, :3] *= RADIUS_WORLD
    out[:3, 3] = CENTER_WORLD
    return out


def picture(view: int) -> np.ndarray:
    """(H, W, 3) uint8 noise."""
    return np.random.default_rng(view).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def mask(view: int) -> np.ndarray:
    """(H, W) uint8, a block that moves."""
    out = np.zeros((HEIGHT, WIDTH), np.uint8)
    out[4:12, 6 + view:14 + view] = 255
    return out


def save_dict(path: Path, content: object) -> None:
    """As the release writes its dicts: a pickled object array without dimensions."""
    np.save(path, np.array(content, dtype=object))


def meta(view: int) -> dict:
    """The camera of one view of the processed format."""
    return {"view": FLIP @ opencv_camera(view), "projection": frustum(intrinsics(view)),
            "resolution": [WIDTH, HEIGHT]}


def write_processed(folder: Path, masks: bool = True) -> Path:
    """A scene of the processed format with a cached model matrix."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(NUM_VIEWS):
        imageio.imwrite(folder / f"{i:03d}_rgb.png", picture(i))
        save_dict(folder / f"{i:03d}_rgb_meta.npy", meta(i))
        if masks:
            imageio.imwrite(folder / f"{i:03d}_mask.png", mask(i))
    save_dict(folder / "model_matrix.npy", {"model_matrix": model_matrix()})
    return folder


def idr_matrices() -> dict[str, np.ndarray]:
    """The arrays of a cameras.npz."""
    out = {}
    for i in range(NUM_VIEWS):
        world_mat = opencv_camera(i)
        world_mat[:3] = intrinsics(i) @ world_mat[:3]
        out |= {f"world_mat_{i}": world_mat, f"scale_mat_{i}": model_matrix()}
    return out


def write_idr(folder: Path, masks: bool = True, cameras: str = "cameras_sphere.npz") -> Path:
    """The same scene in the IDR format."""
    (folder / "image").mkdir(parents=True)
    for i in range(NUM_VIEWS):
        imageio.imwrite(folder / "image" / f"{i:03d}.png", picture(i))
    if masks:
        (folder / "mask").mkdir()
        for i in range(NUM_VIEWS):
            imageio.imwrite(folder / "mask" / f"{i:03d}.png", mask(i))
    np.savez(folder / cameras, **idr_matrices())
    return folder
