"""Reader of IDR and NeuS scene folders: image/, mask/ and one file of camera matrices.

The format is described in docs/method.md, section 2.
"""
from __future__ import annotations

import logging
import lzma
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from data_processing.scenes.folder import (
    IMAGE_SUFFIXES,
    FoundScene,
    ViewFiles,
    check_matrix,
    check_num_views,
    check_similarity,
    decompose_projection,
    is_unit_intrinsics,
    list_files,
    whole_number,
)
from data_processing.scenes.images import image_size
from data_processing.scenes.normalization import (
    sphere_from_cameras,
    sphere_from_point_cloud,
    sphere_from_yaml,
)
from utils.errors import SceneError
from utils.files import limits
from utils.files.pickles import DAMAGE, array_of_npy
from utils.geometry.cameras import OPENCV_TO_OPENGL, projection_from_intrinsics

log = logging.getLogger(__name__)
IMAGE_FOLDER, MASK_FOLDER = "image", "mask"
#: Where photographs and masks are in the folders of others; the first with files is read.
IMAGE_FOLDERS, MASK_FOLDERS = (IMAGE_FOLDER, "images", "rgb"), (MASK_FOLDER, "masks")
WORLD_MAT, SCALE_MAT = "world_mat_", "scale_mat_"
#: Of these the first that exists is read.
CAMERA_FILES = ("cameras_sphere.npz", "cameras.npz")
#: As in IDR, the upper half of the values is foreground, which also suits soft edges and JPEG.
LEAST_FOREGROUND = 128
#: Scale matrices count as equal if they differ by less than this fraction of their largest entry.
SCALE_TOLERANCE = 1e-4
_DAMAGE = (*DAMAGE, OSError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error,
           lzma.LZMAError)


def is_idr_folder(folder: Path) -> bool:
    """Return whether the folder has parts of the IDR format."""
    return (folder / IMAGE_FOLDER).is_dir() or any((folder / n).is_file() for n in CAMERA_FILES)


def read_idr_folder(folder: Path, load_pcd: bool = True) -> FoundScene:
    """Read views, cameras and normalisation of an IDR scene folder.

    'cache' is the scale matrix, 'camera' a ball from the cameras (`sphere_from_cameras`).

    Args:
        folder: the scene.
        load_pcd: whether `merged/point_cloud_world.ply` may be read for the 'pcd' normalisation.
    Raises:
        SceneError: something is missing, damaged or does not fit; the message names the file.
    """
    images = _first_files(folder, IMAGE_FOLDERS)
    check_num_views(folder, len(images), f"{IMAGE_FOLDER}/*.png or *.jpg")
    _check_order(images)
    path, matrices = _load_camera_file(folder)
    _check_pairs(path, matrices, images)
    cameras = [_decompose(matrices[f"world_mat_{i}"], f"{path}: world_mat_{i}", image)
               for i, image in enumerate(images)]
    view, projection = (np.stack(parts) for parts in zip(*cameras))
    files = tuple(ViewFiles(image.stem, image, mask)
                  for image, mask in zip(images, _mask_files(folder, images)))
    sources = {"cache": lambda: _common_scale(path, matrices, len(images)),
               "yaml": lambda: sphere_from_yaml(folder),
               "pcd": lambda: sphere_from_point_cloud(folder) if load_pcd else None,
               "camera": lambda: sphere_from_cameras(view, projection)}
    return FoundScene(files, view, projection, sources, LEAST_FOREGROUND)


