"""What an exported scene holds, in memory; docs/scene_format.md says how it lies in files."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from realtime.students import StudentAggregation, StudentDecoder
from utils.geometry.cameras import Cameras, projection_from_intrinsics

#: Greatest code of a depth; code 0 means that there is no surface.
MAX_CODE = 65_535


@dataclass(frozen=True)
class TriangleMesh:
    """The surface.

    Attributes:
        vertices_obj: (N, 3) float32, object space.
        faces: (F, 3) int64, counter-clockwise seen from outside.
        colours: (N, 3) uint8, or None.
    """

    vertices_obj: np.ndarray
    faces: np.ndarray
    colours: np.ndarray | None = None


@dataclass(frozen=True)
class FeatureMaps:
    """Feature maps at 8 bits.

    Attributes:
        codes: (V, C, H, W) uint8.
        low, high: (C,) float32, value of a channel at code 0 and at code 255.
    """

    codes: Tensor
    low: Tensor
    high: Tensor

    def values(self) -> Tensor:
        """Return the features (V, C, H, W), float32."""
        scale = ((self.high - self.low) / 255)[:, None, None]
        return self.codes.float() * scale + self.low[:, None, None]


@dataclass(frozen=True)
class DepthMaps:
    """Depths along the axes of the views' cameras at 16 bits.

    Attributes:
        codes: (V, H, W) int32, 0 where there is no surface.
        ranges: (V, 2) float32, depth at the codes 1 and MAX_CODE, object units.
    """

    codes: Tensor
    ranges: Tensor

    def values(self) -> Tensor:
        """Return the depths (V, 1, H, W), object units; nan where there is no surface."""
        near, far = (side[:, None, None] for side in self.ranges.unbind(-1))
        depth = near + (far - near) * (self.codes - 1).float() / (MAX_CODE - 1)
        return torch.where(self.codes > 0, depth, torch.nan)[:, None]


@dataclass(frozen=True)
class ExportedScene:
    """A trained scene as it is shown in real time; V source views of one size.

    Attributes:
        name, made_by: any text.
        view_names: V of them.
        cameras: V cameras from object space, whose unit their camera spaces have too.
        photographs: (V, 3, H, W) uint8, the background's colour off the object.
        masks: (V, 1, H, W) bool, object.
        features, depths: of the views.
        mesh: the surface.
        aggregation, decoder: the small networks that stand in for G and D.
        depth_tolerance: by how much depths of one surface point may differ, object units.
        background: RGB in [0, 1].
        up: (3,) unit, object space.
        poster: (h, w, 3) uint8, a picture of it.
    """

    name: str
    made_by: str
    view_names: tuple[str, ...]
    cameras: Cameras
    photographs: Tensor
    masks: Tensor
    features: FeatureMaps
    depths: DepthMaps
    mesh: TriangleMesh
    aggregation: StudentAggregation
    decoder: StudentDecoder
    depth_tolerance: float
    background: tuple[float, float, float]
    up: tuple[float, float, float]
    poster: np.ndarray

    def __len__(self) -> int:
        return len(self.cameras)


def rigid_cameras(object_to_camera: Tensor, intrinsics: Tensor,
                  resolution: tuple[int, int]) -> Cameras:
    """Return cameras straight from object space.

    Args:
        object_to_camera: (V, 4, 4), rotation and shift, OpenGL axes.
        intrinsics: (V, 3, 3) in pixels, with the corner of the top left pixel at (0, 0).
        resolution: (W, H).
    """
    half = torch.zeros_like(intrinsics)
    half[:, :2, 2] = 0.5                   # to the centre of the top left pixel at (0, 0)
    return Cameras(object_to_camera, projection_from_intrinsics(intrinsics - half, resolution),
                   torch.eye(4).to(object_to_camera), resolution)


def straight_cameras(cameras: Cameras) -> Cameras:
    """Return the same cameras straight from object space: the model matrix goes into the views.

    Camera spaces then have the unit of object space, so that depths do too.
    """
    pose = cameras.object_to_camera.clone()
    pose[:, :3] /= cameras.model_scale
    return Cameras(pose, cameras.projection, torch.eye(4).to(pose), cameras.resolution)


def object_to_pixels(cameras: Cameras) -> Tensor:
    """Return matrices (V, 3, 4) float64 from points (x, y, z, 1) to (u z, v z, z).

    u and v are in pixels from the corner of the top left pixel, z is the depth.
    """
    width, height = cameras.resolution
    to_clip = cameras.object_to_clip.double()
    return torch.stack([(to_clip[:, 0] + to_clip[:, 3]) * width / 2,
                        (to_clip[:, 3] - to_clip[:, 1]) * height / 2, to_clip[:, 3]], 1)
