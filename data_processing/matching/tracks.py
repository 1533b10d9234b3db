"""Tracks: the features of several views that show one point."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial import KDTree

from data_processing.matching.features import Features

#: A further view shows a point where a feature lies so near to its projection, working pixels, and
#: has so great a cosine with those of the match. At most so many features are compared.
NEAR_PROJECTION, LEAST_COSINE, NUM_COMPARED = 3.0, 0.85, 4


def pair_table(matches: Mapping[tuple[int, int], np.ndarray], num_views: int) -> np.ndarray:
    """Return all matches as tracks of two views.

    Args:
        matches: numbers (M, 2) of features, by the pair of views.
        num_views: V.
    Returns:
        (N, V) int64, the number of each view's feature, -1 for none.
    """
    parts = [np.full((0, num_views), -1)]
    for pair, numbers in sorted(matches.items()):
        part = np.full((len(numbers), num_views), -1)
        part[:, pair] = numbers
        parts.append(part)
    return np.concatenate(parts)


def extended(table: np.ndarray, features: Sequence[Features],
             projected: np.ndarray) -> np.ndarray:
    """Return the tracks with features of further views, near where their points project.

    Args:
        table: (N, V) of `pair_table`.
        features: of V views.
        projected: (N, V, 2) where each view would show the points, working pixels.
    Returns:
        (N, V) as `table`.
    """
    out = table.copy()
    likes = np.zeros((len(table), features[0].descriptors.shape[1]), np.float32)
    for view, found in enumerate(features):
        has = table[:, view] >= 0
        likes[has] += found.descriptors[table[has, view]]
    likes /= np.maximum(np.linalg.norm(likes, axis=1, keepdims=True), 1e-6)
    for view, found in enumerate(features):
        rows = np.flatnonzero(table[:, view] < 0)
        if len(found) and len(rows):
            out[rows, view] = _best_near(found, projected[rows, view], likes[rows])
    return out


def _best_near(found: Features, places: np.ndarray, likes: np.ndarray) -> np.ndarray:
    """Return the number (N,) of the feature near each place (N, 2) that is most like; -1 for none.

    Args:
        likes: (N, 128) unit descriptors.
    """
    away, number = map(np.asarray, KDTree(found.places).query(
        places, NUM_COMPARED, distance_upper_bound=NEAR_PROJECTION))
    cosine = (found.descriptors[np.minimum(number, len(found) - 1)] * likes[:, None]).sum(2)
    cosine = np.where(np.isfinite(away), cosine, -1)                   # (N, NUM_COMPARED)
    best = cosine.argmax(1)
    rows = np.arange(len(places))
    return np.where(cosine[rows, best] >= LEAST_COSINE, number[rows, best], -1)


def without_repeats(table: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return the numbers of tracks that share no feature, in order.

    Those of most views come first, among them those of least error.

    Args:
        table: (N, V) of `pair_table`.
        errors: (N,).
    """
    taken: set[tuple[int, int]] = set()
    kept = []
    for row in np.lexsort((errors, -(table >= 0).sum(1))).tolist():
        mine = [(view, number) for view, number in enumerate(table[row].tolist()) if number >= 0]
        if taken.isdisjoint(mine):
            taken.update(mine)
            kept.append(row)
    return np.sort(np.array(kept, np.int64))
