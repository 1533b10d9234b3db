"""The pinhole camera that stands for a distorted lens, and where its pixels come from."""
from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

from data_processing.captures.capture import Lens
from utils.errors import SceneError

#: A pinhole frame of a fisheye reaches this far from the optical axis, radians: towards 90 degrees
#: the middle of the frame, where the object is, would shrink to nothing.
MAX_HALF_ANGLE = math.radians(65)
#: Steps of the angle in which a fisheye's curve is followed.
NUM_ANGLES = 4096
#: Of a photograph at least this share, from the principal point to each edge, must be of pixels
#: whose direction the coefficients tell.
MIN_SHARE = 0.5
#: The frame is narrowed in such steps until its corners come from inside the photograph.
NARROWING, MAX_STEPS = 1.01, 300


@lru_cache(maxsize=4)
def undistortion(lens: Lens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the columns and rows (H, W) float32 to read from, and K (3, 3) of the pinhole.

    The pinhole has the lens's axis and size and the largest frame without unknown pixels, that of a
    fisheye at most MAX_HALF_ANGLE to each side.

    Raises:
        SceneError: the coefficients are no lens's, or fold the picture.
    """
    if lens.is_fisheye:
        return _fisheye_undistortion(lens)
    coefficients = np.array(lens.distortion, np.float64)
    matrix, _ = cv2.getOptimalNewCameraMatrix(lens.matrix, coefficients, lens.size, 0)
    if not np.isfinite(matrix).all() or min(matrix[0, 0], matrix[1, 1]) <= 0:
        raise SceneError(f"a lens of {lens.size[0]}x{lens.size[1]} with distortion "
                         f"{lens.distortion} has no pinhole image, need OpenCV's coefficients; "
                         "calibrate again")
    columns, rows = cv2.initUndistortRectifyMap(lens.matrix, coefficients, np.eye(3), matrix,
                                                lens.size, cv2.CV_32FC1)
    return columns, rows, matrix


def _fisheye_undistortion(lens: Lens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `undistortion` of an equidistant fisheye."""
    width, height = lens.size
    left, right, top, bottom = _tangents(lens)
    focal = max(width / (left + right), height / (top + bottom) * lens.focal[0] / lens.focal[1])
    for _ in range(MAX_STEPS):
        matrix = np.array([[focal, 0, width * left / (left + right) - 0.5],
                           [0, focal * lens.focal[1] / lens.focal[0],
                            height * top / (top + bottom) - 0.5], [0, 0, 1]])
        columns, rows = _source_pixels(lens, matrix)
        if (min(columns.min(), rows.min()) >= -0.5 and columns.max() <= width - 0.5
                and rows.max() <= height - 0.5):
            return columns.astype(np.float32), rows.astype(np.float32), matrix
        focal *= NARROWING
    raise _unfit(lens, "maps no frame into the photograph")


def _unfit(lens: Lens, why: str) -> SceneError:
    """Return the error for a fisheye that cannot be undistorted."""
    return SceneError(f"a fisheye of {lens.size[0]}x{lens.size[1]} pixels, focal lengths "
                      f"{lens.focal}, coefficients {lens.distortion}: {why}, need k1 to k4 of "
                      "OpenCV's fisheye that hold for the whole photograph; calibrate again with "
                      "points near its corners, or set k3 and k4 to 0")


def _curve(lens: Lens, angles: np.ndarray) -> np.ndarray:
    """Return theta_d = theta (1 + k1 theta^2 + ... + k4 theta^8), radians."""
    squares = angles * angles
    factor = np.ones_like(angles)
    for power, value in enumerate(lens.distortion[:4], 1):
        factor += value * squares ** power
    return angles * factor


def _last_angle(lens: Lens) -> float:
    """Return the angle from the axis up to which the lens's curve rises, at most pi."""
    angles = np.linspace(0, math.pi, NUM_ANGLES)
    rises = np.diff(_curve(lens, angles)) > 0
    return float(angles[-1] if rises.all() else angles[int(rises.argmin())])


def _tangents(lens: Lens) -> tuple[float, float, float, float]:
    """Return how far the frame may reach left, right, up and down: tangents of angles.

    Raises:
        SceneError: the curve turns back well before an edge of the photograph.
    """
    last = _last_angle(lens)
    angles = np.linspace(0, min(last, MAX_HALF_ANGLE), NUM_ANGLES)
    curve, most = _curve(lens, angles), float(_curve(lens, np.array([last]))[0])
    (cx, cy), (fx, fy), (width, height) = lens.center, lens.focal, lens.size
    out = []
    for distance in ((cx + 0.5) / fx, (width - 0.5 - cx) / fx, (cy + 0.5) / fy,
                     (height - 0.5 - cy) / fy):
        if distance <= 0:
            raise _unfit(lens, f"the principal point {lens.center} is outside the photograph")
        if most < MIN_SHARE * distance:
            raise _unfit(lens, f"the picture folds {math.degrees(last):.0f} degrees from the axis, "
                         f"{most / distance:.0%} of the way to an edge")
        out.append(math.tan(float(angles[max(1, int((curve <= distance).sum()) - 1)])))
    return out[0], out[1], out[2], out[3]


def _source_pixels(lens: Lens, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return columns and rows (H, W) of the photograph that the pinhole's pixels come from.

    Directions beyond the angle at which the curve turns back come from far outside.
    """
    width, height = lens.size
    x = (np.arange(width) - matrix[0, 2])[None] / matrix[0, 0]
    y = (np.arange(height) - matrix[1, 2])[:, None] / matrix[1, 1]
    radius = np.hypot(x, y)
    angle = np.arctan(radius)
    scale = np.where(radius > 1e-9, _curve(lens, angle) / np.maximum(radius, 1e-9), 1.0)
    scale = np.where(angle <= _last_angle(lens), scale, 1e9)
    columns = lens.focal[0] * scale * x + lens.skew * scale * y + lens.center[0]
    return columns, lens.focal[1] * scale * y + lens.center[1]
