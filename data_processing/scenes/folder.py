"""What the reader of one scene format returns, and the matrices and checks that all share."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg

from utils.errors import SceneError
from utils.files.limits import MAX_COORDINATE

#: How far the columns of a rotation may be from orthonormal, as files hold rounded numbers.
ROTATION_TOLERANCE = 1e-2
#: A matrix is singular if its reciprocal condition number is below this,
MIN_RECIPROCAL_CONDITION = 1e-10
#: or if it scales by less than this.
MIN_SCALE = 1e-15
#: K of a matrix without intrinsics is 1 to this, once its scale is taken out.
UNIT_TOLERANCE = 1e-2
MIN_VIEWS = 2
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class ViewFiles:
    """The files of one view; `mask` is None where there is none."""

    name: str
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class FoundScene:
    """A scene folder before its images are read.

    Attributes:
        files: V views in order.
        view: (V, 4, 4) float64 world to camera, OpenGL axes.
        projection: (V, 4, 4) float64 camera to clip.
        sources: functions that give what the words of `scene_normalization` name, see
            `normalization`.
        least_foreground: smallest 8-bit value of a mask that counts as object.
    """

    files: tuple[ViewFiles, ...]
    view: np.ndarray
    projection: np.ndarray
    sources: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    least_foreground: int = 1


def list_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the visible files with one of the suffixes (any case), sorted by name.

    The list is empty where there is no such folder.
    """
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir()
                  if path.suffix.lower() in suffixes and not path.name.startswith("."))


def whole_number(text: str) -> int | None:
    """Return the number that up to 99 digits 0 to 9 write; None for other text."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 100 else None


def check_num_views(folder: Path, num_views: int, what: str) -> None:
    """Raise SceneError where there are fewer views than can be learned from."""
    if num_views < MIN_VIEWS:
        raise SceneError(f"{folder}: {num_views} views found ({what}), need at least {MIN_VIEWS}; "
                         "add photographs with their cameras, or give the scene's own folder")


def check_matrix(matrix: Any, where: str, shape: tuple[int, int] = (4, 4)) -> np.ndarray:
    """Return a matrix as float64 if it has the shape and finite numbers.

    Args:
        matrix: of any kind.
        where: file and key, for the message.
        shape: that it must have.
    Raises:
        SceneError: it does not.
    """
    try:
        out = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as problem:
        raise SceneError(f"{where}: not a matrix of numbers ({problem}), need {shape}; "
                         "export the cameras again") from problem
    if out.shape == (3, 4) != shape:
        raise SceneError(f"{where}: of shape {out.shape}, need {shape}; append the row 0 0 0 1")
    if out.shape != shape:
        raise SceneError(f"{where}: of shape {out.shape}, need {shape}; export the cameras again")
    if not np.isfinite(out).all():
        raise SceneError(f"{where}: holds NaN or infinity, need finite numbers; calibrate this "
                         "view again or take it out of the scene")
    if np.abs(out).max() > MAX_COORDINATE:
        raise SceneError(f"{where}: holds {np.abs(out).max():.3g}, need numbers up to "
                         f"{MAX_COORDINATE:g}; calibrate this view again, or scale the scene down")
    return out


def check_invertible(part: np.ndarray, where: str) -> None:
    """Raise SceneError where the 3x3 part of a camera has no inverse."""
    values = np.linalg.svd(part, compute_uv=False)
    if values[-1] <= max(MIN_RECIPROCAL_CONDITION * values[0], MIN_SCALE):
        raise SceneError(f"{where}: singular, need a matrix that has an inverse; calibrate this "
                         "view again or take it out of the scene")


def check_rigid(matrix: Any, where: str, *, is_to_world: bool = False) -> np.ndarray:
    """Return a rotation and a translation as (4, 4) float64.

    Args:
        matrix: of any kind.
        where: file and key, for the message.
        is_to_world: camera to world, where a scale does not move the camera (that of a Blender
            object); else world to camera, where it scales the translation too.
    Raises:
        SceneError: it is something else.
    """
    out = check_similarity(matrix, where)
    scale = np.linalg.norm(out[:3, 0])
    if abs(scale - 1) > ROTATION_TOLERANCE:
        what, part = ("camera to world", "its 3x3 part") if is_to_world else \
            ("world to camera", "its first three rows")
        raise SceneError(f"{where}: scales by {scale:.4g}, need a rotation and a translation "
                         f"({what}); divide {part} by the scale")
    return out


def check_similarity(matrix: Any, where: str) -> np.ndarray:
    """Return a rotation, one scale and translation as (4, 4) float64; raise SceneError."""
    out = check_matrix(matrix, where)
    if not np.allclose(out[3], [0, 0, 0, 1], atol=1e-6):
        raise SceneError(f"{where}: its last row is {out[3].tolist()}, need 0 0 0 1; transpose it "
                         "if it was written for row vectors")
    linear = out[:3, :3]
    check_invertible(linear, where)
    if np.linalg.det(linear) < 0:
        raise SceneError(f"{where}: left-handed (determinant below 0), need a right-handed "
                         "rotation; flip the sign of one axis where the cameras were exported")
    scale = np.cbrt(np.linalg.det(linear))
    if np.abs(linear.T @ linear / scale**2 - np.eye(3)).max() > ROTATION_TOLERANCE:
        raise SceneError(f"{where}: sheared or stretched, need a rotation with one scale for all "
                         "axes; export the cameras again")
    return out


def decompose_projection(matrix: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return K (3, 3) up to scale and the pose (4, 4) of K[R|t], float64, OpenCV axes.

    RQ gives the upper triangular K (positive diagonal) and the rotation R; the matrix may carry any
    positive scale.

    Args:
        matrix: (4, 4), of which the first three rows count.
        where: file and key, for the message.
    Raises:
        SceneError: it is no such matrix.
    """
    matrix = check_matrix(matrix, where)
    linear = matrix[:3, :3]
    check_invertible(linear, where)
    if np.linalg.det(linear) < 0:
        raise SceneError(f"{where}: left-handed (determinant below 0), need K[R|t] with OpenCV "
                         "axes (x right, y down, looking along +z) and positive focal lengths; "
                         "flip the axis, or the sign of the whole matrix, where it was exported")
    intrinsics, rotation = scipy.linalg.rq(linear)
    signs = np.sign(np.diag(intrinsics))
    intrinsics, rotation = intrinsics * signs, signs[:, None] * rotation
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = np.linalg.solve(intrinsics, matrix[:3, 3])
    return intrinsics, pose


def is_unit_intrinsics(intrinsics: np.ndarray) -> bool:
    """Return whether K (3, 3), up to scale, is the unit matrix: the projection had none."""
    return bool(np.abs(intrinsics / intrinsics[2, 2] - np.eye(3)).max() < UNIT_TOLERANCE)
