"""What is wrong with cameras that do not fit: usual mistakes are undone one by one.

Each hypothesis is a mistake that people make when they move cameras from tool to tool. If it is the
right one, then with it undone the matches obey the epipolar geometry and the masks agree on a hull.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data_processing.checks.epipolar import (
    Geometry,
    PairMatches,
    epipolar_distances,
    fraction_in_front,
)
from data_processing.scenes.object_space import first_ball, with_ball
from utils.geometry.cameras import Cameras, projection_from_intrinsics
from utils.geometry.visual_hull import carve, hull_masks, outline_agreement

FLIP = np.diag([1.0, -1, -1, 1])
#: A hypothesis is tested fast and coarsely: number of views, hull grid, outline width, and reach of
#: the hull in radii of the first guess.
TEST_VIEWS, TEST_GRID, TEST_WIDTH, TEST_REACH = 10, 52, 72, 1.7
#: A scene's distance is this quantile of its pairs' distances.
PAIRS_QUANTILE = 0.85
#: Usual factors of intrinsics that belong to another image size.
SIZE_FACTORS = (0.125, 0.2, 0.25, 1 / 3, 0.4, 0.5, 0.6, 2 / 3, 0.75, 0.8, 1.25, 4 / 3, 1.5, 5 / 3,
                2.0, 2.5, 3.0, 4.0, 5.0, 8.0)
#: What a hypothesis must reach to explain the data.
GOOD_DISTANCE, GOOD_AGREEMENT, GOOD_IN_FRONT = 2.0, 0.62, 0.9
#: The least fraction of the border that the background covers in the median view.
BACKGROUND_BORDER = 0.2
#: A distance is clearly better below this fraction of the present one.
CLEARLY_BETTER = 0.4


@dataclass(frozen=True)
class Evidence:
    """What a scene offers to test cameras with.

    Attributes:
        geometry: the cameras as they were read.
        matches: points that views share, pixels of the images as they are.
        masks: (V, 1, H, W) bool, or None.
        is_opencv: whether the format of the cameras' file prescribes OpenCV's axes.
    """

    geometry: Geometry
    matches: Sequence[PairMatches]
    masks: Tensor | None
    is_opencv: bool = False


@dataclass(frozen=True)
class Hypothesis:
    """One mistake, and what undoes it.

    Attributes:
        code: short name of the finding.
        found: what is wrong, in words.
        cure: what to do, in words.
        undo: gives the evidence as it was before the mistake.
        pictures: does the same to images (V, 3, H, W); those of most mistakes stay as they are.
    """

    code: str
    found: str
    cure: str
    undo: Callable[[Evidence], Evidence]
    pictures: Callable[[Tensor], Tensor] = lambda images: images


@dataclass(frozen=True)
class Score:
    """How well cameras fit.

    `distance` is in working pixels, `agreement` of masks and hull and `in_front`, the fraction of
    points in front of the cameras, are in [0, 1]. NaN where there is nothing to measure it with.
    """

    distance: float
    agreement: float
    in_front: float

    @property
    def is_good(self) -> bool:
        """Return whether something was measured, and all that was measured is good."""
        if np.isnan(self.distance) and np.isnan(self.agreement):
            return False
        return (not self.distance > GOOD_DISTANCE and not self.agreement < GOOD_AGREEMENT
                and not self.in_front < GOOD_IN_FRONT)

    @property
    def worth(self) -> float:
        """Return a number by which good scores are ordered; more is better."""
        return np.nan_to_num(self.agreement) - 0.1 * np.nan_to_num(self.distance)


def score(evidence: Evidence) -> Score:
    """Return how well the cameras fit matches and masks."""
    geometry, matches = evidence.geometry, evidence.matches
    distances = epipolar_distances(geometry, matches)
    known = np.isfinite(distances).any() if len(distances) else False
    distance = float(np.nanquantile(distances, PAIRS_QUANTILE)) if known else np.nan
    in_front = fraction_in_front(geometry, matches) if known else np.nan
    if known and distance > 3 * GOOD_DISTANCE:
        return Score(distance, np.nan if evidence.masks is None else 0.0, in_front)
    agreement = np.nan if evidence.masks is None else mask_agreement(geometry, evidence.masks)
    return Score(distance, agreement, in_front)


def cameras_of(geometry: Geometry) -> Cameras:
    """Return the geometry as cameras with world space as object space."""
    k = torch.from_numpy(geometry.intrinsics)
    return Cameras(torch.from_numpy(geometry.view), projection_from_intrinsics(k, geometry.size),
                   torch.eye(4).double(), geometry.size)


def mask_agreement(geometry: Geometry, masks: Tensor) -> float:
    """Return the median agreement of the masks with their own hull, wherever that lies."""
    chosen = np.unique(np.linspace(0, len(masks) - 1, TEST_VIEWS).round().astype(int))
    cameras = cameras_of(geometry)[torch.from_numpy(chosen)]
    masks = small_masks(masks[chosen], TEST_WIDTH)
    sphere = first_ball(cameras, masks)
    if sphere is None:
        return 0.0
    sphere = replace(sphere, radius=sphere.radius * TEST_REACH)
    cameras = with_ball(cameras, sphere)
    hull = carve(cameras, masks, resolution=TEST_GRID)
    if hull.is_empty:
        return 0.0
    small = cameras.resized(masks.shape[3], masks.shape[2])
    return float(outline_agreement(hull_masks(hull, small), masks).median())


def small_masks(masks: Tensor, width: int) -> Tensor:
    """Return masks (V, 1, H, W) bool at another width, at most their own."""
    height, full = masks.shape[2:]
    width = min(width, full)
    size = (max(2, round(height * width / full)), width)
    return functional.interpolate(masks.float(), size=size, mode="area") >= 0.5


def explain(evidence: Evidence, now: Score) -> tuple[Hypothesis, Score] | None:
    """Return the hypothesis that fits best, if it is good and clearly better than now.

    Returns:
        The hypothesis and its score; None where there is none.
    """
    scored = [(hypothesis, score(hypothesis.undo(evidence)))
              for hypothesis in hypotheses(evidence)]
    good = [pair for pair in scored if pair[1].is_good and _is_clearly_better(pair[1], now)]
    return max(good, key=lambda pair: pair[1].worth) if good else None


def _is_clearly_better(new: Score, now: Score) -> bool:
    """Return whether one measure is much better and none is much worse."""
    if new.distance > 2 * now.distance or new.agreement < now.agreement - 0.05:
        return False
    return (new.distance < CLEARLY_BETTER * now.distance or new.in_front > now.in_front + 0.3
            or new.agreement > now.agreement + 0.15)


def hypotheses(evidence: Evidence) -> list[Hypothesis]:
    """Return all mistakes that are tried on the evidence."""
    masks = [inverted_masks()] if _may_be_inverted(evidence.masks) else []
    return [*masks, *_image_mistakes(), *_pose_mistakes(evidence.is_opencv),
            *_size_mistakes(evidence), *_order_mistakes()]


def border_coverage(masks: Tensor) -> Tensor:
    """Return the fraction (V,) of the frame's border that masks (V, 1, H, W) cover."""
    rim = torch.cat([masks[:, 0, 0], masks[:, 0, -1], masks[:, 0, :, 0], masks[:, 0, :, -1]], 1)
    return rim.float().mean(1)


