"""Loops over points of an exported scene that source views see; needs numba, an extra.

The same as `realtime.blending.PlainBlending`, to rounding, in a fraction of the time: a few points
go through projection, visibility, samples, aggregation and blend while their numbers are in the
cache, view by view, and LANES codes or hidden units at once. They work on float32 without Python's
lock, so that threads can share points.

K views have codes of C features, then of 3 colours: n in all, pixel by pixel.
"""
from __future__ import annotations

import math

import numpy as np
from numba import njit

# Vectors: a loop is turned into one if the compiler knows that no index is negative, hence unsigned
# numbers and arrays of one axis; if it does not unroll it first, hence the loops of WIDE codes; and
# if what it writes can be told apart from what it reads, hence one array for a result.
#: Features, and hidden units, that are computed together: a register of AVX-512.
LANES = 16
#: Codes that are sampled together.
WIDE = 32
#: Points that are taken from view to view together.
BLOCK = 64
_NONE, _NEXT, _TWO_MORE, _LANES, _WIDE, _BLOCK = map(np.uint64, (0, 1, 2, LANES, WIDE, BLOCK))

_ZERO, _ONE, _HALF, _TWO = map(np.float32, (0, 1, 0.5, 2))
_LEAST, _MOST = np.float32(-1 + 1e-6), np.float32(1 - 1e-6)
_SMALL, _TINY, _MILLI = np.float32(1e-6), np.float32(1e-30), np.float32(1e-3)
_LEAST_LOGIT, _MOST_LOGIT = np.float32(-15), np.float32(87)
#: Kinds of priors, in the order of `realtime.students.PRIORS`.
_ANGLE, _COSINE = 1, 2

_LOG2_E = np.float32(1 / math.log(2))
_LOG_2 = np.float32(math.log(2))
#: exp r = 1 + r + r^2 (a + b r + ...), |r| <= log(2) / 2, to 1e-7: Taylor's series.
_EXP = tuple(np.float32(1 / math.factorial(n)) for n in range(2, 8))
#: acos x = sqrt(1 - x) (a + b x + ...), 0 <= x <= 1, to 2e-8: Abramowitz and Stegun, 4.4.46.
_ACOS = tuple(map(np.float32, (1.5707963050, -0.2145988016, 0.0889789874, -0.0501743046,
                               0.0308918810, -0.0170881256, 0.0066700901, -0.0012624911)))
_PI = np.float32(math.pi)

_settings = {"nogil": True, "cache": True, "error_model": "numpy",
             "fastmath": {"contract", "reassoc"}}
_inlined = njit(inline="always", **_settings)
_ROW, _ROWS = "float32[::1]", "float32[:, ::1]"


@_inlined
def _sigmoid(x: np.float32) -> np.float32:
    """Return 1 / (1 + exp(-x)) where x is not below _LEAST_LOGIT, else of that."""
    x = -min(max(x, _LEAST_LOGIT), _MOST_LOGIT)
    count = np.rint(x * _LOG2_E)
    r = x - count * _LOG_2
    a, b, c, d, e, f = _EXP
    power = _ONE + r + r * r * (a + r * (b + r * (c + r * (d + r * (e + r * f)))))
    exponent = (np.int32(count) + np.int32(127)) << np.int32(23)
    return _ONE / (_ONE + power * np.int32(exponent).view(np.float32))


@_inlined
def _acos(x: np.float32) -> np.float32:
    """Return the angle whose cosine is x, radians."""
    size = abs(x)
    a, b, c, d, e, f, g, h = _ACOS
    angle = a + size * (b + size * (c + size * (d + size * (e + size * (f + size * (
        g + size * h))))))
    angle *= np.sqrt(_ONE - size)
    return _PI - angle if x < _ZERO else angle


@_inlined
def _corner(place: np.float32, side: int) -> tuple[np.uint64, np.uint64, np.float32]:
    """Return the pixel before a coordinate in [0, side], steps to the next, and the share of it.

    The border is repeated.
    """
    at = place - _HALF
    before = np.floor(at)
    low = int(before)
    first = max(low, 0)
    return np.uint64(first), np.uint64(min(low + 1, side - 1) - first), at - before


