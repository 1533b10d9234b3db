"""Reader of XYZ and XYZN files: a point a line, x y z, or x y z and the normal nx ny nz."""
from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from data_processing.point_clouds.ply_format import CloudPoints, check_points
from utils.errors import SceneError
from utils.files.limits import MAX_PLY_BYTES, check_size

#: Numbers of a line: a point; a point and a normal, or a colour.
COLUMNS = (3, 6)


def read_xyz(path: Path) -> CloudPoints:
    """Read the points of a file; further numbers are normals where its suffix is .xyzn.

    Raises:
        SceneError: missing, damaged, too large, or without points.
    """
    check_size(path, MAX_PLY_BYTES, "thin the point cloud out", error=SceneError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                 # numpy's of an empty file
            numbers = np.loadtxt(path, dtype=np.float64, ndmin=2, encoding="utf-8")
    except (OSError, ValueError, OverflowError, MemoryError) as problem:
        raise SceneError(f"{path}: not readable as lines of numbers ({problem}), need x y z, or "
                         "x y z nx ny nz, a line; export it again or remove the file") from problem
    if numbers.size and numbers.shape[1] not in COLUMNS:
        raise SceneError(f"{path}: has {numbers.shape[1]} numbers a line, need 3 (x y z) or 6 "
                         "(x y z nx ny nz); export it again or remove the file")
    points = numbers[:, :3] if numbers.size else np.empty((0, 3))
    check_points(points, path)
    has_normals = path.suffix.lower() == ".xyzn" and numbers.shape[1] == 6
    return CloudPoints(points, numbers[:, 3:] if has_normals else None)
