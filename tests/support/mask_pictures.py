"""Masks as people have them: a function a case, from a bool outline and its photograph.

Each takes `mask` (H, W) bool and `rgb` (H, W, 3) uint8 and returns the picture of the mask.
"""
from __future__ import annotations

import numpy as np
from PIL import Image


def levels(mask: np.ndarray, value: int = 255) -> np.ndarray:
    """(H, W) uint8: `value` on the object."""
    return mask.astype(np.uint8) * np.uint8(value)


def white(mask: np.ndarray, rgb: np.ndarray) -> Image.Image:
    """White on black."""
    return Image.fromarray(levels(mask))


def cutout_black(mask: np.ndarray, rgb: np.ndarray) -> Image.Image:
    """The photograph with alpha, black where alpha is 0, as background removers save it."""
    return Image.fromarray(np.dstack([rgb * mask[..., None], levels(mask)]))


def cutout_kept(mask: np.ndarray, rgb: np.ndarray) -> Image.Image:
    """The photograph with alpha, its background still there where alpha is 0."""
    return Image.fromarray(np.dstack([rgb, levels(mask)]))


def white_alpha(mask: np.ndarray, rgb: np.ndarray) -> Image.Image:
    """White everywhere, the outline in alpha."""
    return Image.fromarray(np.dstack([np.full_like(rgb, 255), levels(mask)]))


def opaque_alpha(mask: np.ndarray, rgb: np.ndarray) -> Image.Image:
    """White on black, with alpha that is 255 everywhere."""
    return Image.fromarray(np.dstack([levels(mask)] * 3 + [np.full(mask.shape, 255, np.uint8)]))


def palette_green(mask: np.ndarray, rgb: np.ndarray) -> Image.Image:
    """Index 1 of a palette, dark green, as VOC labels are stored."""
    picture = Image.fromarray(levels(mask, 1), "P")
    picture.putpalette([0, 0, 0, 0, 128, 0] + [0] * 762)
    return picture


def palette_on_red(mask: np.ndarray, rgb: np.ndarray) -> Image.Image:
    """A palette without black: blue on red."""
    picture = Image.fromarray(levels(mask, 1), "P")
    picture.putpalette([200, 0, 0, 0, 0, 200] + [0] * 762)
    return picture


def green(mask: np.ndarray, rgb: np.ndarray) -> Image.Image:
    """Pure green on black."""
    return Image.fromarray(levels(mask)[..., None] * np.array([0, 1, 0], np.uint8))


def blue(mask: np.ndarray, rgb: np.ndarray) -> Image.Image:
    """Pure blue on black."""
    return Image.fromarray(levels(mask)[..., None] * np.array([0, 0, 1], np.uint8))


def label_one(mask: np.ndarray, rgb: np.ndarray) -> Image.Image:
    """Values 0 and 1."""
    return Image.fromarray(levels(mask, 1))


def label_two(mask: np.ndarray, rgb: np.ndarray) -> Image.Image:
    """Label 2 of a segmentation."""
    return Image.fromarray(levels(mask, 2))


def one_bit(mask: np.ndarray, rgb: np.ndarray) -> Image.Image:
    """A picture of one bit."""
    return Image.fromarray(levels(mask)).convert("1")


KINDS = (white, cutout_black, cutout_kept, white_alpha, opaque_alpha, palette_green,
         palette_on_red, green, blue, label_one, label_two, one_bit)


def temple(level: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Five columns between base and roof before a plain background, whose gaps are enclosed.

    Returns the picture (180, 240, 3) float32 with noise of 1 %, and the outline (180, 240) bool.
    """
    rows, columns = np.mgrid[:180, :240]
    outline = np.zeros(rows.shape, bool)
    outline[45:60, 45:195] = outline[135:150, 45:195] = True
    for left in range(50, 180, 32):
        outline[60:135, left:left + 12] = True
    outline |= (rows < 45) & (rows > 15 + 0.4 * np.abs(columns - 120))
    shade = 0.45 + 0.25 * np.sin(columns / 9) + 0.1 * np.sin(rows / 5)
    picture = np.where(outline, shade, level)[..., None] * np.array([1.0, 0.95, 0.9])
    picture = np.where(outline[..., None], picture, level)
    picture += np.random.default_rng(seed).normal(0, 0.01, picture.shape)
    return picture.clip(0, 1).astype(np.float32), outline
