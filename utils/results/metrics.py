"""How close a prediction is to the truth: PSNR, SSIM, mask overlap, Chamfer distance.

Images are (3, H, W) RGB in [0, 1]; predictions are clamped to it. Masks are (1, H, W) bool.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree
from skimage.metrics import structural_similarity
from torch import Tensor

#: Squared error that counts as none: caps PSNR at 100 dB, as infinity has no place in JSON.
LEAST_SQUARED_ERROR = 1e-10
#: Side of the uniform window of SSIM, scikit-image's default.
SSIM_WINDOW = 7
#: Window of Wang et al. 2004: Gaussian, sigma 1.5 pixels, cut at 11x11.
GAUSSIAN_SIGMA, GAUSSIAN_WINDOW = 1.5, 11


@dataclass(frozen=True)
class Chamfer:
    """Distances between two point sets, in the unit of the points.

    Attributes:
        accuracy: mean distance from a predicted point to the nearest true one.
        completeness: mean distance from a true point to the nearest predicted one.
        normal_degrees: mean angle at the true points between their normals and the nearest
            predicted point's; None where normals are not known.
        mean: the mean of accuracy and completeness.
    """

    accuracy: float
    completeness: float
    normal_degrees: float | None = None

    @property
    def mean(self) -> float:
        """The symmetric Chamfer distance: the mean of both directions."""
        return (self.accuracy + self.completeness) / 2


def masked(image: Tensor, mask: Tensor) -> Tensor:
    """Return the image clamped to [0, 1], times the mask: what metrics of masked images look at."""
    if image.ndim != 3 or mask.shape != (1, *image.shape[1:]):
        raise ValueError(f"image {tuple(image.shape)} and mask {tuple(mask.shape)} do not fit; "
                         "need (3, H, W) and (1, H, W)")
    return image.detach().cpu().float().clamp(0, 1) * mask.detach().cpu()


def psnr(prediction: Tensor, photograph: Tensor, mask: Tensor) -> float:
    """Return the paper's PSNR (docs/method.md, section 8).

    PSNR = -10 log10 mean((mask * prediction - mask * photograph)^2), mean over ALL pixels. The
    empty background counts as right, so that this is higher than `psnr_foreground` by -10 log10 of
    the covered fraction.

    Args:
        prediction, photograph: (3, H, W), RGB.
        mask: (1, H, W) bool, the true foreground.
    Returns:
        decibels, at most 100.
    """
    return _decibels((masked(prediction, mask) - masked(photograph, mask)).square().mean())


def psnr_foreground(prediction: Tensor, photograph: Tensor, mask: Tensor) -> float | None:
    """Return the PSNR whose mean runs over the foreground pixels alone; arguments as in `psnr`.

    Returns:
        decibels, at most 100; None where the mask is empty.
    """
    num_pixels = int(mask.sum())
    if not num_pixels:
        return None
    difference = masked(prediction, mask) - masked(photograph, mask)
    return _decibels(difference.square().sum() / (3 * num_pixels))


def _decibels(squared_error: Tensor) -> float:
    return float(-10 * torch.log10(squared_error.clamp_min(LEAST_SQUARED_ERROR)))


def ssim(prediction: Tensor, photograph: Tensor, mask: Tensor) -> float | None:
    """Return the paper's SSIM: of the masked images, scikit-image's default, mean over RGB.

    Uniform window of 7x7 pixels, sample covariance. Images with a side below 7 pixels get the
    largest odd window that fits.

    Args:
        prediction, photograph: (3, H, W), RGB.
        mask: (1, H, W) bool, the true foreground.
    Returns:
        in [-1, 1]; None for images with a side below 3 pixels.
    """
    side = min(photograph.shape[-2:])
    if side < 3:
        return None
    return _similarity(prediction, photograph, mask,
                       win_size=min(SSIM_WINDOW, side - (side + 1) % 2))


def ssim_gaussian(prediction: Tensor, photograph: Tensor, mask: Tensor) -> float | None:
    """Return the SSIM of the masked images with the settings of Wang et al. 2004, mean over RGB.

    Gaussian window, covariance of the window's pixels; arguments as in `ssim`.

    Returns:
        in [-1, 1]; None for images with a side below 11 pixels.
    """
    if min(photograph.shape[-2:]) < GAUSSIAN_WINDOW:
        return None
    return _similarity(prediction, photograph, mask, gaussian_weights=True, sigma=GAUSSIAN_SIGMA,
                       use_sample_covariance=False)


def _similarity(prediction: Tensor, photograph: Tensor, mask: Tensor, **window: Any) -> float:
    images = [masked(image, mask).permute(1, 2, 0).double().numpy()      # (H, W, 3)
              for image in (prediction, photograph)]
    found: Any = structural_similarity(*images, channel_axis=-1, data_range=1.0, **window)
    return float(found)


def mask_iou(predicted_mask: Tensor, true_mask: Tensor) -> float:
    """Return the intersection over union of two bool masks of one shape; 1 where both are empty."""
    if predicted_mask.shape != true_mask.shape:
        raise ValueError(f"masks of shape {tuple(predicted_mask.shape)} and "
                         f"{tuple(true_mask.shape)} cannot be compared")
    predicted, true = predicted_mask.cpu().bool(), true_mask.cpu().bool()
    union = int((predicted | true).sum())
    return int((predicted & true).sum()) / union if union else 1.0


def chamfer(points_predicted: np.ndarray, points_true: np.ndarray, *,
            normals_predicted: np.ndarray | None = None,
            normals_true: np.ndarray | None = None) -> Chamfer:
    """Return the mean distances to the nearest neighbour, both ways (not squared).

    Args:
        points_predicted: (N, 3), any space.
        points_true: (M, 3), the same space.
        normals_predicted, normals_true: (N, 3) and (M, 3) outward, of any length; None: not known.
    Raises:
        ValueError: a set is empty or not (N, 3).
    """
    for name, points in (("predicted", points_predicted), ("true", points_true)):
        if np.ndim(points) != 2 or np.shape(points)[1] != 3 or not len(points):
            raise ValueError(f"{name} points are {np.shape(points)}, need (N, 3) with N > 0")
    accuracy, _ = KDTree(points_true).query(points_predicted)
    completeness, nearest = KDTree(points_predicted).query(points_true)
    degrees = None
    if normals_predicted is not None and normals_true is not None:
        degrees = float(np.mean(angles_degrees(normals_predicted[nearest], normals_true)))
    return Chamfer(float(np.mean(accuracy)), float(np.mean(completeness)), degrees)


class CloudDistance:
    """Distances of a surface to the nearest points of a cloud; the search tree is built once.

    Args:
        points_world: (N, 3) with N > 0, world space.
        model: (4, 4) object to world.
    """

    def __init__(self, points_world: np.ndarray, model: Tensor) -> None:
        self.points_world, self.model = points_world, model.detach().cpu().double().numpy()

    @cached_property
    def tree(self) -> KDTree:
        """The search tree, built when it is first asked for."""
        return KDTree(self.points_world)

    def __call__(self, points_obj: Tensor, hit_mask: Tensor) -> Tensor:
        """Return distances (1, H, W) in world units, 0 where nothing is hit.

        Args:
            points_obj: (3, H, W), object space.
            hit_mask: (1, H, W) bool.
        """
        hits = hit_mask.cpu()[0]
        points = points_obj.detach().cpu()[:, hits].T.double().numpy()       # (N, 3)
        found = torch.zeros(hits.shape)
        if len(points):
            distances, _ = self.tree.query(points @ self.model[:3, :3].T + self.model[:3, 3])
            found[hits] = torch.from_numpy(distances).float()
        return found[None]


def angles_degrees(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the angles (N,) between vectors (N, 3) and others (N, 3), of any length but 0."""
    across = np.linalg.norm(np.cross(vectors, others), axis=-1)
    return np.degrees(np.arctan2(across, (vectors * others).sum(-1)))