@_inlined
def _shares(s: np.float32, t: np.float32) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Return the weights of four pixels at a share of the way from the first."""
    return (_ONE - s) * (_ONE - t), s * (_ONE - t), (_ONE - s) * t, s * t


@njit(**_settings)
def _see(maps: tuple, size: tuple, camera: tuple, points: np.ndarray, found: tuple) -> None:
    """Write where points (B, 3) are in a view, and whether it sees them.

    Args:
        maps: masks and depths of all views, as `blend_points` has them.
        size: first pixel of the view, W, H.
        camera: matrix (3, 4) and the tolerance of depths.
        found: u, v, depth and 1 or 0, (BLOCK,) each.
    """
    masks, depths = maps
    start, width, height = size
    matrix, tolerance = camera
    across, down, away, seen = found
    wide, most_u, most_v = np.uint64(width), np.float32(width), np.float32(height)
    for b in range(len(points)):
        x, y, z = points[b, 0], points[b, 1], points[b, 2]
        depth = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
        away[b] = depth
        across[b] = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z
                     + matrix[0, 3]) / depth
        down[b] = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z
                   + matrix[1, 3]) / depth
    for b in range(len(points)):
        u, v, depth = across[b], down[b], away[b]
        seen[b] = _ZERO
        if not (depth > _ZERO and u >= _ZERO and v >= _ZERO and u <= most_u and v <= most_v):
            continue
        left, right, s = _corner(u, width)
        top, below, t = _corner(v, height)
        one = start + top * wide + left
        three = one + below * wide
        two, four = one + right, three + right
        weights = _shares(s, t)
        surface = (weights[0] * depths[one] + weights[1] * depths[two]
                   + weights[2] * depths[three] + weights[3] * depths[four])
        inside = (weights[0] * masks[one] + weights[1] * masks[two]
                  + weights[2] * masks[three] + weights[3] * masks[four])
        # a surface of nan is none
        if inside >= _HALF and abs(surface - depth) <= tolerance:
            seen[b] = _ONE


@njit(**_settings)
def _sample(table: np.ndarray, size: tuple, places: tuple, codes: np.ndarray) -> None:
    """Write the codes of a view at points that it sees.

    Args:
        table: as `blend_points` has it.
        size: first pixel of the view, W, H, n.
        places: u, v and a weight, (BLOCK,) each; it is 0 where the view does not count.
        codes: (BLOCK m WIDE,), in a row; after n of a point they have no meaning.
    """
    start, width, height, num = size
    across, down, weights = places
    wide, room = np.uint64(width) * num, np.uint64(len(codes) // BLOCK)
    for point in range(_BLOCK):
        if weights[point] > _ZERO:
            left, right, s = _corner(across[point], width)
            top, below, t = _corner(down[point], height)
            a, b, c, d = _shares(s, t)
            one = (start + left) * num + top * wide
            three = one + below * wide
            two, four = one + right * num, three + right * num
            for first in range(_NONE, room, _WIDE):
                into = point * room + first
                for n in range(_WIDE):
                    codes[into + n] = (a * np.float32(table[one + first + n])
                                       + b * np.float32(table[two + first + n])
                                       + c * np.float32(table[three + first + n])
                                       + d * np.float32(table[four + first + n]))


@njit(**_settings)
def _weigh(codes: np.ndarray, base: np.ndarray, network: tuple, weights: np.ndarray,
           scratch: tuple) -> None:
    """Multiply weights (BLOCK,) that are not 0 by the aggregation's factors.

    Args:
        codes: as `_sample` has them.
        base: (BLOCK h,) what the direction adds to the hidden layer, in a row.
        network: weights (h / LANES, C / LANES, LANES, LANES), in a row, for unit, feature, feature,
            unit; (h,) of the last layer, and its bias.
        scratch: (BLOCK,) for logits; (LANES,) zeros, for what features beyond LANES add.
    """
    first, last, bias = network
    logits, rest = scratch
    hidden, room = np.uint64(len(last)), np.uint64(len(codes) // BLOCK)
    num_groups, square = np.uint64(len(first) // len(last) // LANES), _LANES * _LANES
    for point in range(_BLOCK):
        if not weights[point] > _ZERO:
            continue
        logit, own = bias, point * room
        for unit in range(_NONE, hidden, _LANES):
            matrix, begin = unit * num_groups * _LANES, point * hidden + unit
            for group in range(_NEXT, num_groups):
                at, more = own + group * _LANES, matrix + group * square
                for lane in range(_LANES):
                    one = _ZERO if group == _NEXT else rest[lane]
                    for n in range(_LANES):
                        one += codes[at + n] * first[more + n * _LANES + lane]
                    rest[lane] = one
            for lane in range(_LANES):
                one, two = base[begin + lane], rest[lane]
                for n in range(_NONE, _LANES, _TWO_MORE):
                    one += codes[own + n] * first[matrix + n * _LANES + lane]
                    two += codes[own + n + _NEXT] * first[matrix + (n + _NEXT) * _LANES + lane]
                logit += max(one + two, _ZERO) * last[unit + lane]
        logits[point] = logit
    for point in range(_BLOCK):
        weights[point] *= _sigmoid(logits[point])


@njit(**_settings)
def _add(codes: np.ndarray, weights: np.ndarray, sums: np.ndarray) -> None:
    """Add weighted codes (BLOCK m WIDE,) to sums, where weights (BLOCK,) are not 0."""
    room = np.uint64(len(codes) // BLOCK)
    for point in range(_BLOCK):
        if weights[point] > _ZERO:
            for n in range(room):
                sums[point * room + n] += weights[point] * codes[point * room + n]


@njit(**_settings)
def _directions(dirs: np.ndarray, along: np.ndarray, base: np.ndarray) -> None:
    """Write to `base` (BLOCK, h), in a row, what directions (B, 3) add to the hidden layer."""
    hidden = np.uint64(len(along) // 4)
    for b in range(len(dirs)):
        x, y, z, begin = dirs[b, 0], dirs[b, 1], dirs[b, 2], np.uint64(b) * hidden
        for h in range(hidden):
            base[begin + h] = (x * along[h] + y * along[hidden + h]
                               + z * along[hidden + hidden + h]
                               + along[hidden + hidden + hidden + h])


@njit(**_settings)
def _priors(kind: int, views: tuple, points: np.ndarray, dirs: np.ndarray,
            weights: np.ndarray) -> None:
    """Turn `weights` (K, BLOCK), 1 where a view sees a point, into what counts by direction alone.
    """
    centers, largest = views
    num_views, count = len(weights), len(points)
    largest[:] = _ZERO
    for k in range(num_views):
        for b in range(count):
            x, y, z = (points[b, 0] - centers[k, 0], points[b, 1] - centers[k, 1],
                       points[b, 2] - centers[k, 2])
            along = x * dirs[b, 0] + y * dirs[b, 1] + z * dirs[b, 2]
            cosine = along / max(np.sqrt(x * x + y * y + z * z), _TINY)
            cosine = min(max(cosine, _LEAST), _MOST)
            if kind == _COSINE:
                weights[k, b] *= max(cosine, _SMALL)
            else:
                weights[k, b] *= _acos(cosine)
                largest[b] = max(largest[b], weights[k, b])
    if kind == _ANGLE:
        for k in range(num_views):
            for b in range(count):
                angle = weights[k, b]
                nearness = max(_ONE - angle / max(largest[b], _SMALL), _MILLI)
                # no angle is 0: cosines are less than 1
                weights[k, b] = nearness / max(angle, _MILLI) if angle > _ZERO else _ZERO


@njit(**_settings)
def _finish(part: tuple, sums: np.ndarray, weights: np.ndarray, affine: np.ndarray,
            found: tuple) -> None:
    """Write values and weights of points, divided by the sum of the weights.

    Args:
        part: first point and end.
        sums: of weighted codes, in a row, as many places for each point as there are.
        weights: (K, BLOCK), not divided.
        affine, found: as `blend_points` has them.
    """
    values, shares = found
    num, start = np.uint64(len(affine) // 2), part[0]
    room = np.uint64(len(sums) // BLOCK)
    for b in range(part[1] - start):
        total = _ZERO
        for k in range(len(weights)):
            total += weights[k, b]
        seen = _ONE if total > _ZERO else _ZERO
        scale = seen / (total if total > _ZERO else _ONE)
        for k in range(len(weights)):
            shares[k, start + b] = weights[k, b] * scale
        at, into = np.uint64(b) * room, np.uint64(start + b) * (num + _NEXT)
        for n in range(num):
            values[into + n] = sums[at + n] * scale * affine[n] + affine[num + n] * seen
        values[into + num] = seen


@njit(f"void(Tuple((uint8[::1], uint8[::1], {_ROW})), Tuple((float32[:, :, ::1], {_ROWS})), "
      f"Tuple(({_ROWS}, {_ROWS})), Tuple(({_ROW}, {_ROW}, {_ROW}, {_ROW}, {_ROW})), "
      f"UniTuple(int64, 6), Tuple(({_ROW}, {_ROWS})))", **_settings)
def blend_points(maps: tuple, cameras: tuple, rays: tuple, network: tuple, choice: tuple,
                 found: tuple) -> None:
    """Blend what K source views show of P points.

    Args:
        maps: of H x W pixels, view by view, each in a row: codes (K H W n,) and WIDE more; masks
            (K H W,), 0 or 1; depths (K H W,), nan where there is no surface.
        cameras: matrices (K, 3, 4), points to (u z, v z, z), u and v in pixels from the corner;
            centres (K, 3).
        rays: points and directions (P, 3).
        network: weights of the hidden layer, as `_weigh` has them; (4 h,) for the direction, and
            bias; (h,) of the last layer; its bias and the tolerance of depths; (2 n,), by which
            codes are multiplied, and what is then added. C and h are multiples of LANES, weights 0
            where there is no feature or unit.
        choice: W and H; the prior, see _ANGLE and _COSINE; number of a view that does not count,
            or -1; first and end of the points that are blended.
        found: filled with blended values (P, n + 1), in a row, the last 1 where any view counts,
            and with weights (K, P).
    """
    matrices, centers = cameras
    first, along, last, numbers, affine = network
    width, height, prior, exclude, begin, stop = choice
    num_views, num, pixels = len(matrices), len(affine) // 2, np.uint64(width * height)
    places, weights = np.zeros((num_views, 3, BLOCK), np.float32), np.zeros(
        (num_views, BLOCK), np.float32)
    base, largest = np.zeros(BLOCK * len(last), np.float32), np.empty(BLOCK, np.float32)
    codes = np.empty(BLOCK * (-(-num // WIDE) * WIDE), np.float32)
    sums = np.empty(len(codes), np.float32)
    scratch = np.zeros(BLOCK, np.float32), np.zeros(LANES, np.float32)
    for start in range(begin, stop, BLOCK):
        end = min(start + BLOCK, stop)
        points, dirs = rays[0][start:end], rays[1][start:end]
        _directions(dirs, along, base)
        sums[:], weights[:] = _ZERO, _ZERO
        for k in range(num_views):
            if k != exclude:
                _see((maps[1], maps[2]), (np.uint64(k) * pixels, width, height),
                     (matrices[k], numbers[1]), points,
                     (places[k, 0], places[k, 1], places[k, 2], weights[k]))
        if prior:
            _priors(prior, (centers, largest), points, dirs, weights)
        for k in range(num_views):
            _sample(maps[0], (np.uint64(k) * pixels, width, height, np.uint64(num)),
                    (places[k, 0], places[k, 1], weights[k]), codes)
            _weigh(codes, base, (first, last, numbers[0]), weights[k], scratch)
            _add(codes, weights[k], sums)
        _finish((start, end), sums, weights, affine, found)
