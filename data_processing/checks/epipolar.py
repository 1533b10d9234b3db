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

#: Photographs are resized to this longer side before features are searched. Distances are given in
#: its pixels, the working pixels, so that they mean the same for every scene.
WORKING_SIDE = 640
MAX_ENLARGED = 3.0
NUM_FEATURES = 1000
#: Level to which the bright parts of every photograph are scaled, so that dark ones have features.
BRIGHT = 200
#: The distance of a match must be below this fraction of that of the second best.
MATCH_RATIO = 0.75
#: Matches are used only if they agree with some epipolar geometry to this many working pixels.
RANSAC_PIXELS = 2.0
#: Pairs with fewer such matches are not used.
MIN_MATCHES = 20
#: At most this many pairs are compared.
MAX_PAIRS = 72
#: Side of the patch whose brightness is compared, working pixels.
PATCH = 9


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


def working_scale(size: tuple[int, int]) -> float:
    """Return how many working pixels one pixel of images of (W, H) is."""
    return min(MAX_ENLARGED, WORKING_SIDE / max(size))


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
    detector = cv2.SIFT.create(nfeatures=NUM_FEATURES, contrastThreshold=0.02)
    needed = sorted({view for pair in pairs for view in pair})
    found = {v: _features(detector, images[v], None if masks is None else masks[v, 0], scale)
             for v in needed}
    out = [_match(found, pair, scale) for pair in pairs]
    return [matches for matches in out if matches is not None]


def _features(detector: cv2.SIFT, image: Tensor, mask: Tensor | None, scale: float) -> tuple:
    """Return points (N, 2) in working pixels, descriptors (N, 128) or None, brightness (N,)."""
    grey = (image.mean(0).numpy() * 255).round().astype(np.uint8)
    size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    grey = cv2.resize(grey, size, interpolation=method)
    within = None
    if mask is not None:
        within = cv2.resize(mask.numpy().astype(np.uint8) * 255, size)
    level = np.percentile(grey if within is None or not within.any() else grey[within > 0], 95)
    even = np.clip(grey * (BRIGHT / max(level, 1.0)), 0, 255).astype(np.uint8)
    points, descriptors = detector.detectAndCompute(even, within)
    places = np.array([point.pt for point in points], np.float64).reshape(-1, 2)
    smooth = cv2.blur(grey.astype(np.float32), (PATCH, PATCH))
    index = places.round().astype(int).clip(0, np.array(size) - 1)
    if descriptors is not None:
        descriptors = np.sqrt(descriptors / (np.abs(descriptors).sum(1, keepdims=True) + 1e-7))
    return places, descriptors, smooth[index[:, 1], index[:, 0]]


def _match(found: dict[int, tuple], pair: tuple[int, int], scale: float) -> PairMatches | None:
    """Return mutually best matches that agree with one epipolar geometry; None for too few."""
    (points_a, first, light_a), (points_b, second, light_b) = found[pair[0]], found[pair[1]]
    if first is None or second is None or min(len(first), len(second)) < MIN_MATCHES:
        return None
    both = _best_pairs(torch.from_numpy(first) @ torch.from_numpy(second).T)
    if len(both) < MIN_MATCHES:
        return None
    a, b = points_a[both[:, 0]], points_b[both[:, 1]]
    cv2.setRNGSeed(0)
    _, kept = cv2.findFundamentalMat(a, b, cv2.FM_RANSAC, RANSAC_PIXELS, 0.999)
    kept = np.zeros(len(a), bool) if kept is None else kept.ravel() > 0
    if kept.sum() < MIN_MATCHES:
        return None
    bright = (light_b[both[:, 1]][kept] + 1) / (light_a[both[:, 0]][kept] + 1)
    to_pixels = [(points[kept] + 0.5) / scale - 0.5 for points in (a, b)]
    return PairMatches(*pair, *to_pixels, gain=float(np.median(bright)))


def _best_pairs(likeness: Tensor) -> np.ndarray:
    """Return rows and columns (M, 2) of descriptors that are each other's best match.

    `likeness` (A, B) holds their cosines; for unit vectors distance^2 = 2 - 2 cosine. The best must
    be nearer than MATCH_RATIO times the second best, both ways.
    """
    clear = []
    for table in (likeness, likeness.T):
        best = table.topk(2, dim=1)
        distance = (2 - 2 * best.values).clamp_min(0).sqrt()
        clear.append((best.indices[:, 0], distance[:, 0] < MATCH_RATIO * distance[:, 1]))
    (forth, is_clear), (back, is_clear_back) = clear
    rows = torch.arange(len(forth))
    kept = is_clear & (back[forth] == rows) & is_clear_back[forth]
    return torch.stack([rows[kept], forth[kept]], 1).numpy()


def epipolar_distances(geometry: Geometry, matches: Sequence[PairMatches]) -> np.ndarray:
    """Return the median Sampson distance (P,) of each pair's matches from the epipolar lines.

    |b' F a| / sqrt(|(F a)_xy|^2 + |(F' b)_xy|^2): to first order the distance in pixels by which a
    pair of points misses the geometry. NaN where the two cameras share a centre.

    Args:
        geometry: V cameras.
        matches: P pairs, points in pixels of the geometry's images.
    Returns:
        Working pixels (`WORKING_SIDE`).
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