def _may_be_inverted(masks: Tensor | None) -> bool:
    """Return whether masks could be those of the background, which is at the frame's border.

    The inverse of any masks that keep away from it has a hull: all space around the object.
    """
    return masks is not None and float(border_coverage(masks).median()) >= BACKGROUND_BORDER


def inverted_masks() -> Hypothesis:
    """Return the mistake of masks that are white on the background."""
    return Hypothesis("masks_inverted", "the masks are inverted", "invert every mask: white (255) "
                      "on the object, black (0) elsewhere", lambda e: replace(
                          e, masks=None if e.masks is None else ~e.masks))


def _image_mistakes() -> list[Hypothesis]:
    """Return mistakes with images that were rotated or mirrored."""
    out = []
    for turns, words in ((1, "90 degrees clockwise"), (2, "180 degrees"),
                         (3, "90 degrees counter-clockwise")):
        out.append(Hypothesis(
            "images_rotated", f"the images are rotated by {words} against their cameras",
            "rotate images and masks back (and strip their EXIF orientation)",
            lambda e, turns=turns: _turned(e, turns),
            lambda images, turns=turns: torch.rot90(images, turns, (2, 3))))
    out.append(Hypothesis(
        "images_mirrored", "the images are mirrored left to right against their cameras",
        "mirror images and masks back", _mirrored, lambda images: images.flip(3)))
    return out


def _size_mistakes(evidence: Evidence) -> list[Hypothesis]:
    """Return intrinsics of other sizes: usual factors, and the one that fits the matches best."""
    factors = list(SIZE_FACTORS)
    if evidence.matches:
        grid, best = np.geomspace(0.1, 10, 121), 1.0
        for _ in range(3):
            found = [np.nanmedian(epipolar_distances(_rescaled(evidence, f).geometry,
                                                     evidence.matches)) for f in grid]
            best = float(grid[int(np.argmin(found))])
            width = grid[1] / grid[0]
            grid = np.geomspace(best / width, best * width, 17)
        factors.append(best)
    return [Hypothesis(
        "intrinsics_size", f"the intrinsics are for images {1 / factor:.3g} times as large",
        f"multiply focal lengths and principal points by {factor:.3g}, or give the images in the "
        "size that was calibrated", lambda e, factor=factor: _rescaled(e, factor))
        for factor in factors if abs(factor - 1) > 0.03]


