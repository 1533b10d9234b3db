"""Features of photographs and which of them look alike, without any camera."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

#: Photographs are resized to this longer side before features are searched. Distances are given in
#: its pixels, the working pixels, so that they mean the same for every scene.
WORKING_SIDE = 640
MAX_ENLARGED = 3.0
NUM_FEATURES, MIN_CONTRAST = 1000, 0.02
#: Level to which the bright parts of every photograph are scaled, so that dark ones have features.
BRIGHT = 200
#: The distance of a match must be below this fraction of that of the second best.
MATCH_RATIO = 0.75
#: Side of the patch whose brightness is compared, working pixels.
PATCH = 9


@dataclass(frozen=True)
class Features:
    """N features of one photograph.

    Attributes:
        places: (N, 2) float64 working pixels, the top left pixel's centre at (0, 0).
        descriptors: (N, 128) float32, unit length.
        light: (N,) float32, brightness of the patches about them.
    """

    places: np.ndarray
    descriptors: np.ndarray
    light: np.ndarray

    def __len__(self) -> int:
        return len(self.places)


def working_scale(size: tuple[int, int]) -> float:
    """Return how many working pixels one pixel of images of (W, H) is."""
    return min(MAX_ENLARGED, WORKING_SIDE / max(size))


def make_detector(num_features: int = NUM_FEATURES,
                  min_contrast: float = MIN_CONTRAST) -> cv2.SIFT:
    """Return the detector of features; with more of them, and of less contrast, where asked."""
    return cv2.SIFT.create(nfeatures=num_features, contrastThreshold=min_contrast)


def find_features(detector: cv2.SIFT, image: Tensor, mask: Tensor | None) -> Features:
    """Return the features of a photograph; none where it has no texture.

    Args:
        detector: of `make_detector`.
        image: (3, H, W) RGB in [0, 1].
        mask: (H, W) bool: features outside are not used; None uses all.
    """
    grey = (image.mean(0).numpy() * 255).round().astype(np.uint8)
    scale = working_scale((grey.shape[1], grey.shape[0]))
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
    if descriptors is None:
        descriptors = np.zeros((0, 128), np.float32)
    descriptors = np.sqrt(descriptors / (np.abs(descriptors).sum(1, keepdims=True) + 1e-7))
    return Features(places, descriptors, smooth[index[:, 1], index[:, 0]])


def to_pixels(places: np.ndarray, scale: float) -> np.ndarray:
    """Return working pixels (N, 2) as pixels of the photograph itself."""
    return (places + 0.5) / scale - 0.5


def best_pairs(likeness: Tensor) -> np.ndarray:
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
