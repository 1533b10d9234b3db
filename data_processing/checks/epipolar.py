"""Whether photographs and cameras fit: matched points against the epipolar lines of the poses.

A point of one photograph lies, in another, on the line that the two cameras predict. The matches
are made without the cameras, so their distances from the lines tell whether the cameras are right.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from data_processing.matching.features import (
    Features,
    best_pairs,
    find_features,
    make_detector,
    to_pixels,
    working_scale,
)

#: Matches are used only if they agree with some epipolar geometry to this many working pixels.
RANSAC_PIXELS = 2.0
#: Pairs with fewer such matches are not used.
MIN_MATCHES = 20
#: At most this many pairs are compared.
MAX_PAIRS = 72


@dataclass(frozen=True)
class PairMatches:
    """Points that two views have in common.

    Attributes:
        first, second: numbers of the views.
        a, b: (M, 2) float64 pixels of the scene's images, the top left pixel's centre at (0, 0).
        gain: how many times brighter the second view shows them; a median.
    """

    first: int
    second: int
    a: np.ndarray
    b: np.ndarray
    gain: float


@dataclass(frozen=True)
class Geometry:
    """Cameras as matches are tested with.

    `view` (V, 4, 4) is world to camera, OpenGL axes, `intrinsics` (V, 3, 3), `size` (W, H).
    """

    view: np.ndarray
    intrinsics: np.ndarray
    size: tuple[int, int]


def pairs_to_compare(view: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs of views: neighbours in order, and those whose cameras are nearest.

    There are at most MAX_PAIRS, spread evenly.

    Args:
        view: (V, 4, 4) world to camera.
    """
    num = len(view)
    centers = -np.einsum("vji,vj->vi", view[:, :3, :3], view[:, :3, 3])
    distance = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    pairs = {(min(i, j), max(i, j)) for i in range(num)
             for j in np.argsort(distance[i])[:2].tolist() if i != j}
    ordered = sorted(pairs | {(i, i + 1) for i in range(num - 1)})
    if len(ordered) > MAX_PAIRS:
        chosen = np.linspace(0, len(ordered) - 1, MAX_PAIRS).round().astype(int)
        ordered = [ordered[i] for i in chosen]
    return ordered


def match_pairs(images: Tensor, masks: Tensor | None,
                pairs: Sequence[tuple[int, int]]) -> list[PairMatches]:
    """Return the matches of the pairs that have enough of them.

    Args:
        images: (V, 3, H, W) RGB in [0, 1].
        masks: (V, 1, H, W) bool: features outside are not used; None uses all.
        pairs: numbers of views.
    """
    scale = working_scale((images.shape[3], images.shape[2]))
    detector = make_detector()
    needed = sorted({view for pair in pairs for view in pair})
    found = {v: find_features(detector, images[v], None if masks is None else masks[v, 0])
             for v in needed}
    out = [_match(found, pair, scale) for pair in pairs]
    return [matches for matches in out if matches is not None]


def _match(found: dict[int, Features], pair: tuple[int, int], scale: float) -> PairMatches | None:
    """Return mutually best matches that agree with one epipolar geometry; None for too few."""
    first, second = found[pair[0]], found[pair[1]]
    if min(len(first), len(second)) < MIN_MATCHES:
        return None
    both = best_pairs(torch.from_numpy(first.descriptors) @ torch.from_numpy(second.descriptors).T)
    if len(both) < MIN_MATCHES:
        return None
    a, b = first.places[both[:, 0]], second.places[both[:, 1]]
    cv2.setRNGSeed(0)
    _, kept = cv2.findFundamentalMat(a, b, cv2.FM_RANSAC, RANSAC_PIXELS, 0.999)
    kept = np.zeros(len(a), bool) if kept is None else kept.ravel() > 0
    if kept.sum() < MIN_MATCHES:
        return None
    bright = (second.light[both[:, 1]][kept] + 1) / (first.light[both[:, 0]][kept] + 1)
    return PairMatches(*pair, *(to_pixels(places[kept], scale) for places in (a, b)),
                       gain=float(np.median(bright)))


