"""Points of the surface at which the training photographs match, and the gates they pass."""
from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data_processing.matching.features import (
    Features,
    find_features,
    make_detector,
    working_scale,
)
from data_processing.matching.guided_matches import (
    distances_from_lines,
    fundamental_matrix,
    guided_matches,
    pairs_by_angle,
)
from data_processing.matching.tracks import extended, pair_table, without_repeats
from utils.geometry.cameras import Cameras, ndc_to_grid
from utils.geometry.triangulation import largest_angles, reprojection_errors, triangulate
from utils.views.matched_points import MatchedPoints
from utils.views.training_views import TrainingViews

log = logging.getLogger(__name__)

#: Features of a photograph: more and weaker ones than the check of scenes needs.
NUM_FEATURES, MIN_CONTRAST = 3000, 0.005
#: Features may lie outside the mask by this many pixels, and points outside the hull.
WIDENED = 2
#: Gates of a point: reprojection error in each view that shows it, working pixels, of two views and
#: of all, and the largest angle between the rays of two of them, degrees.
PAIR_ERROR, MAX_ERROR, MIN_ANGLE = 1.5, 0.7, 4.0
#: So many views show a point, where there are as many: of two, every sixth is mistaken.
NUM_CONFIRMING = 3
#: Of views that show a point outside their mask, so many may be wrong where there are more than 3.
MAX_DISSENTING = 1
#: NDC to rows downwards and back.
UPWARDS = torch.tensor([1.0, -1.0], dtype=torch.float64)


