"""Masks of a capture: found beside its photographs, made from a plain background, cleaned."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from data_processing.captures.capture import CapturedView
from data_processing.captures.paths import IMAGE_SUFFIXES, file_named
from utils.errors import SceneError

#: Where masks are kept, relative to the capture.
MASK_FOLDERS = ("mask", "masks", "images/mask", "images/masks", "segmentation", "silhouettes")
#: Folders above a photograph beside which masks are looked for.
MAX_LEVELS = 4
MASK_ENDS = ("_mask", ".mask", "-mask", "_silhouette")
#: A border is of one colour if this fraction of it is within PLAIN_SPREAD of the median colour.
PLAIN_FRACTION, PLAIN_SPREAD = 0.8, 0.12
#: An object before a background covers between these fractions of a photograph.
OBJECT_FRACTION = (0.01, 0.9)
#: Least difference from the background that counts as object; noise and JPEG stay below it.
MIN_CONTRAST = 0.06
#: Gaps and threads up to these fractions of the longer side are closed and cut: shadows on the
#: object reach its outline, glints on the ground touch it.
GAP_FRACTION, THREAD_FRACTION = 0.01, 0.003
#: Width of the border as a fraction of the shorter side.
BORDER = 0.03
#: Specks and holes below this fraction of the object are removed by `--clean_masks 1`.
SMALL_FRACTION = 0.01
#: What the object encloses is background from this fraction of it on, if its median difference from
#: the background's colour is below this quantile of that of the background outside.
ENCLOSED_FRACTION, ENCLOSED_QUANTILE = 0.003, 0.9


def find_masks(root: Path, views: tuple[CapturedView, ...]) -> list[Path | None]:
    """Return the mask file of each view in the usual layouts, or None.

    `mask/NAME.png`, `masks/NAME.png`, COLMAP's `masks/NAME.jpg.png`, `NAME_mask.png` beside the
    photograph or in those folders; the photograph's own sub-folder goes first, with and without
    its first parts: `masks/cam0/NAME.png` for `images/cam0/NAME.png`. A mask that the capture names
    itself is kept.

    Args:
        root: the capture's folder.
        views: their `image` may lie in folders below the root.
    Raises:
        SceneError: one mask file is that of two photographs.
    """
    files = [view.mask or _find_mask(root, view.image) for view in views]
    owners: dict[Path, Path] = {}
    for file, view in zip(files, views):
        if file is not None and owners.setdefault(file, view.image) != view.image:
            raise SceneError(f"{file}: the mask of two photographs, {owners[file]} and "
                             f"{view.image}, need one for each; put the masks into sub-folders as "
                             "the photographs are: masks/cam0/NAME.png and masks/cam1/NAME.png")
    return files


def _find_mask(root: Path, image: Path) -> Path | None:
    """Return the mask file of one photograph, or None."""
    stems = (image.stem, image.name, *(image.stem + end for end in MASK_ENDS))
    for folder in _mask_folders(root, image.parent):
        for stem in stems:
            for suffix in IMAGE_SUFFIXES:
                found = file_named(folder, stem + suffix)
                if found is not None and found != image:
                    return found
    for end in MASK_ENDS:
        for suffix in IMAGE_SUFFIXES:
            found = file_named(image.parent, f"{image.stem}{end}{suffix}")
            if found is not None:
                return found
    return None


def _mask_folders(root: Path, beside: Path) -> list[Path]:
    """Return the folders that may hold the masks of photographs in the folder `beside`.

    Those that repeat most of the photographs' sub-folder come first, then the nearest.
    """
    bases = [beside, *beside.parents][:MAX_LEVELS]
    if root in bases:
        bases = bases[:bases.index(root) + 1]
    elif beside.is_relative_to(root):
        bases.append(root)
    found = []
    for base in bases:
        below = beside.relative_to(base).parts
        for first in range(len(below) + 1):
            found += [(len(below) - first, base / name / Path(*below[first:]))
                      for name in MASK_FOLDERS]
    found.sort(key=lambda ranked: -ranked[0])        # stable: the nearest base stays first
    return [folder for _, folder in found if folder.is_dir()]


def is_mask_name(path: Path) -> bool:
    """Return whether a file beside photographs is a mask by its name."""
    return path.stem.lower().endswith(MASK_ENDS)


def border_colour(image: np.ndarray) -> np.ndarray | None:
    """Return the colour of an image's border where it has one colour.

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
    return colour if plain.mean() >= PLAIN_FRACTION else None


def background_colour(images: list[np.ndarray], word: str) -> np.ndarray:
    """Return the colour that `--background` names.

    Args:
        images: (H, W, 3) each.
        word: black, white or auto; auto: the colour of most borders.
    Raises:
        SceneError: auto, and the borders are not of one colour.
    """
    if word in ("black", "white"):
        return np.full(3, float(word == "white"), np.float32)
    colours = [colour for image in images if (colour := border_colour(image)) is not None]
    if len(colours) < PLAIN_FRACTION * len(images):
        raise SceneError(f"--background auto: only {len(colours)} of {len(images)} photographs "
                         "have a border of one colour, need a plain background; leave "
                         "--background out, and give masks (masks/NAME.png) if you can")
    return np.median(colours, axis=0)


