"""Reader of the release's processed scene folders: one set of files for each view.

The format is described in docs/method.md, section 2.
"""
from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from data_processing.scenes.folder import (
    IMAGE_SUFFIXES,
    FoundScene,
    ViewFiles,
    check_invertible,
    check_matrix,
    check_num_views,
    check_rigid,
    check_similarity,
    list_files,
)
from data_processing.scenes.images import image_size
from data_processing.scenes.normalization import (
    Sphere,
    checked_sphere,
    sphere_from_point_cloud,
    sphere_from_yaml,
)
from utils.errors import SceneError
from utils.files.limits import MAX_CAMERA_PICKLE_BYTES, MAX_SIDE, short
from utils.files.pickles import load_pickled_npy

log = logging.getLogger(__name__)

IMAGE_END, META_END, MASK_END = "_rgb", "_rgb_meta.npy", "_mask.png"
#: At full size every value over 0 of a processed mask is foreground.
LEAST_FOREGROUND = 1
#: How far an image's width may be from that of its camera's frame at the same height: a fraction,
#: or pixels that come from rounding scaled sides.
ASPECT_TOLERANCE, MAX_ROUNDING = 0.02, 2.0


def is_processed_folder(folder: Path) -> bool:
    """Return whether the folder has files of the processed format."""
    return bool(_image_files(folder) or list(folder.glob(f"*{META_END}")))


def read_processed_folder(folder: Path, load_pcd: bool = True) -> FoundScene:
    """Read views, cameras and normalisation of a processed scene folder.

    Args:
        folder: the scene.
        load_pcd: whether `merged/point_cloud_world.ply` may be read for the 'pcd' normalisation.
    Raises:
        SceneError: something is missing, damaged or does not fit; the message names the file.
    """
    images = _image_files(folder)
    check_num_views(folder, len(images), "files NAME_rgb.png or NAME_rgb.jpg")
    names = [path.stem.removesuffix(IMAGE_END) for path in images]
    for first, second in zip(images, images[1:]):
        if first.stem == second.stem:
            raise SceneError(f"{second}: the view has {first.name} too, need one image a view; "
                             "remove one of the two")
    for path in sorted(folder.glob(f"*{META_END}")):
        if path.name.removesuffix(META_END) not in names:
            raise SceneError(f"{folder / path.name.removesuffix('_meta.npy')}.png: no such image "
                             f"(nor .jpg) for {path.name}, need one for each camera; add it or "
                             "remove the camera file")
    cameras = [_read_camera(folder / f"{name}{META_END}", image)
               for name, image in zip(names, images)]
    files = tuple(ViewFiles(name, image, mask) for name, image, mask
                  in zip(names, images, _mask_files(folder, names)))
    sources = {"cache": lambda: _cached_model(folder / "model_matrix.npy"),
               "yaml": lambda: sphere_from_yaml(folder),
               "pcd": lambda: _pcd_sphere(folder, load_pcd),
               "camera": lambda: _stats_sphere(folder, "camera_intersection", "camera_radius")}
    view, projection = (np.stack(matrices) for matrices in zip(*cameras))
    return FoundScene(files, view, projection, sources, LEAST_FOREGROUND)


def _image_files(folder: Path) -> list[Path]:
    """Return the image files of the views, sorted by name."""
    return [path for path in list_files(folder, IMAGE_SUFFIXES) if path.stem.endswith(IMAGE_END)]


def _mask_files(folder: Path, names: list[str]) -> list[Path | None]:
    """Return a mask for every view, or none for all; raise SceneError where some are missing."""
    masks = [folder / f"{name}{MASK_END}" for name in names]
    missing = [path for path in masks if not path.is_file()]
    if len(missing) == len(masks):
        return [None] * len(masks)
    if missing:
        raise SceneError(f"{missing[0]}: no such mask; {len(missing)} of {len(masks)} views have "
                         "none, need masks for all views or for no view; add the missing ones")
    return list(masks)


