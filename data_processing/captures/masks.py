"""Masks of a capture: found beside its photographs, made from a plain background, cleaned."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from data_processing.captures.capture import IMAGE_SUFFIXES, CapturedView, is_file
from utils.errors import SceneError

#: Where masks are kept, relative to the capture.
MASK_FOLDERS = ("mask", "masks", "images/mask", "images/masks", "segmentation", "silhouettes")
MASK_ENDS = ("_mask", ".mask", "-mask", "_silhouette")
BACKGROUNDS = ("none", "black", "white", "auto")
#: A border of one colour: this share of its pixels is within PLAIN_SPREAD of the median colour.
PLAIN_SHARE, PLAIN_SPREAD = 0.8, 0.12
#: Least difference from the background that is object; noise and JPEG blocks stay below it.
LEAST_CONTRAST = 0.06
#: Gaps and threads up to these shares of the longer side are closed and cut: shadows on the object
#: reach its outline, glints on the ground hang on it.
GAP_SHARE, THREAD_SHARE = 0.01, 0.003
#: Width of the border as a share of the shorter side.
BORDER = 0.03
#: Specks and holes below this share of the object are removed on request.
SMALL_SHARE = 0.01


def find_masks(root: Path, views: tuple[CapturedView, ...]) -> list[Path | None]:
    """The mask file of each view in the usual layouts, or None.

    `mask/NAME.png`, `masks/NAME.png`, COLMAP's `masks/NAME.jpg.png`, `NAME_mask.png` beside the
    photograph or in those folders. A mask that the capture names itself is kept.

    Args:
        root: the capture's folder.
        views: their `image` may lie in folders below the root.
    """
    return [view.mask or _find_mask(root, view.image) for view in views]


def _find_mask(root: Path, image: Path) -> Path | None:
    beside = image.parent
    folders = [root / name for name in MASK_FOLDERS]
    folders += [place / name for place in (beside, beside.parent) for name in ("mask", "masks")]
    below = beside.relative_to(root) if beside.is_relative_to(root) else Path()
    folders += [root / name / Path(*below.parts[1:]) for name in ("mask", "masks")]
    suffixes = [end for suffix in IMAGE_SUFFIXES for end in (suffix, suffix.upper())]
    for folder in dict.fromkeys(folders):
        for stem in (image.stem, image.name, *(image.stem + end for end in MASK_ENDS)):
            for suffix in suffixes:
                found = folder / f"{stem}{suffix}"
                if is_file(found) and found != image:
                    return found
    for end in MASK_ENDS:
        for suffix in suffixes:
            found = beside / f"{image.stem}{end}{suffix}"
            if is_file(found):
                return found
    return None


def is_mask_name(path: Path) -> bool:
    """Whether a file beside photographs is a mask by its name."""
    return path.stem.lower().endswith(MASK_ENDS)


def mask_coverage(levels: np.ndarray, least_foreground: int = 128) -> np.ndarray:
    """(H, W) uint8 of a mask file to 0 and 1 in float32.

    Masks of 0 and 1 count as of 0 and 255, so that they are not taken for empty.
    """
    least = least_foreground if levels.max(initial=0) > 1 else 1
    return (levels >= least).astype(np.float32)


def border_colour(image: np.ndarray) -> np.ndarray | None:
    """The colour of an image's border where it has one colour.

    Args:
        image: (H, W, 3) float32 RGB in [0, 1].
    Returns:
        (3,), or None where the border is not plain.
    """
    width = max(1, round(BORDER * min(image.shape[:2])))
    rim_mask = np.ones(image.shape[:2], bool)
    rim_mask[width:-width, width:-width] = False
    rim = image[rim_mask]
    colour = np.median(rim, axis=0)
    plain = np.abs(rim - colour).max(-1) < PLAIN_SPREAD
    return colour if plain.mean() >= PLAIN_SHARE else None


def background_colour(images: list[np.ndarray], word: str) -> np.ndarray:
    """The colour that `--background` names.

    Args:
        images: (H, W, 3) each.
        word: black, white or auto; auto takes what most borders have.
    Raises:
        SceneError: auto, and the borders are not of one colour.
    """
    if word in ("black", "white"):
        return np.full(3, float(word == "white"), np.float32)
    colours = [colour for image in images if (colour := border_colour(image)) is not None]
    if len(colours) < PLAIN_SHARE * len(images):
        raise SceneError(f"--background auto: only {len(colours)} of {len(images)} photographs "
                         "have a border of one colour, need a plain background; give masks "
                         "(masks/NAME.png), or leave --background out")
    return np.median(colours, axis=0)


def mask_from_background(image: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The object before a background of one colour.

    Background is what differs from the colour by less than a threshold and is connected with the
    border of the image. The threshold parts the differences into two groups as far apart as can be
    (Otsu), of their square roots, as the dark side of an object is closer to a black ground than
    to its own bright side.

    Args:
        image: (H, W, 3) float32 RGB in [0, 1].
        colour: (3,).
    Returns:
        (H, W) bool, True on the object; narrow gaps and threads, and specks, removed.
    """
    difference = ndimage.gaussian_filter(np.abs(image - colour).max(-1), 1.0)
    threshold = max(LEAST_CONTRAST, _otsu(np.sqrt(difference)) ** 2)
    near_mask = difference < threshold
    regions, _ = ndimage.label(near_mask)
    rim = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    outside_mask = np.isin(regions, np.unique(rim[rim > 0]))
    longest = max(image.shape[:2])
    closed = _morphed(~outside_mask, cv2.MORPH_CLOSE, round(GAP_SHARE * longest))
    return clean_mask(_morphed(closed, cv2.MORPH_OPEN, round(THREAD_SHARE * longest)))


def _morphed(mask: np.ndarray, operation: int, radius: int) -> np.ndarray:
    """An opening or closing by a disk; what lies beyond the frame is as its border."""
    if radius < 1:
        return mask
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    padded = np.pad(mask.astype(np.uint8), radius + 1, mode="edge")
    inner = slice(radius + 1, -radius - 1)
    return cv2.morphologyEx(padded, operation, disk)[inner, inner] > 0


def _otsu(values: np.ndarray) -> float:
    """The threshold that leaves the least variance within two groups of values in [0, 1]."""
    counts, edges = np.histogram(values, bins=128, range=(0.0, 1.0))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1:][np.nanargmax(np.where(np.isfinite(apart), apart, -1))])


def clean_mask(mask: np.ndarray) -> np.ndarray:
    """The (H, W) bool mask without specks and holes below SMALL_SHARE of the object."""
    if not mask.any():
        return mask
    least = SMALL_SHARE * mask.sum()
    regions, count = ndimage.label(mask)
    sizes = ndimage.sum_labels(mask, regions, np.arange(count + 1))
    kept = (sizes >= least)[regions] & mask
    holes, count = ndimage.label(~kept)
    sizes = ndimage.sum_labels(~kept, holes, np.arange(count + 1))
    filled = sizes < least
    filled[0] = False
    return kept | filled[holes]
