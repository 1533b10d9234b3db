"""Photographs of a capture as pinhole images of one size: upright, undistorted, scaled, masked."""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from data_processing.captures.capture import CapturedView, Lens
from data_processing.captures.undistortion import undistortion
from data_processing.scenes.images import opened
from data_processing.scenes.mask_files import object_pixels
from utils.errors import SceneError
from utils.files.images import DAMAGE

#: How much the shapes (width over height) of images that belong together may differ.
SHAPE_TOLERANCE = 0.01
MASK_THRESHOLD = 0.5
EXIF_ORIENTATION = 0x0112
#: How to turn an image of each EXIF orientation but 1 (upright).
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
         4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
         6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}
#: Orientations that swap rows and columns.
SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class Photo:
    """A photograph as its lens made it.

    `rgb` is (H, W, 3) float32, `coverage` (H, W) float32 or None.
    """

    rgb: np.ndarray
    coverage: np.ndarray | None
    lens: Lens


@dataclass(frozen=True)
class PinholeView:
    """A photograph of a pinhole camera.

    `intrinsics` (3, 3) is K at the image's size, `mask` (H, W) bool or None.
    """

    rgb: np.ndarray
    mask: np.ndarray | None
    intrinsics: np.ndarray


def stored_size(path: Path) -> tuple[tuple[int, int], int]:
    """Return the size (W, H) of the stored pixels and the EXIF orientation, 1 where not stated."""
    with opened(path, decode=False) as image:
        try:
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
        except DAMAGE:                             # the EXIF block alone is damaged
            orientation = 1
        is_known = isinstance(orientation, int) and orientation in TURNS
        return image.size, orientation if is_known else 1


def turn_for(path: Path, calibrated: tuple[int, int]) -> int:
    """Return the EXIF orientation that gives the image the shape it was calibrated in, or 1.

    Some tools turn images before they calibrate, some do not: the calibrated size tells. Where both
    fit, the pixels are used as stored.
    """
    (width, height), orientation = stored_size(path)
    if orientation not in SIDEWAYS or same_shape((width, height), calibrated):
        return 1
    return orientation if same_shape((height, width), calibrated) else 1


