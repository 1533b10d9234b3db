"""A scene with its split and its point cloud, as the flags of `DataConfig` ask for."""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_processing.point_clouds.ply_format import CloudPoints
from data_processing.scenes.scene import Scene, check_training_views, load_scene
from data_processing.scenes.scene_clouds import read_scene_cloud
from data_processing.scenes.splits import Split, resolve_split
from utils.command_names import typed
from utils.config.sections import DataConfig
from utils.errors import ConfigError, SceneError
from utils.geometry.cameras import Cameras, rotations


@dataclass(frozen=True)
class PointCloud:
    """Surface points (N, 3) and, where known, normals (N, 3); object space."""

    points_obj: Tensor
    normals_obj: Tensor | None


def open_scene(data: DataConfig, seed: int = 0) -> tuple[Scene, Split]:
    """Read the scene that the flags name and split its views.

    Args:
        data: the flags.
        seed: of the noise that randomize_cameras adds.
    Raises:
        SceneError, ConfigError: see `load_scene`, `resolve_split`, `check_training_views`.
    """
    if not data.dataset_path:
        raise ConfigError("--dataset_path is missing: give the folder of a scene, for a start one "
                          f"that {typed('make-scene')} writes")
    scene = load_scene(data.dataset_path, im_scale=data.load_im_scale,
                       scene_normalization=data.scene_normalization, work_radius=data.work_radius,
                       scene_radius_scale=data.scene_radius_scale, load_pcd=bool(data.load_pcd))
    split = resolve_split(len(scene), data.dataset_name, train_views=data.train_views,
                          test_views=data.test_views, num_train_views=data.num_train_views)
    check_training_views(scene, split)
    if data.reference_view >= len(scene):
        raise ConfigError(f"--reference_view {data.reference_view}: the scene has views 0 to "
                          f"{len(scene) - 1}; give one of them, or -1 for the middle one")
    return with_noise(scene, split, data, seed), split


def with_noise(scene: Scene, split: Split, data: DataConfig, seed: int) -> Scene:
    """Return the scene with noise on its training cameras, if the flags ask for it.

    The others stay as they are, so that held-out views are scored from where they were taken.
    """
    angles = data.randomize_cameras
    shifts = angles if data.randomize_shifts < 0 else data.randomize_shifts
    if angles <= 0 and shifts <= 0:
        return scene
    view, train = scene.cameras.view.clone(), list(split.train)
    view[train] = perturbed(scene.cameras, angles, seed, shifts=shifts).view[train]
    return replace(scene, cameras=replace(scene.cameras, view=view))


def perturbed(cameras: Cameras, spread: float, seed: int, *,
              shifts: float | None = None) -> Cameras:
    """Return cameras rotated about, and translated along, random axes of camera space.

    Args:
        cameras: V cameras.
        spread: standard deviation of each angle in radians.
        seed: of the noise.
        shifts: standard deviation of each component of the translation, as a fraction of the
            camera's distance from the origin of object space; None: as `spread`.
    """
    generator = torch.Generator().manual_seed(seed)
    angles = torch.randn(len(cameras), 3, generator=generator) * spread
    motion = torch.eye(4).repeat(len(cameras), 1, 1)
    motion[:, :3, :3] = rotations(angles)
    distance = cameras.object_to_camera[:, :3, 3].norm(dim=-1, keepdim=True)
    spread = spread if shifts is None else shifts
    motion[:, :3, 3] = torch.randn(len(cameras), 3, generator=generator) * spread * distance
    return replace(cameras, view=motion.to(cameras.view) @ cameras.view)


def load_point_cloud(scene: Scene, data: DataConfig, *,
                     is_for_training: bool = True) -> PointCloud | None:
    """Return the points of the scene's folder (`scene_clouds`) in object space.

    Args:
        is_for_training: to supervise the shape (use_pcd); else to be scored against.
    Returns:
        None where there are none, or they are not asked for (load_pcd, use_pcd).
    Raises:
        SceneError: a file holds no points, or cannot be read.
    """
    is_wanted = data.load_pcd and (data.use_pcd or not is_for_training)
    if not (is_wanted and scene.path and Path(scene.path).is_dir()):
        return None
    try:
        cloud = read_scene_cloud(Path(scene.path))
    except SceneError as error:
        flag = "use_pcd" if is_for_training else "load_pcd"
        raise SceneError(f"{error}; or give --{flag} 0") from error
    if cloud is None:
        return None
    to_object = np.linalg.inv(scene.cameras.model.double().numpy())
    points_world = cloud.points - np.array(scene.world_origin)
    points_obj = points_world @ to_object[:3, :3].T + to_object[:3, 3]
    return PointCloud(torch.from_numpy(points_obj).float(), _normals(cloud, to_object))


def _normals(cloud: CloudPoints, to_object: np.ndarray) -> Tensor | None:
    """Return unit normals (N, 3) in object space, or None."""
    if cloud.normals is None:
        return None
    turned = torch.from_numpy(np.asarray(cloud.normals, np.float64) @ to_object[:3, :3].T).float()
    return torch.nn.functional.normalize(turned, dim=-1)
