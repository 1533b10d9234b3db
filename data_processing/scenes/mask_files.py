"""What of a mask file is the object: levels, alpha, colours or labels, told apart by the file."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import SceneError

#: Alpha from this value on is object.
LEAST_ALPHA = 128
#: Channels of a grey mask differ by no more than this, as JPEG stores colours coarsely.
GREY_SPREAD = 32
#: A mask of colours has at most this many, not counting those of a thousandth of the pixels; as a
#: JPEG, whose colours are told apart in steps of 64, at most so many of a two-hundredth.
MAX_COLOURS, MAX_JPEG_COLOURS = 32, 6
#: A colour counts as that of the background only where it covers this fraction of the image.
MIN_BACKGROUND = 0.002


def object_pixels(path: Path, image: Image.Image, least_foreground: int) -> np.ndarray:
    """Return which pixels of a decoded mask are object.

    In this order: alpha, where it is not the same everywhere; levels of grey from
    `least_foreground` on; the values over 0 of a file without loss that has no such levels (labels,
    0 and 1); of a mask in colours, those unlike the background's, which is black or, where there
    is no black, the commonest colour of the border.

    Args:
        path: of the file, for messages.
        image: 8 bits a channel.
        least_foreground: smallest level of grey, 1 to 255, that counts as object.
    Returns:
        (H, W) bool.
    Raises:
        SceneError: a picture of many colours, which shows no outline.
    """
    pixels = np.asarray(image.convert("RGBA"), np.uint8)
    colours, alpha = pixels[..., :3], pixels[..., 3]
    if alpha.min() < alpha.max():
        return alpha >= LEAST_ALPHA
    is_lossless = image.format not in ("JPEG", "MPO")
    if np.ptp(colours, axis=-1).max() <= (0 if is_lossless else GREY_SPREAD):
        return _of_grey(colours[..., 0], least_foreground, is_lossless)
    return _of_colours(path, colours, is_lossless)


def _of_grey(levels: np.ndarray, least_foreground: int, is_lossless: bool) -> np.ndarray:
    """Return the object of levels (H, W): bright ones, or labels where all values are small."""
    is_labels = is_lossless and int(levels.max(initial=0)) < least_foreground
    return levels > 0 if is_labels else levels >= least_foreground


def _of_colours(path: Path, colours: np.ndarray, is_lossless: bool) -> np.ndarray:
    """Return the object of a mask (H, W, 3) in a few colours."""
    coarse = colours if is_lossless else colours // 64 * 64
    codes = coarse.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)     # (H, W)
    values, counts = np.unique(codes, return_counts=True)
    many = (counts > codes.size / 1000).sum() > MAX_COLOURS if is_lossless else \
        (counts > codes.size / 200).sum() > MAX_JPEG_COLOURS
    if many or _is_photograph(values, counts):
        ranges = ", ".join(f"{name} {channel.min()} to {channel.max()}" for name, channel
                           in zip(("red", "green", "blue"), np.moveaxis(colours, -1, 0)))
        raise SceneError(f"{path}: a picture of {len(values):,} colours ({ranges}) without alpha "
                         "that varies, need a mask: white on the object and black elsewhere, or "
                         "alpha 0 off the object; export the mask, or the cutout as PNG with alpha")
    is_dark = values == 0
    if is_dark.any() and counts[is_dark][0] >= MIN_BACKGROUND * codes.size:
        background = np.uint32(0)
    else:
        rim = np.concatenate([codes[0], codes[-1], codes[:, 0], codes[:, -1]])
        rim_values, rim_counts = np.unique(rim, return_counts=True)
        background = rim_values[np.argmax(rim_counts)]
    return codes != background


def _is_photograph(values: np.ndarray, counts: np.ndarray) -> bool:
    """Return whether most pixels beside the commonest colour are of colours that hardly recur."""
    rest = counts.sum() - counts.max()
    return len(values) > MAX_COLOURS and counts[counts < counts.sum() / 1000].sum() > rest / 2