def same_shape(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Return whether two sizes (W, H) have the same shape but for rounding."""
    return abs(first[0] * second[1] / (first[1] * second[0]) - 1) < SHAPE_TOLERANCE


def upright_size(view: CapturedView) -> tuple[int, int]:
    """Return (W, H) of a view's image, turned as its calibration asks for."""
    (width, height), _ = stored_size(view.image)
    return (height, width) if turn_for(view.image, view.lens.size) in SIDEWAYS else (width, height)


def fitting_views(views: tuple[CapturedView, ...], max_size: int) -> tuple[
        list[CapturedView], tuple[int, int], list[str]]:
    """Return the views whose images have the commonest shape, and one size for all.

    Args:
        views: of a capture.
        max_size: longest side of the result in pixels; 0 keeps the commonest size.
    Returns:
        The views, (W, H), and a line for each view left out.
    Raises:
        SceneError: the shape of an image is not that which its camera was calibrated for.
    """
    sizes = [upright_size(view) for view in views]
    for view, size in zip(views, sizes):
        if not same_shape(size, view.lens.size):
            raise SceneError(f"{view.image}: {size[0]}x{size[1]}, but its camera was calibrated "
                             f"for {view.lens.size[0]}x{view.lens.size[1]}, need the same shape; "
                             "turn or crop the image as it was, or calibrate again")
    common = Counter(sizes).most_common(1)[0][0]
    kept = [view for view, size in zip(views, sizes) if same_shape(size, common)]
    left_out = [f"{view.image.name}: {size[0]}x{size[1]} differs in shape from most, "
                f"{common[0]}x{common[1]}" for view, size in zip(views, sizes)
                if not same_shape(size, common)]
    scale = min(1.0, max_size / max(common)) if max_size else 1.0
    return kept, (max(1, round(common[0] * scale)), max(1, round(common[1] * scale))), left_out


def read_photo(view: CapturedView, least_foreground: int = 128) -> Photo:
    """Read a photograph with its mask file or alpha, and its lens at the image's size.

    Args:
        view: of a capture.
        least_foreground: smallest level of a mask file that counts as object.
    Raises:
        SceneError: a file is missing, damaged, or of another shape.
    """
    turn = turn_for(view.image, view.lens.size)
    with opened(view.image) as image:
        rgb, alpha = _rgb_and_alpha(_turned(image, turn))
    size = (rgb.shape[1], rgb.shape[0])
    coverage = alpha
    if view.mask is not None:
        with opened(view.mask) as image:
            covered = _coverage(view.mask, image, least_foreground)
        if turn != 1 and not same_shape((covered.shape[1], covered.shape[0]), size):
            covered = np.asarray(_turned(Image.fromarray(covered), turn))
        if not same_shape((covered.shape[1], covered.shape[0]), size):
            raise SceneError(f"{view.mask}: {covered.shape[1]}x{covered.shape[0]}, but "
                             f"{view.image.name} is {size[0]}x{size[1]}, need the same shape; "
                             "scale or crop it alike")
        coverage = cv2.resize(covered, size, interpolation=cv2.INTER_LINEAR)
    return Photo(rgb, coverage, view.lens.resized(size))


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """Return the image turned upright by an EXIF orientation."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _rgb_and_alpha(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Return colours (H, W, 3) in [0, 1] over black, and alpha (H, W) unless it is 1 everywhere."""
    if image.mode[0] in "IF":
        grey = np.asarray(image, np.float32)
        grey = grey / (65535 if image.mode[0] == "I" else max(1.0, float(grey.max())))
        return np.repeat(grey[..., None], 3, -1), None
    if "A" not in image.mode and "transparency" not in image.info:
        return _levels(image.convert("RGB")), None
    pixels = _levels(image.convert("RGBA"))
    alpha = np.ascontiguousarray(pixels[..., 3])
    if alpha.min() == 1:
        return np.ascontiguousarray(pixels[..., :3]), None
    return pixels[..., :3] * alpha[..., None], alpha


def _levels(image: Image.Image) -> np.ndarray:
    """Return the levels (H, W, C) float32 in [0, 1], scaled in place as they may be large."""
    levels = np.array(image, np.float32)
    levels /= 255
    return levels


def _coverage(path: Path, image: Image.Image, least_foreground: int) -> np.ndarray:
    """Return the object of a mask file, (H, W) float32 of 0 and 1."""
    if image.mode[0] in "IF":
        grey = np.asarray(image, np.float32)
        return (grey > grey.max() / 2).astype(np.float32)
    return object_pixels(path, image, least_foreground).astype(np.float32)


def pinhole_view(photo: Photo, size: tuple[int, int]) -> PinholeView:
    """Return the photograph without distortion and at another size.

    Distortion is removed at full size, keeping the largest frame without unknown pixels; then the
    pixels are averaged by area.

    Args:
        photo: of any lens.
        size: (W, H) of the result; the same shape.
    Raises:
        SceneError: the lens has no pinhole image.
    """
    rgb, coverage, lens = photo.rgb, photo.coverage, photo.lens
    if lens.is_distorted:
        columns, rows, matrix = undistortion(lens)
        rgb = cv2.remap(rgb, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        rgb = rgb.clip(0, 1)
        if coverage is not None:
            coverage = cv2.remap(coverage, columns, rows, cv2.INTER_LINEAR)
        lens = replace(lens, focal=(matrix[0, 0], matrix[1, 1]), distortion=(), is_fisheye=False,
                       center=(matrix[0, 2], matrix[1, 2]))
    rgb = _resized(rgb, size)
    mask = None if coverage is None else _resized(coverage, size) >= MASK_THRESHOLD
    return PinholeView(rgb, mask, lens.resized(size).matrix)


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return pixels (H, W, ...) at another size, averaged by area where it is smaller."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    smaller = size[0] < pixels.shape[1]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
