"""Matches of features along the epipolar lines of known cameras."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data_processing.matching.features import Features
from utils.geometry.cameras import Cameras

#: Pairs of views whose directions, seen from the object, differ by these angles are compared.
MIN_DEGREES, MAX_DEGREES = 5.0, 60.0
#: At most so many of them for a view, the nearest.
MAX_PARTNERS = 6
#: A match lies so near to the epipolar lines, working pixels.
MAX_DISTANCE = 2.0
#: Its descriptors' distance is below this fraction of that of the second best on the line.
LINE_RATIO = 0.9
#: Features as near as this are the same place, working pixels.
SAME_PLACE = 4.0
#: Candidates whose descriptors are compared at once.
CHUNK = 1 << 16


def pairs_by_angle(cameras: Cameras) -> list[tuple[int, int]]:
    """Return the pairs of views that are compared, the smaller number first.

    Args:
        cameras: V cameras.
    """
    dirs = F.normalize(cameras.centers_obj.double(), dim=-1)
    degrees = torch.rad2deg(torch.acos((dirs @ dirs.T).clamp(-1, 1)))
    usable = (degrees >= MIN_DEGREES) & (degrees <= MAX_DEGREES)
    nearest = torch.where(usable, degrees, torch.inf).argsort(dim=1, stable=True)
    return sorted({(min(view, other), max(view, other)) for view in range(len(cameras))
                   for other in nearest[view, :MAX_PARTNERS].tolist() if usable[view, other]})


def fundamental_matrix(cameras: Cameras, first: int, second: int,
                       size: tuple[float, float]) -> np.ndarray:
    """Return F (3, 3) with b' F a = 0 for places a, b of one point in two views.

    F = [e]_x P_b P_a^+ with the epipole e = P_b c_a.

    Args:
        cameras: V cameras.
        first, second: numbers of the views of a and b.
        size: (W, H) of the images in whose pixels places are given.
    """
    width, height = size
    to_pixels = np.array([[width / 2, 0, (width - 1) / 2], [0, -height / 2, (height - 1) / 2],
                          [0, 0, 1]])
    clip = cameras.object_to_clip.double().cpu().numpy()[:, [0, 1, 3]]
    matrix_a, matrix_b = to_pixels @ clip[first], to_pixels @ clip[second]
    center = np.append(cameras.centers_obj[first].double().cpu().numpy(), 1)
    x, y, z = matrix_b @ center
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return cross @ matrix_b @ np.linalg.pinv(matrix_a)


def distances_from_lines(fundamental: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Sampson distances (A, B) of all pairs of places, pixels.

    |b' F a| / sqrt(|(F a)_xy|^2 + |(F' b)_xy|^2)

    Args:
        fundamental: (3, 3), of `fundamental_matrix`.
        a, b: (A, 2) and (B, 2) places in the two views.
    """
    a, b = (np.concatenate([places, np.ones((len(places), 1))], 1) for places in (a, b))
    lines_b, lines_a = a @ fundamental.T, b @ fundamental
    steepness = (lines_b[:, :2] ** 2).sum(1)[:, None] + (lines_a[:, :2] ** 2).sum(1)
    miss = np.abs(lines_b @ b.T)
    return np.divide(miss, np.sqrt(np.maximum(steepness, 1e-24)), out=miss)


def guided_matches(first: Features, second: Features, distances: np.ndarray) -> np.ndarray:
    """Return the numbers (M, 2) of features that are each other's best match along the lines.

    Args:
        first, second: A and B features of two views.
        distances: (A, B) of `distances_from_lines`.
    """
    candidates = torch.from_numpy(np.argwhere(distances <= MAX_DISTANCE))          # (C, 2)
    descriptors = [torch.from_numpy(found.descriptors) for found in (first, second)]
    likeness = torch.cat([(descriptors[0][part[:, 0]] * descriptors[1][part[:, 1]]).sum(1)
                          for part in candidates.split(CHUNK)])
    kept = torch.ones(len(candidates), dtype=torch.bool)
    for mine, theirs in ((0, first), (1, second)):
        places = torch.from_numpy((second if mine == 0 else first).places)
        kept &= _is_best(likeness, candidates[:, mine], candidates[:, 1 - mine], places,
                         len(theirs))
    return candidates[kept].numpy()


def _is_best(likeness: Tensor, mine: Tensor, theirs: Tensor, places: Tensor,
             count: int) -> Tensor:
    """Tell which candidates are the best of their feature and clearly better than the second.

    Candidates at the same place as the best are no rivals.

    Args:
        likeness: (C,) cosines.
        mine, theirs: (C,) numbers of a candidate's features in the view whose features choose, and
            in the other.
        places: (B, 2) of the other view's features, working pixels.
        count: features that choose.
    Returns:
        (C,) bool, at most one for each feature.
    """
    at_best = _first_greatest(likeness, mine, count)                   # (count,), C for none
    best = torch.cat([theirs, theirs.new_zeros(1)])[at_best][mine]     # (C,)
    is_rival = (places[theirs] - places[best]).norm(dim=-1) >= SAME_PLACE
    second = torch.full((count,), -1.0).scatter_reduce(
        0, mine, torch.where(is_rival, likeness, -1.0), "amax")
    distance, other = ((2 - 2 * cosine).clamp_min(0).sqrt() for cosine in (likeness, second[mine]))
    return (at_best[mine] == torch.arange(len(mine))) & (distance < LINE_RATIO * other)


def _first_greatest(values: Tensor, group: Tensor, count: int) -> Tensor:
    """Return the number (count,) of the first greatest of C values in each group; C for none."""
    greatest = torch.full((count,), -2.0).scatter_reduce(0, group, values, "amax")
    number = torch.where(values == greatest[group], torch.arange(len(values)), len(values))
    return torch.full((count,), len(values)).scatter_reduce(0, group, number, "amin")
