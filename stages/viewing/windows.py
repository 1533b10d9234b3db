"""A browser's window as a camera of the project, and source views as poses for the browser."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from realtime.scene import rigid_cameras
from stages.viewing.subjects import SourceViews
from utils.geometry.cameras import Cameras

#: Closer than this to a source view (object units; cosine of the angle), one stands in it.
SAME_PLACE, SAME_DIRECTION = 2e-3, 0.99999
#: Flips between camera axes y up, looking down -z and y down, looking along z.
FLIP = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class Pose:
    """Where a browser's camera is.

    Attributes:
        position: (3,) object space.
        wxyz: (4,) quaternion from camera axes (x right, y down, z forward) to object space.
        fov: vertical angle of view, radians.
    """

    position: np.ndarray
    wxyz: np.ndarray
    fov: float


def window_camera(pose: Pose, size: tuple[int, int]) -> Cameras:
    """Return the camera of a window of (W, H) pixels, straight from object space."""
    width, height = size
    to_camera = (Rotation.from_quat(pose.wxyz, scalar_first=True).as_matrix() @ FLIP).T
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = to_camera, -to_camera @ pose.position
    focal = height / 2 / math.tan(pose.fov / 2)
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return rigid_cameras(torch.from_numpy(matrix).float()[None], intrinsics[None].float(), size)


def pose_of(camera: Cameras) -> Pose:
    """Return the pose of one camera straight from object space."""
    to_object = np.linalg.inv(camera.view[0].double().numpy())
    wxyz = Rotation.from_matrix(to_object[:3, :3] @ FLIP).as_quat(scalar_first=True)
    return Pose(to_object[:3, 3], wxyz, 2 * math.atan(1 / float(camera.projection[0, 1, 1])))


def aside(pose: Pose, up: np.ndarray, *, factor: float, turn: float) -> Pose:
    """Return a pose `factor` as far from the object, turned about `up` (3,) by `turn` radians."""
    spin = Rotation.from_rotvec(turn * up)
    wxyz = spin * Rotation.from_quat(pose.wxyz, scalar_first=True)
    return Pose(factor * spin.apply(pose.position), wxyz.as_quat(scalar_first=True), pose.fov)


def standing_in(pose: Pose, sources: SourceViews) -> int | None:
    """Return the number of the source view in which one stands, or None."""
    forward = Rotation.from_quat(pose.wxyz, scalar_first=True).as_matrix()[:, 2]
    centers, directions = sources.cameras.centers_obj.numpy(), sources.cameras.forward_obj.numpy()
    gaps = np.linalg.norm(centers - pose.position, axis=-1)
    near = (gaps < SAME_PLACE) & (directions @ forward > SAME_DIRECTION)
    return int(np.argmax(near)) if near.any() else None


def nearest_source(pose: Pose, sources: SourceViews) -> int:
    """Return the number of the source view that looks most as the pose does."""
    forward = Rotation.from_quat(pose.wxyz, scalar_first=True).as_matrix()[:, 2]
    return int(np.argmax(sources.cameras.forward_obj.numpy() @ forward))


def fitted_size(size: tuple[int, int], into: tuple[int, int]) -> tuple[int, int]:
    """Return the largest size of the same shape as `size` inside `into`, both (W, H)."""
    scale = min(into[0] / size[0], into[1] / size[1])
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def padded(image: Tensor | np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image (h, w, 3) uint8 in the middle of a white one of (W, H)."""
    width, height = size
    found = np.full((height, width, 3), 255, np.uint8)
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    found[top:top + image.shape[0], left:left + image.shape[1]] = image
    return found
