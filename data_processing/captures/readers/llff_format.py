"""Reader of LLFF's `poses_bounds.npy` (Mildenhall et al. 2019) with the photographs in images/.

A row for each photograph in the order of names: a 3x5 matrix, then the nearest and farthest depth.
The matrix is camera to world with the axes down, right and backwards, then the position, then
height, width and focal length in pixels; the principal point is the middle of the image.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from data_processing.captures.capture import (
    Capture,
    CapturedView,
    Lens,
    check_lens,
    make_capture,
    rigid_from_rotation,
)
from data_processing.captures.paths import IMAGE_SUFFIXES
from data_processing.scenes.folder import check_rigid, list_files
from utils.errors import SceneError
from utils.files.limits import MAX_CAMERA_TEXT_BYTES, MAX_FRAMES, MAX_SIDE, check_size
from utils.files.pickles import DAMAGE, array_of_npy

POSES = "poses_bounds.npy"
#: Full size first; the others hold smaller copies.
IMAGE_FOLDERS = ("images", "images_2", "images_4", "images_8", "image", "rgb", ".")
#: Numbers of a row: the matrix, and perhaps the two depths.
MATRIX_NUMBERS, ROW_NUMBERS = 15, 17


def llff_file(folder: Path) -> Path | None:
    """Return the folder's `poses_bounds.npy`, or None."""
    return folder / POSES if (folder / POSES).is_file() else None


def read_llff(folder: Path) -> Capture:
    """Read the cameras of a folder with `poses_bounds.npy`.

    Raises:
        SceneError: the file is damaged, or there is another number of photographs than of rows.
    """
    path = folder / POSES
    rows = _rows(path)
    found = [files for name in IMAGE_FOLDERS
             if (files := list_files(folder / name, IMAGE_SUFFIXES))]
    images = next((files for files in found if len(files) == len(rows)), found[0] if found else [])
    if len(images) != len(rows):
        raise SceneError(f"{path}: {len(rows)} poses, but {len(images)} photographs in "
                         f"{images[0].parent if images else folder / 'images'}, need one for each "
                         "in the order of names; copy those that COLMAP placed into images/")
    views = [_view(folder, image, row, f"{path}: row {i} ({image.name})")
             for i, (image, row) in enumerate(zip(images, rows))]
    return make_capture(f"{POSES} (LLFF)", folder, views)


def _rows(path: Path) -> np.ndarray:
    """Return the matrices of a file, (V, 3, 5) float64."""
    check_size(path, MAX_CAMERA_TEXT_BYTES, "check that this is the right file", error=SceneError)
    try:
        rows = array_of_npy(path.read_bytes())
        if rows.dtype.kind not in "fiu" or rows.ndim != 2 or len(rows) > MAX_FRAMES or \
                rows.shape[1] not in (MATRIX_NUMBERS, ROW_NUMBERS):
            raise ValueError(f"{rows.dtype} of shape {rows.shape}")
    except (*DAMAGE, OSError) as problem:
        raise SceneError(f"{path}: damaged or of another kind ({problem}), need a row of "
                         f"{ROW_NUMBERS} numbers for each photograph; write it again with LLFF's "
                         "imgs2poses.py") from problem
    return rows[:, :MATRIX_NUMBERS].astype(np.float64).reshape(-1, 3, 5)


def _view(folder: Path, image: Path, row: np.ndarray, where: str) -> CapturedView:
    """Return the view of one row, (3, 5)."""
    down, right, backwards, position, intrinsics = row.T
    to_world = check_rigid(rigid_from_rotation(np.stack([right, -down, backwards], 1), position),
                           where, is_to_world=True)
    if not (np.isfinite(intrinsics).all() and 0 < intrinsics[:2].min()
            and intrinsics[:2].max() <= MAX_SIDE):
        raise SceneError(f"{where}: height, width and focal length {intrinsics.tolist()}, need "
                         "pixels; write the file again with LLFF's imgs2poses.py")
    height, width = (round(side) for side in intrinsics[:2])
    focal = float(intrinsics[2])
    lens = check_lens(Lens((width, height), (focal, focal), ((width - 1) / 2, (height - 1) / 2)),
                      where)
    return CapturedView(str(image.relative_to(folder)), image, np.linalg.inv(to_world), lens)