def plain_background(images: list[np.ndarray]) -> str:
    """Return the word of `--background` that would make masks of an object; '' where none would.

    Args:
        images: (H, W, 3) float32 RGB in [0, 1] each.
    """
    colours = [colour for image in images if (colour := border_colour(image)) is not None]
    if len(colours) < PLAIN_FRACTION * len(images):
        return ""
    colour = np.median(colours, axis=0)
    middle = images[len(images) // 2]
    least, most = OBJECT_FRACTION
    if not least < mask_from_background(middle, colour).mean() < most:
        return ""
    return "black" if colour.max() < PLAIN_SPREAD else \
        "white" if colour.min() > 1 - PLAIN_SPREAD else "auto"


def mask_from_background(image: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Return the mask of the object in front of a background of one colour.

    Background is what differs from the colour by less than a threshold and is connected with the
    border of the image, or is enclosed by the object, not small, and as near to the colour as the
    background outside: the gaps between columns, but not the dark side of an object before black.
    Otsu's threshold splits the square roots of the differences: the dark side of an object is
    closer to a black background than to the object's bright side, and the root moves the two apart.

    Args:
        image: (H, W, 3) float32 RGB in [0, 1].
        colour: (3,).
    Returns:
        (H, W) bool, True on the object; narrow gaps and threads, and specks, removed.
    """
    difference = ndimage.gaussian_filter(np.abs(image - colour).max(-1), 1.0)
    threshold = max(MIN_CONTRAST, _otsu(np.sqrt(difference)) ** 2)
    near_mask = difference < threshold
    regions, count = _regions(near_mask)
    rim = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    outside_mask = np.isin(regions, np.unique(rim[rim > 0]))
    outside_mask |= np.isin(regions, _enclosed(difference, regions, count, outside_mask))
    longest = max(image.shape[:2])
    closed = _morphed(~outside_mask, cv2.MORPH_CLOSE, round(GAP_FRACTION * longest))
    opened = _morphed(closed, cv2.MORPH_OPEN, round(THREAD_FRACTION * longest))
    return clean_mask(opened, hole_fraction=ENCLOSED_FRACTION)


def _enclosed(difference: np.ndarray, regions: np.ndarray, count: int,
              outside_mask: np.ndarray) -> np.ndarray:
    """Return the numbers of the regions within the object that are background.

    Args:
        difference: (H, W) from the background's colour.
        regions: (H, W) numbered from 1 to `count` where the difference is small.
        count: how many.
        outside_mask: (H, W) bool, the background that reaches the border.
    """
    numbers = np.setdiff1d(np.arange(1, count + 1), np.unique(regions[outside_mask]))
    if not len(numbers) or not outside_mask.any():
        return numbers[:0]
    sizes = ndimage.sum_labels(regions > 0, regions, numbers)
    middles = ndimage.median(difference, regions, numbers)
    least = ENCLOSED_FRACTION * (~outside_mask).sum()
    most = np.quantile(difference[outside_mask], ENCLOSED_QUANTILE)
    return numbers[(sizes >= least) & (middles <= most)]


def _morphed(mask: np.ndarray, operation: int, radius: int) -> np.ndarray:
    """Open or close a mask with a disk; what lies beyond the frame counts like its border."""
    if radius < 1:
        return mask
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    padded = np.pad(mask.astype(np.uint8), radius + 1, mode="edge")
    inner = slice(radius + 1, -radius - 1)
    return cv2.morphologyEx(padded, operation, disk)[inner, inner] > 0


def _otsu(values: np.ndarray) -> float:
    """Return the threshold with the least variance within both groups of values in [0, 1]."""
    counts, edges = np.histogram(values, bins=128, range=(0.0, 1.0))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1:][np.nanargmax(np.where(np.isfinite(apart), apart, -1))])


def _regions(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the connected regions of a mask, (H, W) numbered from 1, and how many there are."""
    regions = np.empty(mask.shape, np.int32)
    ndimage.label(mask, output=regions)
    return regions, int(regions.max(initial=0))


def clean_mask(mask: np.ndarray, *, hole_fraction: float = SMALL_FRACTION) -> np.ndarray:
    """Return the (H, W) bool mask without specks below SMALL_FRACTION of the object and holes.

    Args:
        mask: (H, W) bool.
        hole_fraction: of the object; smaller holes are filled.
    """
    if not mask.any():
        return mask
    regions, count = _regions(mask)
    sizes = ndimage.sum_labels(mask, regions, np.arange(count + 1))
    kept = (sizes >= SMALL_FRACTION * mask.sum())[regions] & mask
    holes, count = _regions(~kept)
    sizes = ndimage.sum_labels(~kept, holes, np.arange(count + 1))
    filled = sizes < hole_fraction * mask.sum()
    filled[0] = False
    return kept | filled[holes]
