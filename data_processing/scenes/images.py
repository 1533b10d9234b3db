"""Photographs and masks as arrays, with one clear error for each defect of a file."""
from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from data_processing.scenes.mask_files import object_pixels
from utils.errors import ConfigError, SceneError
from utils.files.images import FORMATS, PNG_SIGNATURE, check_chunks, open_image

#: A pixel of a mask that was made smaller is foreground if at least this fraction of it is.
MASK_THRESHOLD = 0.5
#: Where a PNG keeps its bit depth, counted from the start of the file.
PNG_BIT_DEPTH_OFFSET = 24
#: First lines of a binary PPM: kind, width, height, greatest value.
PPM_HEAD_BYTES = 512
PPM_HEAD = re.compile(rb"P6(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s")
_KINDS = {"L": "a greyscale image", "1": "a black and white image", "P": "a palette image",
          "LA": "a greyscale image with alpha", "RGBA": "an image with an alpha channel",
          "PA": "a palette image with alpha", "CMYK": "a CMYK image"}


def read_image(path: Path, im_scale: float = 1.0) -> np.ndarray:
    """Read an 8-bit RGB photograph.

    Args:
        path: PNG or JPEG file.
        im_scale: factor on its sides, over 0 and at most 1; pixels are averaged by area.
    Returns:
        (H, W, 3) float32, RGB in [0, 1].
    Raises:
        SceneError: missing, unreadable, truncated, too large, or not 8-bit RGB.
    """
    levels = read_rgb8(path).astype(np.float32)
    levels /= 255                                  # in place: large photographs need the room
    return _shrunk(levels, im_scale)


def read_rgb8(path: Path, formats: tuple[str, ...] = FORMATS) -> np.ndarray:
    """Read the levels of an 8-bit RGB image as they are stored.

    Args:
        path: the file.
        formats: Pillow's names of the formats that are admitted.
    Returns:
        (H, W, 3) uint8 RGB.
    Raises:
        SceneError: as `read_image`.
    """
    with opened(path, formats=formats) as image:
        _check_rgb(path, image)
        return np.array(image, np.uint8)


def read_mask(path: Path, im_scale: float = 1.0, *, least_foreground: int = 1) -> np.ndarray:
    """Read an object mask from an 8-bit file, as `object_pixels` tells the object.

    Args:
        path: PNG or JPEG file; grey, RGB, RGBA or palette.
        im_scale: as in `read_image`; a pixel is foreground if half of its area is.
        least_foreground: smallest level of grey, 1 to 255, that counts as object.
    Returns:
        (H, W) bool, True on the object.
    Raises:
        SceneError: missing, unreadable, truncated, too large, or not 8-bit.
    """
    with opened(path) as image:
        found = _kind_of(path, image)
        if "16-bit" in found or image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
            raise SceneError(f"{path}: {found}, need an 8-bit mask; convert it with: "
                             f"{_convert_command(path, found, '-colorspace Gray ')}")
        covered = object_pixels(path, image, least_foreground).astype(np.float32)
    return _shrunk(covered, im_scale) >= MASK_THRESHOLD


def image_size(path: Path) -> tuple[int, int]:
    """Return (W, H) of an image file in pixels, without decoding it.

    Raises:
        SceneError: missing, unreadable or too large.
    """
    with opened(path, decode=False) as image:
        return image.size


def check_image(path: Path) -> None:
    """Raise SceneError where `read_image` would, as far as an image's header and end tell."""
    with opened(path, decode=False) as image:
        _check_rgb(path, image)
        if not check_chunks(path):
            raise SceneError(f"{path}: truncated image (its end is missing), need a whole PNG or "
                             "JPEG file; copy or export it again")


def scaled_size(size: tuple[int, int], im_scale: float) -> tuple[int, int]:
    """Return (W, H) after `im_scale`, rounded, at least one pixel.

    Raises:
        ConfigError: `im_scale` is not over 0 and at most 1.
    """
    if not 0 < im_scale <= 1:
        raise ConfigError(f"--load_im_scale is {im_scale}, need over 0 and at most 1, as a factor "
                          "on the sides of the images; 1 keeps them as they are")
    return max(1, round(size[0] * im_scale)), max(1, round(size[1] * im_scale))


def opened(path: Path, decode: bool = True,
           formats: tuple[str, ...] = FORMATS) -> AbstractContextManager[Image.Image]:
    """Open an image with Pillow, wholly decoded; its errors become SceneErrors."""
    return open_image(path, decode=decode, formats=formats, error=SceneError)


def _check_rgb(path: Path, image: Image.Image) -> None:
    """Raise SceneError where an image is not 8-bit RGB, with a command that converts it."""
    found = _kind_of(path, image)
    if found != "RGB":
        raise SceneError(f"{path}: {found}, need 8-bit RGB; convert it with: "
                         f"{_convert_command(path, found)}")


def _kind_of(path: Path, image: Image.Image) -> str:
    """Return 'RGB' for an 8-bit RGB image, otherwise words for what it is."""
    bits = _bit_depth(path)
    if bits == 16 or image.mode[0] in "IF":
        return "a 16-bit image" if image.mode[0] != "F" else "a floating point image"
    if image.mode == "RGB" and "transparency" not in image.info:
        return "RGB"
    if "transparency" in image.info:
        return "an image with a transparent colour (alpha)"
    return _KINDS.get(image.mode, f"an image of mode {image.mode}")


def _bit_depth(path: Path) -> int | None:
    """Return the bits of a channel in a PNG or PPM, else None.

    Pillow reads 16-bit RGB as 8-bit without a word.
    """
    with open(path, "rb") as stream:
        head = stream.read(PPM_HEAD_BYTES)
    if ppm := PPM_HEAD.match(head):
        return 16 if int(ppm[3]) > 255 else 8
    if not head.startswith(PNG_SIGNATURE) or len(head) <= PNG_BIT_DEPTH_OFFSET:
        return None
    return head[PNG_BIT_DEPTH_OFFSET]


def _convert_command(path: Path, found: str, more: str = "") -> str:
    """Return an ImageMagick command that writes an 8-bit copy beside the file."""
    if "alpha" in found and not more:
        more = "-background black -alpha remove -alpha off "
    kind = "" if more.startswith("-colorspace") else "PNG24:"
    target = path.with_name(f"{path.stem}_8bit.png")
    return f"magick '{path}' {more}-depth 8 '{kind}{target}' (and put it in the file's place)"


def _shrunk(pixels: np.ndarray, im_scale: float) -> np.ndarray:
    """Return area-averaged pixels; edges of the image stay edges, so NDC does not change."""
    size = (pixels.shape[1], pixels.shape[0])
    new_size = scaled_size(size, im_scale)
    if new_size == size:
        return pixels
    return cv2.resize(pixels, new_size, interpolation=cv2.INTER_AREA)
