"""Backward flow and occlusion from forward flow, by splatting each pixel to where it moves.

Where pixels of several surfaces land on one place, the flow does not tell which is in front; the
colours do: the pixel most similar to image 1 is taken. Places where nothing lands are occluded
(hidden in image 0), and so are those where all that lands looks different. The result is right up
to a pixel along the edges of objects.
"""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

#: Pixels that land within this distance of the winner's flow belong to the same surface.
SAME_FLOW = 1.0
#: Sum of bilinear weights of landed pixels (1 on still surfaces) below which a place is a hole: a
#: surface that grows to 1 / MIN_COVER times its area has no holes yet.
MIN_COVER = 0.35
#: Mean difference of the channels (levels up to 255) above which two pixels show other points.
MAX_DIFFERENCE = 40.0
BLUR = (3, 3)             # pixels over which colours are compared


@dataclass(frozen=True)
class BackwardFlow:
    """What is known of image 1's pixels in image 0; fields as in `pairs.FlowPair`."""

    flow_10: np.ndarray
    known_mask: np.ndarray
    occluded_mask: np.ndarray


def invert_flow(flow_01: np.ndarray, known_mask: np.ndarray, image_0: np.ndarray,
                image_1: np.ndarray) -> BackwardFlow:
    """Derive the flow of image 1's pixels from that of image 0's.

    Args:
        flow_01: (H, W, 2), pixels.
        known_mask: (H, W) bool. Other pixels move like their nearest known neighbour; where only
            they land, the result is unknown.
        image_0, image_1: (H, W, 3) uint8.
    """
    height, width = known_mask.shape
    unknown = BackwardFlow(np.zeros_like(flow_01, np.float32), np.zeros_like(known_mask),
                           np.zeros_like(known_mask))
    if not known_mask.any():
        return unknown
    nearest = np.empty((2, height, width), np.int32)                  # row and column
    distance_transform_edt(~known_mask, return_distances=False, return_indices=True,
                           indices=nearest)
    flow = flow_01[tuple(nearest)].astype(np.float32)
    place, source, weight = _landings(flow)
    flow, is_known = flow.reshape(-1, 2)[source], known_mask.reshape(-1)[source]
    cost = _colour_difference(image_0, image_1, place, flow)
    best = np.full(height * width, np.inf, np.float32)
    np.minimum.at(best, place, cost)
    is_best = cost == best[place]
    winner = np.zeros((height * width, 2), np.float32)
    winner[place[is_best]] = flow[is_best]
    joins = np.abs(flow - winner[place]).max(-1) <= SAME_FLOW

    def total(values: np.ndarray) -> np.ndarray:
        """Return the sum over the landed pixels that belong to each place's winner."""
        return np.bincount(place[joins], values[joins], height * width)

    cover = total(weight)
    safe = np.maximum(cover, 1e-6)
    mean = np.stack([total(weight * flow[:, axis]) / safe for axis in (0, 1)], -1)
    seen = (cover >= MIN_COVER) & (best <= MAX_DIFFERENCE)
    known = (cover < MIN_COVER) | (total(weight * is_known) >= 0.5 * cover)
    flow_10 = np.where((seen & known)[:, None], -mean, 0).astype(np.float32)
    shape = (height, width)
    return BackwardFlow(flow_10.reshape(*shape, 2), known.reshape(shape),
                        (known & ~seen).reshape(shape))


def _landings(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each pixel's up to four places in the other image.

    Place, source and bilinear weight are (N,) each.
    """
    height, width = flow.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    x, y = columns + flow[..., 0], rows + flow[..., 1]
    parts = []
    for down in (0, 1):
        for right in (0, 1):
            column, row = np.floor(x) + right, np.floor(y) + down
            weight = (1 - np.abs(x - column)) * (1 - np.abs(y - row))
            lands = ((weight > 0) & (column >= 0) & (column < width) & (row >= 0)
                     & (row < height)).reshape(-1)
            place = (row.astype(np.int64) * width + column.astype(np.int64)).reshape(-1)[lands]
            parts.append((place, np.flatnonzero(lands), weight.reshape(-1)[lands]))
    place, source, weight = (np.concatenate(x) for x in zip(*parts, strict=True))
    return place, source, weight


def _colour_difference(image_0: np.ndarray, image_1: np.ndarray, place: np.ndarray,
                       flow: np.ndarray) -> np.ndarray:
    """Return how much image 1 at `place` differs from image 0 at the flow's origin, (N,)."""
    height, width = image_0.shape[:2]
    before, after = (cv2.blur(image, BLUR).astype(np.float32) for image in (image_0, image_1))
    x = np.clip(place % width - flow[:, 0], 0, width - 1)
    y = np.clip(place // width - flow[:, 1], 0, height - 1)
    left = np.minimum(x.astype(np.int64), max(width - 2, 0))
    top = np.minimum(y.astype(np.int64), max(height - 2, 0))
    weight_x, weight_y = (x - left)[:, None], (y - top)[:, None]
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    upper = before[top, left] * (1 - weight_x) + before[top, right] * weight_x
    lower = before[bottom, left] * (1 - weight_x) + before[bottom, right] * weight_x
    sampled = upper * (1 - weight_y) + lower * weight_y
    return np.abs(sampled - after.reshape(-1, 3)[place]).mean(-1).astype(np.float32)
