"""Loops over points and rays on a grid of values, in machine code; needs numba, an extra.

The same as the plain forms in `utils.fast.tracing` (`sdf_grid`, `grid_march`), to rounding, in a
fifth of the time: a ray is followed to its end here, where operations on all rays read and write
each of its numbers at every step. They work on float32 without
Python's lock, so that threads can share rays.

Grids are (n, n, n), x last, over [-1, 1]^3; what lies outside has the value at the border. A line
is a row (8,): origin, unit direction, first and last distance.
"""
from __future__ import annotations

import numpy as np
from numba import njit

_GRID, _ROWS, _ROW = "float32[:, :, ::1]", "float32[:, ::1]", "float32[::1]"
_HALF, _ZERO, _ONE = np.float32(0.5), np.float32(0), np.float32(1)


@njit(nogil=True, cache=True, inline="always")
def _cell(place: np.float32, num_nodes: int) -> tuple[int, np.float32]:
    """Node before a coordinate, with one after it, and the share of the way there."""
    at = (place + _ONE) * (_HALF * np.float32(num_nodes - 1))
    at = at if at > _ZERO else _ZERO                       # what is not a number, too
    node = min(int(min(at, np.float32(num_nodes - 1))), num_nodes - 2)
    return node, min(at - np.float32(node), _ONE)


@njit(nogil=True, cache=True, inline="always")
def _value(grid: np.ndarray, x: np.float32, y: np.float32, z: np.float32) -> np.float32:
    """Trilinear interpolation at a point."""
    num_nodes = len(grid)
    column, u = _cell(x, num_nodes)
    row, v = _cell(y, num_nodes)
    layer, w = _cell(z, num_nodes)
    found = _ZERO
    for k in range(2):
        for j in range(2):
            first = grid[layer + k, row + j, column]
            along = first + u * (grid[layer + k, row + j, column + 1] - first)
            weight = (w if k else _ONE - w) * (v if j else _ONE - v)
            found += weight * along
    return found


@njit(f"void({_GRID}, {_ROWS}, {_ROW})", nogil=True, cache=True)
def interpolate(grid: np.ndarray, points: np.ndarray, values: np.ndarray) -> None:
    """Values (N,) at points (N, 3)."""
    for row in range(len(points)):
        values[row] = _value(grid, points[row, 0], points[row, 1], points[row, 2])


@njit(nogil=True, cache=True, inline="always")
def _on_line(grid: np.ndarray, line: np.ndarray, t: np.float32) -> np.float32:
    """Return the interpolated value at a distance along a line."""
    return _value(grid, line[0] + t * line[3], line[1] + t * line[4], line[2] + t * line[5])


@njit(f"void({_GRID}, {_ROWS}, {_ROW}, {_ROWS})", nogil=True, cache=True)
def least_on_lines(grid: np.ndarray, lines: np.ndarray, fractions: np.ndarray,
                   found: np.ndarray) -> None:
    """The first of the least values among samples of each line, and its distance.

    Args:
        lines: (R, 8).
        fractions: (S,) of the way from first to last distance.
        found: (R, 2) to write into: values, distances.
    """
    for row in range(len(lines)):
        line = lines[row]
        least, t_least = np.float32(np.inf), line[6]
        for fraction in fractions:
            t = line[6] + (line[7] - line[6]) * fraction
            value = _on_line(grid, line, t)
            if value < least:
                least, t_least = value, t
        found[row, 0], found[row, 1] = least, t_least


@njit(f"int64({_GRID}, float32, {_ROWS}, {_ROWS}, boolean[::1], int64[::1], {_ROWS})", nogil=True,
      cache=True)
def march(grid: np.ndarray, error: np.float32, lines: np.ndarray,
          ends: np.ndarray, crossed_mask: np.ndarray, graze_rows: np.ndarray,
          grazes: np.ndarray) -> int:
    """Sphere tracing of each line to its first change of sign; see `grid_march.Marched`.

    Args:
        error: of the grid.
        lines: (R, 8).
        ends, crossed_mask: (R, 6), (R,) to write into.
        graze_rows, grazes: (G,), (G, 2) to write into, as far as there is room.
    Returns:
        Number of grazes there were.
    """
    shortest, num_grazes = np.float32(1 / (len(grid) - 1)), 0
    for row in range(len(lines)):
        line = lines[row]
        far, at, low, since, t_least = line[7], line[6], line[6], line[6], line[6]
        value_low, least = np.float32(np.inf), np.float32(np.inf)
        while True:
            now = _on_line(grid, line, at)
            inside, was_near = now <= _ZERO, value_low < error
            if not was_near:
                since = at
            if now < least:
                least, t_least = now, at
            if not inside and (at >= far if now < error else was_near):
                if num_grazes < len(graze_rows):
                    graze_rows[num_grazes] = row
                    grazes[num_grazes, 0], grazes[num_grazes, 1] = since, at
                num_grazes += 1
            next_at = min(at + max(now, shortest), far)
            if inside or now != now or not next_at > at:   # there, or too far off to move
                break
            low, value_low, at = at, now, next_at
        crossed_mask[row] = inside
        ends[row, 0], ends[row, 1], ends[row, 2] = low, at, since
        ends[row, 3], ends[row, 4], ends[row, 5] = value_low, now, t_least
    return num_grazes