def _order_mistakes() -> list[Hypothesis]:
    """Return mistakes with the order of the cameras."""
    cure = "pair cameras and images again: both in the order of the file names, from one number on"
    mistakes = ((1, "order_shifted", "each image has the camera of the previous one"),
                (-1, "order_shifted", "each image has the camera of the next one"),
                (0, "order_reversed", "the images are in the reverse order of their cameras"))
    return [Hypothesis(code, found, cure, lambda e, step=step: replace(
        e, geometry=_reordered(e.geometry, step))) for step, code, found in mistakes]


def _pose_mistakes(is_opencv: bool) -> list[Hypothesis]:
    """Return mistakes with pose matrices in a file with OpenCV's or OpenGL's axes."""
    right, other = ("OpenCV", "OpenGL") if is_opencv else ("OpenGL", "OpenCV")
    axes = f"the camera axes are {other}'s, needed {right}'s (y and z point the other way)"
    flip = "negate rows 2 and 3 of every world-to-camera matrix"
    inverted = "the poses are camera-to-world instead of world-to-camera, or the other way round"
    mistakes: tuple[tuple[str, str, str, Callable[[np.ndarray], np.ndarray]], ...] = (
        ("poses_axes", axes, flip, lambda pose: FLIP @ pose),
        ("poses_inverted", inverted, "invert every pose matrix", np.linalg.inv),
        ("poses_inverted_axes", f"{inverted}, and {axes}", f"invert every pose matrix, then {flip}",
         lambda pose: FLIP @ np.linalg.inv(pose)),
        ("poses_transposed", "the rotations of the poses are transposed",
         "transpose the 3x3 rotation of every pose and keep its translation", _transposed))
    file_axes = FLIP if is_opencv else np.eye(4)
    return [Hypothesis(code, found, cure, lambda e, change=change: replace(
        e, geometry=replace(e.geometry, view=file_axes @ change(file_axes @ e.geometry.view))))
        for code, found, cure, change in mistakes]


def _transposed(pose: np.ndarray) -> np.ndarray:
    """Return the poses with their rotations transposed and their translations kept."""
    out = pose.copy()
    out[:, :3, :3] = pose[:, :3, :3].transpose(0, 2, 1)
    return out


def _reordered(geometry: Geometry, step: int) -> Geometry:
    """Return the geometry with its cameras moved on by `step` views; 0 reverses them."""
    order = np.roll(np.arange(len(geometry.view)), -step)
    order = order[::-1] if step == 0 else order
    return replace(geometry, view=geometry.view[order], intrinsics=geometry.intrinsics[order])


def _rescaled(evidence: Evidence, factor: float) -> Evidence:
    """Return the evidence with intrinsics for images `factor` times as large."""
    k = evidence.geometry.intrinsics.copy()
    k[:, :2] *= factor
    k[:, :2, 2] += (factor - 1) / 2
    return replace(evidence, geometry=replace(evidence.geometry, intrinsics=k))


def _turned(evidence: Evidence, turns: int) -> Evidence:
    """Return the evidence with images turned counter-clockwise by `turns` quarters."""
    width, height = evidence.geometry.size
    move = {1: lambda p: np.stack([p[:, 1], width - 1 - p[:, 0]], 1),
            2: lambda p: np.stack([width - 1 - p[:, 0], height - 1 - p[:, 1]], 1),
            3: lambda p: np.stack([height - 1 - p[:, 1], p[:, 0]], 1)}[turns]
    size = (height, width) if turns % 2 else (width, height)
    masks = evidence.masks
    return replace(evidence, geometry=replace(evidence.geometry, size=size),
                   matches=_moved(evidence.matches, move),
                   masks=None if masks is None else torch.rot90(masks, turns, (2, 3)))


def _mirrored(evidence: Evidence) -> Evidence:
    """Return the evidence with images mirrored left to right; cameras stay."""
    width = evidence.geometry.size[0]
    matches = _moved(evidence.matches, lambda p: np.stack([width - 1 - p[:, 0], p[:, 1]], 1))
    return replace(evidence, matches=matches,
                   masks=None if evidence.masks is None else evidence.masks.flip(3))


def _moved(matches: Sequence[PairMatches],
           move: Callable[[np.ndarray], np.ndarray]) -> list[PairMatches]:
    """Return the matches with all points moved."""
    return [replace(pair, a=move(pair.a), b=move(pair.b)) for pair in matches]