def epipolar_distances(geometry: Geometry, matches: Sequence[PairMatches]) -> np.ndarray:
    """Return the median Sampson distance (P,) of each pair's matches from the epipolar lines.

    |b' F a| / sqrt(|(F a)_xy|^2 + |(F' b)_xy|^2): to first order the distance in pixels by which a
    pair of points misses the geometry. NaN where the two cameras share a centre.

    Args:
        geometry: V cameras.
        matches: P pairs, points in pixels of the geometry's images.
    Returns:
        Working pixels (`matching.features`).
    """
    scale = working_scale(geometry.size)
    return np.array([_sampson(geometry, pair) * scale for pair in matches])


def _relative(geometry: Geometry, pair: PairMatches) -> np.ndarray:
    """Return the matrix (4, 4) from the first camera to the second, OpenCV axes."""
    flip = np.diag([1.0, -1, -1, 1])
    return flip @ geometry.view[pair.second] @ np.linalg.inv(geometry.view[pair.first]) @ flip


def _homogeneous(points: np.ndarray) -> np.ndarray:
    """Return points (M, 2) with a third coordinate of 1."""
    return np.concatenate([points, np.ones((len(points), 1))], 1)


def _sampson(geometry: Geometry, pair: PairMatches) -> float:
    """Return the median Sampson distance of a pair's matches, pixels of the geometry's images."""
    relative = _relative(geometry, pair)
    rotation, translation = relative[:3, :3], relative[:3, 3]
    if np.linalg.norm(translation) < 1e-9:
        return np.nan
    x, y, z = translation / np.linalg.norm(translation)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    inverse = [np.linalg.inv(geometry.intrinsics[v]) for v in (pair.first, pair.second)]
    fundamental = inverse[1].T @ cross @ rotation @ inverse[0]
    a, b = _homogeneous(pair.a), _homogeneous(pair.b)
    lines_b, lines_a = a @ fundamental.T, b @ fundamental
    miss = np.abs((b * lines_b).sum(1))
    steepness = np.sqrt((lines_b[:, :2] ** 2).sum(1) + (lines_a[:, :2] ** 2).sum(1))
    return float(np.median(miss / np.maximum(steepness, 1e-12)))


def fraction_in_front(geometry: Geometry, matches: Sequence[PairMatches]) -> float:
    """Return the fraction of matched points that both rays place in front of both cameras.

    With wrong axes half of the rays meet behind a camera; with right ones nearly all meet in front.
    """
    counted = in_front = 0
    for pair in matches:
        relative = _relative(geometry, pair)
        rays_a = _homogeneous(pair.a) @ np.linalg.inv(geometry.intrinsics[pair.first]).T
        rays_b = _homogeneous(pair.b) @ np.linalg.inv(geometry.intrinsics[pair.second]).T
        rays_a = rays_a @ relative[:3, :3].T                           # axes of the second camera
        translation = relative[:3, 3]
        # translation + s a is nearest to t b where both residuals vanish along a and b
        aa, ab, bb = (rays_a ** 2).sum(1), (rays_a * rays_b).sum(1), (rays_b ** 2).sum(1)
        ta, tb = rays_a @ translation, rays_b @ translation
        scale = aa * bb - ab ** 2
        usable = scale > 1e-9 * aa * bb
        s, t = (ab * tb - bb * ta), (aa * tb - ab * ta)
        counted += int(usable.sum())
        in_front += int(((s > 0) & (t > 0))[usable].sum())
    return in_front / counted if counted else float("nan")


def exposures(num_views: int, matches: Sequence[PairMatches]) -> np.ndarray:
    """Return the brightness (V,) of each view relative to their mean, from the pairs' gains.

    By least squares in logarithms; views without matches are NaN.
    """
    rows = [(np.log(max(pair.gain, 1e-6)), pair.first, pair.second) for pair in matches]
    seen = sorted({view for _, first, second in rows for view in (first, second)})
    out = np.full(num_views, np.nan)
    if not seen:
        return out
    place = {view: i for i, view in enumerate(seen)}
    system, values = torch.zeros(len(rows) + 1, len(seen), dtype=torch.float64), []
    for i, (gain, first, second) in enumerate(rows):
        system[i, place[first]], system[i, place[second]] = -1, 1
        values.append(gain)
    system[-1] = 1 / len(seen)
    solution = torch.linalg.lstsq(system, torch.tensor([*values, 0.0])[:, None].double(),
                                  driver="gelsd").solution[:, 0]
    out[seen] = np.exp(solution.numpy())
    return out