class MatchSearch:
    """The matched points of some training views, searched for when they are first asked for.

    Args:
        views: training views.
    """

    def __init__(self, views: TrainingViews) -> None:
        self.views = views
        self._found: MatchedPoints | None = None

    @property
    def points(self) -> MatchedPoints:
        """The points; none where the photographs do not match, which is told once."""
        if self._found is None:
            begin = time.perf_counter()
            self._found = find_points(self.views)
            if len(self._found):
                log.info("matches: %d points of %d training photographs in %.1f s",
                         len(self._found), len(self.views), time.perf_counter() - begin)
            else:
                log.warning("matches: the training photographs have no point in common that their "
                            "cameras agree on; --match_points_weight is without effect")
        return self._found

    def state_dict(self) -> dict[str, Tensor]:
        """The points, for checkpoints; empty where they were not asked for."""
        return {} if self._found is None else {"xy_ndc": self._found.xy_ndc,
                                               "seen_mask": self._found.seen_mask}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the points of `state_dict`, where it has them."""
        if state:
            self._found = MatchedPoints(state["xy_ndc"], state["seen_mask"]).to(
                self.views.images.device)


def find_points(views: TrainingViews) -> MatchedPoints:
    """Match the photographs along epipolar lines, and keep the points that pass all gates.

    Features of two views give a point; those of further views near its projections confirm it.

    Returns:
        N points in V views, on the device of the views; the same for the same photographs.
    """
    host = views.to("cpu")
    cameras, masks = host.cameras.to(torch.float64), widened_masks(host.masks)
    scale = working_scale(cameras.resolution)
    size = (cameras.resolution[0] * scale, cameras.resolution[1] * scale)
    detector = make_detector(NUM_FEATURES, MIN_CONTRAST)
    features = [find_features(detector, image, mask[0])
                for image, mask in zip(host.images, masks, strict=True)]
    pairs = pairs_by_angle(cameras)
    table = pair_table({pair: _matches_of_pair(cameras, features, pair, size) for pair in pairs},
                       len(views))
    seen, _ = within_gates(points_at(table, features, size), cameras, masks,
                           max_error=PAIR_ERROR / scale, least_views=2)
    table = table[seen.any(1).numpy()]
    projected = cameras.project(points_at(table, features, size).points_obj(cameras))[0]
    table = extended(table, features, _places_of(projected.transpose(0, 1), size))
    seen, errors = within_gates(points_at(table, features, size), cameras, masks,
                                max_error=MAX_ERROR / scale,
                                least_views=min(NUM_CONFIRMING, len(views)))
    table = np.where(seen.numpy(), table, -1)
    kept = seen.any(1).numpy()
    table = table[kept][without_repeats(table[kept], errors[torch.from_numpy(kept)].numpy())]
    return points_at(table, features, size).to(views.images.device, torch.float32)


def _matches_of_pair(cameras: Cameras, features: list[Features], pair: tuple[int, int],
                     size: tuple[float, float]) -> np.ndarray:
    """Return the matches (M, 2) of two views; `size` (W, H) is that of working images."""
    first, second = (features[view] for view in pair)
    lines = fundamental_matrix(cameras, *pair, size)
    return guided_matches(first, second, distances_from_lines(lines, first.places, second.places))


def points_at(table: np.ndarray, features: list[Features],
              size: tuple[float, float]) -> MatchedPoints:
    """Return the points of tracks (N, V), numbers of features; float64, on the CPU.

    Args:
        table: -1 where a view does not show the point.
        features: of V views.
        size: (W, H) of working images, pixels.
    """
    places = np.zeros((*table.shape, 2))
    for view, found in enumerate(features):
        rows = np.flatnonzero(table[:, view] >= 0)
        places[rows, view] = found.places[table[rows, view]]
    seen = torch.from_numpy(table >= 0)
    xy_ndc = ((2 * torch.from_numpy(places) + 1) / torch.tensor(size).double() - 1) * UPWARDS
    return MatchedPoints(xy_ndc * seen[..., None], seen)


def _places_of(xy_ndc: Tensor, size: tuple[float, float]) -> np.ndarray:
    """Return NDC (..., 2) as working pixels."""
    return (((xy_ndc * UPWARDS + 1) * torch.tensor(size).double() - 1) / 2).numpy()


def widened_masks(masks: Tensor, width: int = WIDENED) -> Tensor:
    """Masks (V, 1, H, W) bool, grown by `width` pixels to all sides."""
    return F.max_pool2d(masks.float(), 2 * width + 1, 1, width) > 0.5


def within_gates(found: MatchedPoints, cameras: Cameras, masks: Tensor, *, max_error: float,
                 least_views: int) -> tuple[Tensor, Tensor]:
    """Tell which views show which points, for points that pass all gates.

    The view that disagrees most is left out, as long as one does, and points with fewer than
    `least_views` views. Rays must meet at an angle, inside the unit sphere, and inside the hull.

    Args:
        found: N points in V views.
        cameras: V cameras.
        masks: (V, 1, H, W) bool, widened.
        max_error: of reprojection, pixels.
        least_views: 2 or more.
    Returns:
        (N, V) bool, all False for points that fail; and the largest error (N,) of each, pixels.
    """
    seen = found.seen_mask.clone()
    for _ in range(seen.shape[1]):
        points = triangulate(cameras, found.xy_ndc, seen)
        errors = torch.where(seen, reprojection_errors(cameras, points, found.xy_ndc), 0.0)
        worst = errors.amax(1)
        is_off = worst > max_error
        seen &= ~(is_off[:, None] & (errors == worst[:, None]))
        if not bool(is_off.any()):
            break
    kept = (seen.sum(1) >= least_views) & (points.square().sum(-1) < 1) & \
        inside_hull(points, cameras, masks) & \
        (largest_angles(cameras, found.xy_ndc, seen) >= MIN_ANGLE)
    return seen & kept[:, None], worst


def inside_hull(points_obj: Tensor, cameras: Cameras, masks: Tensor) -> Tensor:
    """Whether points (N, 3) lie in the masks (V, 1, H, W) of all views that have them in frame.

    One view may disagree where there are more than three: its mask or camera may be wrong.
    """
    xy_ndc, depth = cameras.to(points_obj.dtype).project(points_obj)
    framed = (depth > 0) & (xy_ndc.abs() <= 1).all(-1)                 # (V, N)
    grid = ndc_to_grid(xy_ndc, cameras.resolution)[:, None]
    shown = F.grid_sample(masks.to(points_obj.dtype), grid, mode="nearest", padding_mode="border",
                          align_corners=True)[:, 0, 0]
    allowed = MAX_DISSENTING if len(cameras) > 3 else 0
    return (framed & (shown < 0.5)).sum(0) <= allowed