def _first_files(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the image files of the first of the named folders that has any."""
    return next((found for name in names
                 if (found := list_files(folder / name, IMAGE_SUFFIXES))), [])


def _check_order(images: list[Path]) -> None:
    """Refuse names whose order as numbers differs, as matrices are paired in the order of names."""
    for first, second in zip(images, images[1:]):
        if first.stem == second.stem:
            raise SceneError(f"{second}: there is {first.name} too, need one image a view; remove "
                             "one of the two")
        numbers = whole_number(first.stem), whole_number(second.stem)
        if numbers[0] is not None and numbers[1] is not None and numbers[0] > numbers[1]:
            raise SceneError(f"{second}: sorts after {first.name} by name but before it by number, "
                             "so its camera is not clear; need numbers padded with zeros (000.png)")


def _check_pairs(path: Path, matrices: dict[str, np.ndarray], images: list[Path]) -> None:
    """Check that each image has a world_mat and each world_mat an image.

    Otherwise later images would get the cameras of others.
    """
    numbers = {number for key in matrices if key.startswith(WORLD_MAT)
               and (number := whole_number(key[len(WORLD_MAT):])) is not None}
    if numbers == set(range(len(images))):
        return
    counts = f"{len(numbers)} world_mat entries, {len(images)} images"
    lacking = [i for i in range(len(images)) if i not in numbers]
    if lacking:
        raise SceneError(f"{path}: no {WORLD_MAT}{lacking[0]} for {images[lacking[0]].name} "
                         f"({counts}), need one for each image in the order of their names; add it "
                         "or remove the image")
    present = {_key(image) for image in images}
    unseen = [i for i in sorted(numbers) if i not in present]
    which = f", such as {unseen[0]:03d}.png" if unseen else ""
    raise SceneError(f"{images[0].parent}: images are missing{which} ({counts} in {path.name}), "
                     "need one for each matrix, as they are paired in order; add the missing ones "
                     "or take their matrices out and number the others again")


def _load_camera_file(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Return the camera file that is read, and its matrices by name."""
    paths = [folder / name for name in CAMERA_FILES if (folder / name).is_file()]
    if not paths:
        raise SceneError(f"{folder}: no {' or '.join(CAMERA_FILES)}, need one with world_mat_i and "
                         "scale_mat_i; copy the camera file there")
    path = paths[0]
    if len(paths) > 1:
        log.info("%s: read, %s is not", path, paths[1].name)
    limits.check_size(path, limits.MAX_NPZ_BYTES, "check that this is the camera file",
                      error=SceneError)
    try:
        with zipfile.ZipFile(path) as archive:
            return path, _matrices_in(archive, path)
    except SceneError:
        raise
    except _DAMAGE as problem:
        raise SceneError(f"{path}: damaged, truncated, or holding pickled objects ({problem}), "
                         "need an .npz of plain number arrays; copy or save it again") from problem


def _matrices_in(archive: zipfile.ZipFile, path: Path) -> dict[str, np.ndarray]:
    """Return the matrices of a camera file, once their stated sizes are known to be small."""
    size = sum(info.file_size for info in archive.infolist())
    if size > limits.MAX_NPZ_BYTES:
        raise SceneError(f"{path}: {size:,} bytes unpacked, need at most "
                         f"{limits.MAX_NPZ_BYTES:,}; check that this is the camera file")
    length = path.stat().st_size                      # zipfile allocates what an entry states
    for info in archive.infolist():
        if info.compress_size > length:
            raise SceneError(f"{path}: damaged ({info.filename[:80]} says {info.compress_size:,} "
                             f"bytes, the file has {length:,}); copy or save it again")
    names = [name for name in archive.namelist() if name.startswith((WORLD_MAT, SCALE_MAT))]
    return {name.removesuffix(".npy"): array_of_npy(archive.read(name)) for name in names}


def _decompose(world_mat: np.ndarray, where: str, image: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return view and projection, (4, 4) float64 each with OpenGL axes, of K[R|t] in pixels."""
    intrinsics, pose = decompose_projection(world_mat, where)
    if is_unit_intrinsics(intrinsics):
        raise SceneError(f"{where}: a rotation and a translation without K (DVR and UNISURF keep K "
                         "in camera_mat_i), need K[R|t] in pixels; save the file with camera_mat_i "
                         "@ world_mat_i as world_mat_i, K in pixels")
    view = OPENCV_TO_OPENGL.double().numpy() @ pose
    projection = projection_from_intrinsics(torch.from_numpy(intrinsics), image_size(image))
    return view, projection.numpy()


def _common_scale(path: Path, matrices: dict[str, np.ndarray], num_views: int) -> np.ndarray | None:
    """Return the scale matrix (object to world) that all views share; None where there is none."""
    keys = [key for i in range(num_views) if (key := f"{SCALE_MAT}{i}") in matrices]
    if not keys:
        return None
    first = check_similarity(matrices[keys[0]], f"{path}: {keys[0]}")
    for key in keys[1:]:
        other = check_matrix(matrices[key], f"{path}: {key}")
        if np.abs(other - first).max() > SCALE_TOLERANCE * np.abs(first).max():
            raise SceneError(f"{path}: {key} differs from {keys[0]}, need one object space for all "
                             "views; write the same scale_mat for every view")
    return first


def _mask_files(folder: Path, images: list[Path]) -> list[Path | None]:
    """Return a mask for every image, by number or name, else by order; or none for all."""
    masks = _first_files(folder, MASK_FOLDERS)
    if not masks:
        return [None] * len(images)
    by_key: dict[int | str, Path] = {}
    for path in masks:
        if by_key.setdefault(_key(path), path) != path:
            raise SceneError(f"{path}: there is {by_key[_key(path)].name} too, need one mask a "
                             "view; remove one of the two")
    keys = [_key(path) for path in images]
    if all(key in by_key for key in keys):
        return [by_key[key] for key in keys]
    if len(masks) == len(images) and not set(keys) & set(by_key):
        return list(masks)
    missing = next(path for path in images if _key(path) not in by_key)
    raise SceneError(f"{masks[0].parent}: no mask for {missing.parent.name}/{missing.name} "
                     f"({len(masks)} masks, {len(images)} images), need masks for all views or for "
                     "no view; add the missing ones under the images' names")


def _key(path: Path) -> int | str:
    """Return what files are paired by: their number (000000.png and 000.png), else their name."""
    number = whole_number(path.stem)
    return path.stem if number is None else number
