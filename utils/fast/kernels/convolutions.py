"""Two convolutions of a small decoder on the rows about an object; needs numba, an extra.

The same as `realtime.students.StudentDecoder` on the whole picture, to rounding, in three quarters
of the time. A map of a few rows lies in one line, so that a tap of a 3x3 convolution is the line,
moved: the loop over it is long, and what it computes beyond the ends of rows is not read.
"""
from __future__ import annotations

import numpy as np
from numba import njit

_ZERO = np.float32(0)
#: Pixels that both convolutions reach beside a pixel.
REACH = 2
_ROW, _ROWS, _WEIGHTS = "float32[::1]", "float32[:, ::1]", "float32[:, :, :, ::1]"
_settings = {"nogil": True, "cache": True, "error_model": "numpy",
             "fastmath": {"contract", "reassoc"}}


@njit(**_settings)
def _add_taps(line: np.ndarray, pitch: int, taps: np.ndarray, found: np.ndarray) -> None:
    """Add a line, weighted by nine taps (3, 3), to another."""
    a, b, c = taps[0, 0], taps[0, 1], taps[0, 2]
    d, e, f = taps[1, 0], taps[1, 1], taps[1, 2]
    g, h, i = taps[2, 0], taps[2, 1], taps[2, 2]
    upper, middle, lower = line, line[pitch:], line[2 * pitch:]
    for x in range(len(found)):
        found[x] += (a * upper[x] + b * upper[x + 1] + c * upper[x + 2]
                     + d * middle[x] + e * middle[x + 1] + f * middle[x + 2]
                     + g * lower[x] + h * lower[x + 1] + i * lower[x + 2])


@njit(**_settings)
def _convolve(maps: np.ndarray, pitch: int, layer: tuple, found: np.ndarray) -> None:
    """Fill (M, L) with a convolution of maps (N, L + 2 pitch + 2), each a line.

    Place x of a line is then the convolution about place x + pitch + 1.

    Args:
        pitch: places from one row to the next.
        layer: weights (M, N, 3, 3) and bias (M,).
    """
    weights, bias = layer
    for m in range(len(found)):
        found[m] = bias[m]
        for n in range(len(maps)):
            _add_taps(maps[n], pitch, weights[m, n], found[m])


@njit(**_settings)
def _gather(values: np.ndarray, pixels: np.ndarray, part: tuple, width: int,
            maps: np.ndarray) -> None:
    """Fill maps (N, ...), each a line of rows of `pitch` places, with values (N, P) of pixels (P,).

    Args:
        part: first row and end of those that are wanted, first column, pitch.
        width: of the picture.
    """
    top, bottom, left, pitch = part
    first, end = np.searchsorted(pixels, top * width), np.searchsorted(pixels, bottom * width)
    places = np.empty(end - first, np.int64)
    for p in range(first, end):
        row = pixels[p] // width
        places[p - first] = (row - top) * pitch + pixels[p] - row * width - left
    maps[:] = _ZERO
    for n in range(len(values)):
        for p in range(first, end):
            maps[n, places[p - first]] = values[n, p]


@njit(f"void({_ROWS}, int64[::1], Tuple(({_WEIGHTS}, {_ROW})), Tuple(({_WEIGHTS}, {_ROW})), "
      "UniTuple(int64, 4), float32[:, :, ::1])", **_settings)
def decode_rows(values: np.ndarray, pixels: np.ndarray, hidden_layer: tuple, last_layer: tuple,
                part: tuple, image: np.ndarray) -> None:
    """Compute a decoder's image in a rectangle that has all pixels within REACH.

    Args:
        values: (C + 4, P) features, colours and 1 where a view counts, at P pixels; 0 at others.
        pixels: (P,) their numbers, row by row, rising.
        hidden_layer, last_layer: weights (h, C + 4, 3, 3), (3, h, 3, 3) and bias of each.
        part: first row and end of those that are computed, first column and end.
        image: (3, H, W) to write into.
    """
    top, bottom, left, right = part
    _, height, width = image.shape
    num_rows, pitch = bottom - top, right - left + 2 * REACH
    maps = np.empty((len(values), (num_rows + 2 * REACH) * pitch + 2 * REACH), np.float32)
    hidden = np.empty((len(hidden_layer[1]), (num_rows + 2) * pitch + 2), np.float32)
    found = np.empty((3, num_rows * pitch), np.float32)
    _gather(values, pixels, (top - REACH, bottom + REACH, left - REACH, pitch), width, maps)
    _convolve(maps, pitch, hidden_layer, hidden)
    for row in range(num_rows + 2):
        for column in range(pitch):
            # a convolution takes what lies beside the picture as 0
            is_inside = (0 <= top + row - 1 < height) and (0 <= left + column - 1 < width)
            for m in range(len(hidden)):
                at = row * pitch + column
                hidden[m, at] = max(hidden[m, at], _ZERO) if is_inside else _ZERO
    _convolve(hidden, pitch, last_layer, found)
    first_colour = len(values) - 4
    for channel in range(3):
        for row in range(num_rows):
            for column in range(right - left):
                at = (row + REACH) * pitch + column + REACH
                image[channel, top + row, left + column] = (
                    maps[first_colour + channel, at] + found[channel, row * pitch + column])