def _read_camera(path: Path, image: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return view and projection, (4, 4) each, of a camera file, checked."""
    if not path.is_file():
        raise SceneError(f"{path}: no camera file for {image.name}, need a pickled dict with view, "
                         "projection and resolution; export the camera or take the view out")
    meta = _load_dict(path, ("view", "projection"))
    view = check_rigid(meta["view"], f"{path}: view")
    projection = check_matrix(meta["projection"], f"{path}: projection")
    _check_projection(projection, f"{path}: projection")
    if "resolution" in meta:
        _check_resolution(meta["resolution"], path, image)
    return view, projection


def _check_projection(projection: np.ndarray, where: str) -> None:
    """Check that a projection is a glFrustum matrix (clip w = -z) and does not mirror the image."""
    if not np.allclose(projection[3], [0, 0, -1, 0], atol=1e-6):
        raise SceneError(f"{where}: its last row is {projection[3].tolist()}, need 0 0 -1 0 "
                         "(glFrustum, the camera looks down -z); transpose it if it was written "
                         "for row vectors, or convert it from OpenCV axes")
    check_invertible(projection[[0, 1, 3], :3], where)
    if projection[0, 0] * projection[1, 1] < 0:
        raise SceneError(f"{where}: left-handed (it mirrors the image), need entries 0,0 and 1,1 "
                         "of one sign; flip the sign of its first or second row")


def _check_resolution(resolution: object, path: Path, image: Path) -> None:
    """Check that the camera's frame has the image's shape; NDC is the same for any size."""
    try:
        frame = np.asarray(resolution).reshape(-1)
    except ValueError:                             # lists of different lengths
        frame = np.empty(0)
    if frame.shape != (2,) or frame.dtype.kind not in "iuf" \
            or not ((frame > 0) & (frame <= MAX_SIDE)).all():
        raise SceneError(f"{path}: resolution is {short(resolution)}, need [W, H] in pixels, 1 to "
                         f"{MAX_SIDE:,}; export the camera again")
    width, height = image_size(image)
    if abs(width - height * frame[0] / frame[1]) > max(ASPECT_TOLERANCE * width, MAX_ROUNDING):
        is_turned = abs(height - width * frame[0] / frame[1]) <= max(ASPECT_TOLERANCE * height,
                                                                     MAX_ROUNDING)
        cure = "the image is rotated by 90 degrees: turn it back" if is_turned else \
            "export camera and image alike"
        raise SceneError(f"{path}: a camera for {frame[0]}x{frame[1]}, but {image.name} is "
                         f"{width}x{height}, need the same shape; {cure}")


def _load_dict(path: Path, keys: tuple[str, ...]) -> dict:
    """Return a pickled dict that has the keys."""
    content = load_pickled_npy(path, max_bytes=MAX_CAMERA_PICKLE_BYTES, error=SceneError)
    if not isinstance(content, dict):
        raise SceneError(f"{path}: holds a {type(content).__name__}, need a pickled dict; save it "
                         "with numpy.save(path, a_dict)")
    missing = [key for key in keys if key not in content]
    if missing:
        found = short(list(content)) if content else "nothing"
        raise SceneError(f"{path}: has {found}, need {', '.join(missing)} too; export it again")
    return content


def _cached_model(path: Path) -> np.ndarray | None:
    """Return the model matrix of the folder's file, or None."""
    if not path.is_file():
        return None
    return check_similarity(_load_dict(path, ("model_matrix",))["model_matrix"],
                            f"{path}: model_matrix")


def _stats_sphere(folder: Path, center_key: str, radius_key: str, *,
                  none_where_empty: bool = False) -> Sphere | None:
    """Return the ball of two entries of scene_stats.npy, or None.

    Args:
        none_where_empty: a radius of 0 or less means that there is no such ball, as the released
            code writes for scenes without a point cloud; else it is an error.
    """
    path = folder / "scene_stats.npy"
    if not path.is_file():
        return None
    stats = _load_dict(path, ())
    if stats.get(center_key) is None or stats.get(radius_key) is None:
        return None
    if none_where_empty and _is_empty(stats[radius_key]):
        log.info("%s: %s is %s: the scene has no point cloud", path, radius_key,
                 short(stats[radius_key]))
        return None
    return checked_sphere(stats[center_key], stats[radius_key],
                          f"{path}: {center_key}, {radius_key}")


def _is_empty(radius: Any) -> bool:
    """Whether a radius is one number, finite, and not over 0."""
    try:
        value = float(np.asarray(radius, dtype=np.float64).reshape(()))
    except (TypeError, ValueError, OverflowError):
        return False
    return math.isfinite(value) and value <= 0


def _pcd_sphere(folder: Path, load_pcd: bool) -> Sphere | None:
    """Return the ball of the point cloud, from scene_stats.npy or the cloud itself, or None."""
    found = _stats_sphere(folder, "pcd_center", "pcd_radius", none_where_empty=True)
    if found is None and load_pcd:
        found = sphere_from_point_cloud(folder)
    return found
