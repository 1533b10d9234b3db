"""Loops over points of an exported scene that source views see; needs numba, an extra.

The same as `realtime.blending.PlainBlending`, to rounding, in a fraction of the time: a point goes
through projection, visibility, samples, aggregation and blend while its numbers are in registers,
where operations on all points write and read each of them. They work on float32 without Python's
lock, so that threads can share points.

K views have tables (K, H, W, n) of codes of C features and 3 colours.
"""
from __future__ import annotations

import math

import numpy as np
from numba import njit

_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_LEAST, _MOST = np.float32(-1 + 1e-6), np.float32(1 - 1e-6)
_SMALL, _TINY, _MILLI = np.float32(1e-6), np.float32(1e-30), np.float32(1e-3)
_LEAST_LOGIT = np.float32(-15)
#: Kinds of priors, in the order of `realtime.students.PRIORS`.
_ANGLE, _COSINE = 1, 2
_ROWS, _MAPS = "float32[:, ::1]", "float32[:, :, ::1]"


@njit(nogil=True, cache=True)
def _project(matrix: np.ndarray, point: np.ndarray, width: int,
             height: int) -> tuple[np.float32, np.float32, np.float32]:
    """Return u, v and depth of a point in a view; a depth of 0 where it is not in the picture."""
    x, y, z = point[0], point[1], point[2]
    depth = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
    if not depth > _ZERO:
        return _ZERO, _ZERO, _ZERO
    u = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]) / depth
    v = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]) / depth
    is_inside = (u >= _ZERO and v >= _ZERO and u <= np.float32(width) and v <= np.float32(height))
    return u, v, depth if is_inside else _ZERO


@njit(nogil=True, cache=True)
def _corners(place: np.float32, side: int) -> tuple[int, int, np.float32]:
    """Return the pixels before and after a coordinate, the border repeated, and its share."""
    at = place - _HALF
    low = int(math.floor(at))
    share = at - np.float32(low)
    return min(max(low, 0), side - 1), min(max(low + 1, 0), side - 1), share


@njit(nogil=True, cache=True)
def _sample(table: np.ndarray, mask: np.ndarray, depths: np.ndarray, uvz: tuple,
            tolerance: float, found: np.ndarray) -> bool:
    """Fill `found` (n,) with a view's codes at (u, v, depth); False where it does not see it."""
    height, width, num = table.shape
    left, right, s = _corners(uvz[0], width)
    top, bottom, t = _corners(uvz[1], height)
    a, b = (_ONE - s) * (_ONE - t), s * (_ONE - t)
    c, d = (_ONE - s) * t, s * t
    inside = (a * mask[top, left] + b * mask[top, right]
              + c * mask[bottom, left] + d * mask[bottom, right])
    surface = (a * depths[top, left] + b * depths[top, right]
               + c * depths[bottom, left] + d * depths[bottom, right])
    if not (inside >= _HALF and abs(surface - uvz[2]) <= tolerance):       # nan: no surface
        return False
    for n in range(num):
        found[n] = (a * np.float32(table[top, left, n]) + b * np.float32(table[top, right, n])
                    + c * np.float32(table[bottom, left, n])
                    + d * np.float32(table[bottom, right, n]))
    return True


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _factor(sample: np.ndarray, base: np.ndarray, first: np.ndarray,
            last: np.ndarray) -> np.float32:
    """Return the aggregation's factor for a sample, in (0, 1); sums in any order."""
    hidden, num_features = first.shape
    logit = last[hidden]
    for h in range(hidden):
        total = base[h]
        for n in range(num_features):
            total += sample[n] * first[h, n]
        logit += max(total, _ZERO) * last[h]
    return _ONE / (_ONE + np.float32(math.exp(-max(logit, _LEAST_LOGIT))))


