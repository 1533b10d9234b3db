"""Exact distances on a grid from its zero crossing."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from utils.geometry.visual_hull import Hull

#: Values are cut to so many cells before their slope is taken.
SLOPE_CELLS = 3.0
#: Surface points are so many cells apart at most: what lies beside one of them by less is above
#: the surface between them.
SPACING_CELLS = 1.0


def redistanced(hull: Hull) -> Hull:
    """The grid with distances from its zero crossing, which stays where it is.

    Each grid point next to the surface gives a point of the surface, by its value over its slope,
    and a tangent plane. Every grid point takes its distance from the point and plane of the
    nearest of them. Values far from the crossing may be anything of the right sign.

    Args:
        hull: grid (N, N, N), negative inside. One without a crossing is returned as it is.
    """
    values = hull.distance.cpu().numpy().astype(np.float32)
    inside = values <= 0
    near = _beside_crossing(inside)
    if not near.any():
        return hull
    places = np.stack(np.nonzero(near), -1)                            # (M, 3)
    steps, normals = _cells_to_surface(
        np.clip(values / hull.cell, -SLOPE_CELLS, SLOPE_CELLS), places)
    nearest: Any = ndimage.distance_transform_edt(~near, return_distances=False,
                                                  return_indices=True)
    rows = np.zeros(values.shape, np.int32)
    rows[near] = np.arange(len(places), dtype=np.int32)
    row = rows[tuple(nearest)]                                         # (N, N, N)
    surface = (places + steps).astype(np.float32)
    along, squared = np.zeros_like(values), np.zeros_like(values)
    for axis, ticks in enumerate(np.ogrid[tuple(slice(n) for n in values.shape)]):
        way = ticks.astype(np.float32) - surface[:, axis][row]
        along += way * normals[:, axis][row]
        squared += way * way
    beside = np.sqrt(np.maximum(squared - along ** 2, 0)) - SPACING_CELLS
    distance = np.sqrt(along ** 2 + np.maximum(beside, 0) ** 2) * hull.cell
    signed = torch.from_numpy(np.where(inside, -distance, distance))
    return replace(hull, distance=signed.to(hull.distance))


def _beside_crossing(inside: np.ndarray) -> np.ndarray:
    """Grid points (bool) with a neighbour along an axis on the other side of the surface."""
    near = np.zeros_like(inside)
    for axis in range(3):
        crossing = np.diff(inside, axis=axis)
        first = [slice(None)] * 3
        second = [slice(None)] * 3
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        near[tuple(first)] |= crossing
        near[tuple(second)] |= crossing
    return near


def _cells_to_surface(values: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ways from grid points (M, 3 indices) to the crossing, a cell at most, and its normals.

    Args:
        values: (N, N, N) in cells.
    Returns:
        (M, 3) in cells, and (M, 3) unit, outward.
    """
    slopes = []
    for axis in range(3):
        ahead, behind = places.copy(), places.copy()
        ahead[:, axis] = np.minimum(ahead[:, axis] + 1, values.shape[axis] - 1)
        behind[:, axis] = np.maximum(behind[:, axis] - 1, 0)
        width = ahead[:, axis] - behind[:, axis]
        slopes.append((values[tuple(ahead.T)] - values[tuple(behind.T)]) / width)
    slope = np.stack(slopes, -1)
    steepness = np.maximum(np.linalg.norm(slope, axis=-1, keepdims=True), 1e-2)
    normals = (slope / steepness).astype(np.float32)
    away = np.clip(-values[tuple(places.T)][:, None] / steepness, -1, 1)
    return away * normals, normals
