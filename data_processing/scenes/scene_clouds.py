"""Point clouds of a scene's folder, in world space.

`merged/point_cloud_world.ply` goes before all others. Without it, the `.ply`, `.xyz` and `.xyzn`
files of the folder itself are taken together, as in the released code. NAME.ply may have a
NAME_meta.npy with the camera (`view`) in whose space its points are, unless that says
`is_in_world_coords`.
"""
from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import trimesh

from data_processing.point_clouds.ply_format import CloudPoints, read_ply
from data_processing.point_clouds.xyz_format import read_xyz
from data_processing.scenes.folder import check_rigid
from utils.errors import SceneError
from utils.files.limits import MAX_CAMERA_PICKLE_BYTES
from utils.files.pickles import load_pickled_npy

log = logging.getLogger(__name__)

MERGED_CLOUD = Path("merged") / "point_cloud_world.ply"
#: True surface points of a synthetic scene: meshes are scored against them, nothing learns of them.
SURFACE_POINTS = "surface_points_world.ply"
SUFFIXES = (".ply", ".xyz", ".xyzn")
META_END = "_meta.npy"


def cloud_files(folder: Path) -> list[Path]:
    """Return the files of the scene's point cloud, sorted; empty where it has none."""
    if (folder / MERGED_CLOUD).is_file():
        return [folder / MERGED_CLOUD]
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES
                  and path.name != SURFACE_POINTS and path.is_file())


def read_scene_cloud(folder: Path) -> CloudPoints | None:
    """Return the scene's points, world space, all files together; None where it has none.

    Returns:
        Points with normals where each file has them (its own, else those of its triangles; not
        scaled), and without faces.
    Raises:
        SceneError: a file, or the camera beside it, cannot be used.
    """
    files = cloud_files(folder)
    if not files:
        return None
    clouds = [_in_world(path) for path in files]
    points = np.concatenate([cloud.points for cloud in clouds])
    log.info("%s: %s points of %s", folder, f"{len(points):,}",
             ", ".join(path.name for path in files[:4]) + (", ..." if len(files) > 4 else ""))
    normals = [cloud.normals for cloud in clouds if cloud.normals is not None]
    return CloudPoints(points, np.concatenate(normals) if len(normals) == len(clouds) else None)


def _in_world(path: Path) -> CloudPoints:
    """Return the points of a file and their normals, world space."""
    cloud = read_ply(path) if path.suffix.lower() == ".ply" else read_xyz(path)
    normals = cloud.normals
    if normals is None and cloud.faces is not None:
        normals = np.asarray(trimesh.Trimesh(cloud.points, cloud.faces, process=False)
                             .vertex_normals)
    to_world = _camera_to_world(path.with_name(path.stem + META_END))
    if to_world is None:
        return CloudPoints(cloud.points, normals)
    turned = None if normals is None else normals @ to_world[:3, :3].T
    return CloudPoints(cloud.points @ to_world[:3, :3].T + to_world[:3, 3], turned)


def _camera_to_world(meta: Path) -> np.ndarray | None:
    """Return the pose (4, 4) of the camera in whose space a cloud is; None: the world's space."""
    if not meta.is_file():
        return None
    content = load_pickled_npy(meta, max_bytes=MAX_CAMERA_PICKLE_BYTES, error=SceneError)
    if not isinstance(content, dict):
        raise SceneError(f"{meta}: holds a {type(content).__name__}, need a pickled dict with "
                         "view; save it with numpy.save(path, a_dict), or remove it if the points "
                         "are in world space")
    if content.get("is_in_world_coords") or "view" not in content:
        return None
    return np.linalg.inv(check_rigid(content["view"], f"{meta}: view"))