@njit(nogil=True, cache=True)
def _cosine(point: np.ndarray, center: np.ndarray, direction: np.ndarray) -> np.float32:
    """Return the cosine between the rays to a point from a camera and from the target."""
    along, square = _ZERO, _ZERO
    for axis in range(3):
        offset = point[axis] - center[axis]
        along += offset * direction[axis]
        square += offset * offset
    return min(max(along / max(math.sqrt(square), _TINY), _LEAST), _MOST)


@njit(nogil=True, cache=True)
def _mix(weights: np.ndarray, angles: np.ndarray, samples: np.ndarray, prior: int,
         blended: np.ndarray) -> None:
    """Normalise the weights (K,) of a point and blend its samples (K, n), in place."""
    num_views, num = samples.shape
    largest, total = _ZERO, _ZERO
    for k in range(num_views):
        if weights[k] > _ZERO:
            largest = max(largest, angles[k])
    for k in range(num_views):
        if weights[k] > _ZERO and prior == _ANGLE:
            nearness = max(_ONE - angles[k] / max(largest, _SMALL), _MILLI)
            weights[k] *= nearness / max(angles[k], _MILLI)
        total += weights[k]
    for n in range(num):
        blended[n] = _ZERO
    blended[num] = _ONE if total > _ZERO else _ZERO
    for k in range(num_views):
        if weights[k] > _ZERO:
            weights[k] /= total
            for n in range(num):
                blended[n] += weights[k] * samples[k, n]


@njit(f"void(Tuple((uint8[:, :, :, ::1], uint8[:, :, ::1], {_MAPS})), Tuple(({_MAPS}, {_ROWS})), "
      f"Tuple(({_ROWS}, {_ROWS})), Tuple(({_ROWS}, {_ROWS}, float32[::1])), UniTuple(int64, 2), "
      f"Tuple(({_ROWS}, {_ROWS})))", nogil=True, cache=True)
def blend_points(maps: tuple, cameras: tuple, rays: tuple, network: tuple, choice: tuple,
                 found: tuple) -> None:
    """Blend what K source views show of P points.

    Args:
        maps: table (K, H, W, n), codes of features, then of colours; mask (K, H, W), 0 or 1;
            depths (K, H, W), nan where there is no surface.
        cameras: matrices (K, 3, 4), points to (u z, v z, z), u and v in pixels from the corner;
            centres (K, 3).
        rays: points and directions (P, 3).
        network: weights (h, C) of the hidden layer for the codes of C features; (4, h) for the
            direction, and its bias; (h + 2,) of the last layer, its bias, and the
            tolerance of depths.
        choice: the prior, see _ANGLE and _COSINE; number of a view that does not count, or -1.
        found: filled with blended codes (P, n + 1), the last 1 where any view counts, and with
            weights (P, K).
    """
    table, mask, depths = maps
    matrices, centers = cameras
    points, dirs = rays
    first, along, last = network
    blended, weights = found
    num_views, height, width, num = table.shape
    hidden = len(first)
    samples = np.empty((num_views, num), np.float32)
    base = np.empty(hidden, np.float32)
    angles = np.zeros(num_views, np.float32)
    for p in range(len(points)):
        for h in range(hidden):
            base[h] = (dirs[p, 0] * along[0, h] + dirs[p, 1] * along[1, h]
                       + dirs[p, 2] * along[2, h] + along[3, h])
        for k in range(num_views):
            weights[p, k] = _ZERO
            uvz = _project(matrices[k], points[p], width, height)
            if k == choice[1] or uvz[2] == _ZERO or not _sample(
                    table[k], mask[k], depths[k], uvz, last[hidden + 1], samples[k]):
                continue
            weights[p, k] = _factor(samples[k], base, first, last)
            if choice[0] == _COSINE:
                weights[p, k] *= max(_cosine(points[p], centers[k], dirs[p]), _SMALL)
            elif choice[0] == _ANGLE:
                angles[k] = math.acos(_cosine(points[p], centers[k], dirs[p]))
        _mix(weights[p], angles, samples, choice[0], blended[p])
