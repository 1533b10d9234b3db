"""Which triangle each pixel sees, by a loop over triangles; needs numba, an extra.

The same as `realtime.mesh_rays.RasterRays`, to rounding, and faster than Embree. Points are
q = (u z, v z, z) with u and v in pixels from the picture's corner and z the depth, so that the ray
through (u, v) has the direction (u, v, 1), and where it meets a triangle, barycentric coordinates
over z are linear in u and v. That holds for triangles that cross the camera's plane, too.
"""
from __future__ import annotations

import math

import numpy as np
from numba import njit

#: Pixels by which the rectangle of a triangle is wider than its corners, for rounding.
_MARGIN = 1e-6
_ROWS = "float64[:, ::1]"
_settings = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(inline="always", **_settings)
def _range(a: float, b: float, c: float, first: int, end: int) -> tuple[int, int]:
    """Return the pixels, from first to end, whose centres lie between three coordinates."""
    low, high = min(a, b, c) - _MARGIN - 0.5, max(a, b, c) + _MARGIN - 0.5
    low, high = min(max(low, first), end), max(min(high, end - 1), first - 1)
    return int(math.ceil(low)), int(math.floor(high)) + 1


@njit(inline="always", **_settings)
def _edge(a: np.ndarray, b: np.ndarray, sign: float) -> tuple[float, float, float]:
    """Return the cross product of two points, with the opposite bits if they change places."""
    return (sign * (a[1] * b[2] - a[2] * b[1]), sign * (a[2] * b[0] - a[0] * b[2]),
            sign * (a[0] * b[1] - a[1] * b[0]))


@njit(inline="always", **_settings)
def _rectangle(p: np.ndarray, q: np.ndarray, r: np.ndarray, part: tuple,
               least: float) -> tuple[int, int, int, int]:
    """Return first column and end, first row and end, of pixels that a triangle may cover.

    Args:
        p, q, r: its corners.
        part: width of the picture, first row and end of those that are drawn.
        least: depth that corners need for a place in the picture.
    """
    width, first, end = part
    if min(p[2], q[2], r[2]) > least:
        left, right = _range(p[0] / p[2], q[0] / q[2], r[0] / r[2], 0, width)
        top, bottom = _range(p[1] / p[2], q[1] / q[2], r[1] / r[2], first, end)
        return left, right, top, bottom
    if max(p[2], q[2], r[2]) > least:
        return 0, width, first, end
    return 0, 0, 0, 0


@njit(inline="always", **_settings)
def _edges(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> tuple:
    """Return three edges, whose products with (u, v, 1) are barycentric coordinates times `volume`
    over z, and the volume, not negative; 0 where the triangle is seen from the side.
    """
    a, b, c = _edge(q, r, 1.0)
    volume = a * p[0] + b * p[1] + c * p[2]
    sign = 1.0 if volume > 0 else -1.0
    return _edge(q, r, sign), _edge(r, p, sign), _edge(p, q, sign), abs(volume)


@njit(f"void({_ROWS}, int64[:, ::1], UniTuple(int64, 2), float64, {_ROWS}, int64[:, ::1])",
      **_settings)
def draw_triangles(points: np.ndarray, faces: np.ndarray, rows: tuple[int, int], least: float,
                   nearest: np.ndarray, face: np.ndarray) -> None:
    """Note the first triangle that the ray through each pixel's centre meets, in place.

    Args:
        points: (N, 3) vertices, as above.
        faces: (F, 3) of triangles, of which both sides count.
        rows: first and end of those that are drawn.
        least: depth that vertices need for a place in the picture.
        nearest: (H, W) 1 / z of what is there already, 0 where nothing.
        face: (H, W) its number.
    """
    part = nearest.shape[1], rows[0], rows[1]
    for f in range(len(faces)):
        p, q, r = points[faces[f, 0]], points[faces[f, 1]], points[faces[f, 2]]
        left, right, top, bottom = _rectangle(p, q, r, part, least)
        if top >= bottom or left >= right:
            continue
        one, two, three, volume = _edges(p, q, r)
        if volume == 0:
            continue
        for row in range(top, bottom):
            for column in range(left, right):
                u, v = column + 0.5, row + 0.5
                x = one[0] * u + one[1] * v + one[2]
                y = two[0] * u + two[1] * v + two[2]
                z = three[0] * u + three[1] * v + three[2]
                near = (x + y + z) / volume
                if x >= 0 and y >= 0 and z >= 0 and near > nearest[row, column]:
                    nearest[row, column], face[row, column] = near, f


@njit(f"void({_ROWS}, int64[:, ::1], UniTuple(int64, 2), float64, uint8[:, ::1])", **_settings)
def mark_hits(points: np.ndarray, faces: np.ndarray, rows: tuple[int, int], least: float,
              state: np.ndarray) -> None:
    """Mark which of some pixels see any triangle, in place.

    Args:
        points, faces, rows, least: as `draw_triangles` has them.
        state: (H, W), 1 where it is asked, which becomes 2 where the answer is yes.
    """
    part = state.shape[1], rows[0], rows[1]
    for f in range(len(faces)):
        p, q, r = points[faces[f, 0]], points[faces[f, 1]], points[faces[f, 2]]
        left, right, top, bottom = _rectangle(p, q, r, part, least)
        asked = False
        for row in range(top, bottom):
            for column in range(left, right):
                asked |= state[row, column] == 1
        if not asked:
            continue
        one, two, three, volume = _edges(p, q, r)
        for row in range(top, bottom):
            for column in range(left, right):
                u, v = column + 0.5, row + 0.5
                x = one[0] * u + one[1] * v + one[2]
                y = two[0] * u + two[1] * v + two[2]
                z = three[0] * u + three[1] * v + three[2]
                if state[row, column] == 1 and x >= 0 and y >= 0 and z >= 0 and volume > 0:
                    state[row, column] = 2


@njit(f"void({_ROWS}, {_ROWS}, float32[:, ::1])", **_settings)
def distances(nearest: np.ndarray, to_object: np.ndarray, t: np.ndarray) -> None:
    """Write the distances (H, W) along unit rays, object units, inf where nothing is seen.

    Args:
        nearest: (H, W) 1 / z, from `draw_triangles`.
        to_object: (3, 3) from (u, v, 1) to the ray's direction in object space.
    """
    for row in range(len(nearest)):
        v = row + 0.5
        for column in range(nearest.shape[1]):
            u, square = column + 0.5, 0.0
            for axis in range(3):
                side = to_object[axis, 0] * u + to_object[axis, 1] * v + to_object[axis, 2]
                square += side * side
            t[row, column] = math.sqrt(square) / nearest[row, column]
