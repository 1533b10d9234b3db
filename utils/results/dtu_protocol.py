"""Distances between a mesh and DTU's scans by the data set's own protocol (Jensen et al. 2014).

The mesh becomes points every 0.2 mm, thinned so that none are closer than that. Accuracy runs over
those inside the observation mask, to the scan; completeness over the points of the scan above the
plane of the table, to the mesh. Distances of 20 mm and more are left out of both means. Everything
is in the world space of the scan, millimetres.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from utils.errors import UserError

#: Distance between sampled points, and the distance from which on a point does not count, mm.
SPACING, CAP = 0.2, 20.0
#: Pairs of points within SPACING of each other: 16 bytes each.
MAX_PAIRS = 200_000_000
#: Triangles that are sampled at once.
FACES_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class ObservedSpace:
    """Where the scan can tell whether there is a surface.

    Attributes:
        mask: (X, Y, Z) bool, a cell each.
        corners: (2, 3) centres of the first and the last cell, mm.
        cell: side of a cell, mm.
        plane: (4,) of the table; a point counts above it, where plane . (x, y, z, 1) > 0.
    """

    mask: np.ndarray
    corners: np.ndarray
    cell: float
    plane: np.ndarray

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Return (N,) bool: which points (N, 3) lie in a cell that was observed."""
        index = np.rint((points - self.corners[0]) / self.cell)
        within = ((index >= 0) & (index < self.mask.shape)).all(-1)
        found = np.zeros(len(points), bool)
        found[within] = self.mask[tuple(index[within].astype(np.int64).T)]
        return found

    def is_above(self, points: np.ndarray) -> np.ndarray:
        """Return (N,) bool: which points (N, 3) lie above the table."""
        return points @ self.plane[:3] + self.plane[3] > 0


@dataclass(frozen=True)
class DtuDistances:
    """What the protocol gives, in mm; None where nothing is left to measure.

    Attributes:
        accuracy: mean distance of the mesh's observed points to the scan.
        completeness: mean distance of the scan's points above the table to the mesh.
        num_mesh, num_observed: points of the mesh, and those inside the observation mask.
        num_scan: points of the scan above the table.
    """

    accuracy: float | None
    completeness: float | None
    num_mesh: int
    num_observed: int
    num_scan: int

    @property
    def overall(self) -> float | None:
        """The mean of both, which papers call the Chamfer distance."""
        if self.accuracy is None or self.completeness is None:
            return None
        return (self.accuracy + self.completeness) / 2


def dtu_distances(vertices: np.ndarray, faces: np.ndarray, scan: np.ndarray, space: ObservedSpace,
                  *, spacing: float = SPACING, cap: float = CAP, seed: int = 0) -> DtuDistances:
    """Return the distances of a mesh to a scan, both ways.

    Args:
        vertices: (N, 3) world space, mm.
        faces: (F, 3).
        scan: (M, 3) points of the scan.
        space: where they are compared.
        spacing: of the mesh's points, mm.
        cap: distances from here on are left out, mm.
        seed: of the order in which points are thinned.
    """
    points = np.concatenate([vertices, points_on_triangles(vertices, faces, spacing)])
    points = thinned(points, spacing, np.random.default_rng(seed))
    observed, above = points[space.holds(points)], scan[space.is_above(scan)]
    return DtuDistances(_capped_mean(observed, scan, cap), _capped_mean(above, points, cap),
                        len(points), len(observed), len(above))


def points_on_triangles(vertices: np.ndarray, faces: np.ndarray, spacing: float) -> np.ndarray:
    """Return points (N, 3) on triangles, neighbours at most `spacing` apart.

    A triangle whose longest side is L is divided into n^2 alike, n = ceil(L / spacing); the centres
    of those that stand as it does, n (n + 1) / 2, are the points.
    """
    corners, counts, parts = vertices[faces], _divisions(vertices, faces, spacing), []
    for count in np.unique(counts):
        rows, columns = np.nonzero(np.add.outer(np.arange(count), np.arange(count)) < count)
        weights = (np.stack([rows, columns], -1) + 1 / 3) / count      # (P, 2)
        chosen = corners[counts == count]
        size = max(1, FACES_AT_ONCE // len(weights))
        for part in np.split(chosen, range(size, len(chosen), size)):
            edges = part[:, 1:] - part[:, :1]                          # (f, 2, 3)
            parts.append((part[:, :1] + weights @ edges).reshape(-1, 3))
    return np.concatenate(parts) if parts else np.zeros((0, 3))


def num_points_on(vertices: np.ndarray, faces: np.ndarray, spacing: float) -> int:
    """Return how many points `points_on_triangles` would return."""
    counts = _divisions(vertices, faces, spacing).astype(np.float64)
    return int((counts * (counts + 1) / 2).sum())


def _divisions(vertices: np.ndarray, faces: np.ndarray, spacing: float) -> np.ndarray:
    """Return (F,) how often the sides of triangles are divided."""
    corners = vertices[faces]                                          # (F, 3, 3)
    sides = np.linalg.norm(corners - np.roll(corners, 1, 1), axis=-1).max(-1)
    return np.maximum(np.ceil(sides / spacing), 1).astype(np.int64)


def thinned(points: np.ndarray, distance: float, rng: np.random.Generator) -> np.ndarray:
    """Return some of the points (N, 3), none closer to another than `distance`.

    They are those that remain when the points are taken in random order and each removes all later
    ones within the distance. Here this goes in rounds: of the points that are left, those with no
    earlier one within the distance are taken together.

    Raises:
        UserError: so many points are within the distance of each other that memory would not do.
    """
    points = points[rng.permutation(len(points))]
    tree = KDTree(points)
    num_pairs = (int(tree.count_neighbors(tree, distance)) - len(points)) // 2
    if num_pairs > MAX_PAIRS:
        raise UserError(f"{len(points):,} points of the mesh make {num_pairs:,} pairs within "
                        f"{distance:g} mm, need at most {MAX_PAIRS:,}; give a mesh in millimetres "
                        "that is not finer than that")
    pairs = tree.query_pairs(distance, output_type="ndarray")          # (P, 2), i < j
    is_open = np.ones(len(points), bool)
    is_taken = np.zeros(len(points), bool)
    while is_open.any():
        first = is_open.copy()
        first[pairs[:, 1]] = False
        is_taken |= first
        is_open[first] = False
        is_open[pairs[first[pairs[:, 0]], 1]] = False
        pairs = pairs[is_open[pairs].all(-1)]
    return points[is_taken]


def _capped_mean(points: np.ndarray, others: np.ndarray, cap: float) -> float | None:
    """Return the mean distance to the nearest other point, of those that have one within `cap`."""
    if not len(points) or not len(others):
        return None
    distances, _ = KDTree(others).query(points, distance_upper_bound=cap)
    near = distances[distances < cap]
    return float(near.mean()) if len(near) else None
