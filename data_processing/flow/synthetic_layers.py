"""Layers of synthetic image pairs: shapes, motions and textures, each in closed form.

All points are (..., 2) float64 in pixels of image 0, x to the right and y down, pixel centres at
whole numbers. Randomness is numpy's, as generators are keyed by (seed, stream, number): torch's
use 32 bits of a seed, which cannot hold all three.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from data_processing.flow.files import read_picture
from utils.errors import SceneError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".ppm")
#: Longer side of the pictures that are kept in memory, and how many are kept.
PICTURE_SIDE, PICTURES_KEPT = 768, 32
#: Texels along a pixel's side; more than one, so that no detail is lost.
TEXELS_A_PIXEL = 1.25
#: Harmonics of a blob's outline.
HARMONICS = np.arange(2, 6)
#: Farthest that an outline reaches from its centre, in its own coordinates.
REACH = 1.7


@dataclass(frozen=True)
class Shear:
    """p + e a sin(2 pi n.p / wavelength + phase), n perpendicular to e.

    It is smooth, and its inverse is exact.
    """

    angle: float
    amplitude: float
    wavelength: float
    phase: float

    def displacement(self, points: np.ndarray) -> np.ndarray:
        """Return how far points move: the same before and after, as n.p does not change."""
        along = np.array([np.cos(self.angle), np.sin(self.angle)])
        across = points @ np.array([-along[1], along[0]])
        wave = self.amplitude * np.sin(2 * np.pi * across / self.wavelength + self.phase)
        return wave[..., None] * along


@dataclass(frozen=True)
class Motion:
    """From image 0 to image 1: shears, then a matrix (2, 2) about `centre`, then a translation."""

    matrix: np.ndarray
    centre: np.ndarray
    translation: np.ndarray
    shears: tuple[Shear, ...] = ()

    def forward(self, points: np.ndarray) -> np.ndarray:
        """Return where points of image 0 are in image 1."""
        for shear in self.shears:
            points = points + shear.displacement(points)
        return (points - self.centre) @ self.matrix.T + self.centre + self.translation

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """Return where points of image 1 are in image 0."""
        points = points - self.centre - self.translation
        points = points @ np.linalg.inv(self.matrix).T + self.centre
        for shear in reversed(self.shears):
            points = points - shear.displacement(points)
        return points


@dataclass(frozen=True)
class Shape:
    """A star-shaped outline round `centre`, perhaps with a hole of the same form.

    Attributes:
        centre: (2,) in image 0.
        frame: (2, 2) from pixels to the outline's own coordinates, in which its radius is near 1.
        corners: (K, 2) of a polygon, counted by angle; none for a blob.
        harmonics: (4, 2) cosine and sine of a blob's outline at HARMONICS.
        hole: size of the hole as a fraction of the outline's; 0 for none.
    """

    centre: np.ndarray
    frame: np.ndarray
    corners: np.ndarray
    harmonics: np.ndarray
    hole: float = 0.0

    def covers(self, points: np.ndarray) -> np.ndarray:
        """Return (...) bool: which points (..., 2) of image 0 the shape covers."""
        own = (points - self.centre) @ self.frame.T
        covered = np.zeros(own.shape[:-1], bool)
        near = own[..., 0] ** 2 + own[..., 1] ** 2 < REACH ** 2
        covered[near] = self._inside(own[near])
        if self.hole:
            covered[near] &= ~self._inside(own[near] / self.hole)
        return covered

    def rim(self) -> np.ndarray:
        """Return points (64, 2) of image 0 on an ellipse round all that is covered."""
        angle = np.arange(64) * np.pi / 32
        circle = REACH * np.stack([np.cos(angle), np.sin(angle)], -1)
        return circle @ np.linalg.inv(self.frame).T + self.centre

    def _inside(self, own: np.ndarray) -> np.ndarray:
        """Return (N,) bool: which points (N, 2), in the outline's coordinates, are inside it."""
        angle = np.arctan2(own[:, 1], own[:, 0])
        if len(self.corners):
            angles = np.arctan2(self.corners[:, 1], self.corners[:, 0])
            last = np.searchsorted(angles, angle, side="right") % len(angles)
            start, end = self.corners[last - 1], self.corners[last]
            edge, to_point = end - start, own - start
            return edge[:, 0] * to_point[:, 1] - edge[:, 1] * to_point[:, 0] > 0
        waves = angle[:, None] * HARMONICS
        radius = 1 + np.cos(waves) @ self.harmonics[:, 0] + np.sin(waves) @ self.harmonics[:, 1]
        return own[:, 0] ** 2 + own[:, 1] ** 2 < radius ** 2


@dataclass(frozen=True)
class Texture:
    """Colours in [0, 255], mirrored without end.

    Attributes:
        texels: (S, T, 3) float32.
        frame, origin: (2, 2) and (2,), from pixels to texels.
    """

    texels: np.ndarray
    frame: np.ndarray
    origin: np.ndarray

    def colours(self, points: np.ndarray) -> np.ndarray:
        """Return the bilinear colours (..., 3) at points of image 0."""
        at = (points @ self.frame.T + self.origin).astype(np.float32)
        height, width = self.texels.shape[:2]
        left, right, weight_x = _mirrored(at[..., 0], width)
        top, bottom, weight_y = _mirrored(at[..., 1], height)
        upper = self.texels[top, left] * (1 - weight_x) + self.texels[top, right] * weight_x
        lower = self.texels[bottom, left] * (1 - weight_x) + self.texels[bottom, right] * weight_x
        return upper * (1 - weight_y) + lower * weight_y


def _mirrored(x: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two neighbouring texels and the second one's weight, in a mirrored row."""
    period = 2 * (size - 1)
    x = np.abs(np.mod(x + size - 1, period) - (size - 1))
    first = np.minimum(x.astype(np.int64), size - 2)
    return first, first + 1, (x - first)[..., None]


def random_motion(rng: np.random.Generator, centre: np.ndarray, size: float, *,
                  strength: float, drift: np.ndarray) -> Motion:
    """Draw an affine map with two shears.

    Args:
        rng: drawn from.
        centre: (2,) pixels, of the rotation.
        size: side of the image in pixels; all lengths are fractions of it.
        strength: 1 for the background; objects move more.
        drift: (2,) pixels, the camera's: added to the translation.
    """
    angle = np.radians(2.5) * strength * rng.standard_normal()
    stretch = np.exp(0.03 * strength * rng.standard_normal(2).clip(-2.5, 2.5))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    skew = np.array([[1.0, 0.03 * strength * rng.standard_normal()], [0.0, 1.0]])
    translation = drift + 0.02 * size * strength * rng.standard_normal(2)
    shears = tuple(Shear(rng.uniform(0, np.pi), 0.005 * size * rng.standard_normal(),
                         rng.uniform(0.4, 1.2) * size, rng.uniform(0, 2 * np.pi))
                   for _ in range(2))
    return Motion(rotation @ skew * stretch, centre, translation, shears)


def random_shape(rng: np.random.Generator, resolution: tuple[int, int]) -> Shape:
    """Draw a blob or polygon, thin or round, whole or with a hole, somewhere in the image."""
    radius = min(resolution) * np.exp(rng.uniform(np.log(0.06), np.log(0.32)))
    angle, thin = rng.uniform(0, np.pi), rng.choice([1.0, rng.uniform(0.2, 1.0)])
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    frame = np.diag([1 / radius, 1 / (radius * thin)]) @ rotation
    centre = rng.uniform(-0.05, 1.05, 2) * np.array(resolution)
    corners, harmonics = np.zeros((0, 2)), np.zeros((len(HARMONICS), 2))
    if rng.random() < 0.5:
        number = rng.integers(5, 10)                       # no sector reaches 180 degrees
        angles = -np.pi + (np.arange(number) + rng.uniform(0.1, 0.9, number)) * 2 * np.pi / number
        corners = rng.uniform(0.55, 1.35, (number, 1)) * np.stack([np.cos(angles),
                                                                  np.sin(angles)], -1)
    else:
        harmonics = rng.uniform(-0.11, 0.11, harmonics.shape)
    hole = rng.uniform(0.3, 0.7) if rng.random() < 0.25 else 0.0
    return Shape(centre, frame, corners, harmonics, hole)


def random_texture(rng: np.random.Generator, extent: float, pictures: tuple[Path, ...]) -> Texture:
    """Draw a texture: cut out of a picture, or procedural where there are none.

    Args:
        rng: drawn from.
        extent: pixels that it covers before it is mirrored.
        pictures: files.
    """
    side = max(8, round(extent * TEXELS_A_PIXEL))
    texels = _piece(rng, pictures, side) if pictures else _procedural(rng, side)
    angle = rng.uniform(0, 2 * np.pi)
    scale = TEXELS_A_PIXEL * np.exp(rng.uniform(-0.15, 0.15))
    frame = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Texture(texels, frame, rng.uniform(0, 2 * side, 2))


def find_pictures(folder: str | Path) -> tuple[Path, ...]:
    """Return the picture files of a folder, sorted; raise SceneError where there are none."""
    folder = Path(folder).expanduser()
    found = tuple(sorted(path for path in folder.iterdir()
                         if path.suffix.lower() in PICTURE_SUFFIXES)) if folder.is_dir() else ()
    if not found:
        what = "no pictures" if folder.is_dir() else "no folder"
        raise SceneError(f"{folder}: {what} there, need .png, .jpg or .ppm files; give --pictures "
                         "a folder of pictures, or leave it out for procedural textures")
    return found


@lru_cache(PICTURES_KEPT)
def _picture(path: Path) -> np.ndarray:
    """Return a picture (H, W, 3) uint8, made smaller where it is large."""
    pixels = read_picture(path)
    scale = PICTURE_SIDE / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    width, height = (max(2, round(side * scale)) for side in pixels.shape[1::-1])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def _piece(rng: np.random.Generator, pictures: tuple[Path, ...], side: int) -> np.ndarray:
    """Draw a square of a random picture, (side, side, 3)."""
    pixels = _picture(pictures[rng.integers(len(pictures))])
    height, width = pixels.shape[:2]
    cut = max(2, round(min(height, width) * rng.uniform(0.4, 1.0)))
    top, left = rng.integers(height - cut + 1), rng.integers(width - cut + 1)
    method = cv2.INTER_AREA if cut > side else cv2.INTER_CUBIC
    piece = cv2.resize(pixels[top:top + cut, left:left + cut], (side, side), interpolation=method)
    return piece.astype(np.float32)


def _procedural(rng: np.random.Generator, side: int) -> np.ndarray:
    """Draw colours along a random field: noise, stripes or checks, with fine noise over it."""
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    kind = rng.choice(["noise", "stripes", "checks"])
    field = _noise(rng, side, int(rng.integers(2, 9)), octaves=4)
    if kind != "noise":
        waves = rng.uniform(4, 24) * np.pi
        angle = rng.uniform(0, np.pi)
        bend = rng.uniform(0, 0.3) * field
        field = np.sin(waves * (np.cos(angle) * x + np.sin(angle) * y + bend))
        if kind == "checks":
            field = field * np.sin(waves * (np.cos(angle) * y - np.sin(angle) * x + bend))
        field = 0.5 + 0.5 * np.tanh(rng.uniform(0.8, 4) * field)
    stops = rng.uniform(0, 255, (4, 3))
    grey = stops.mean(1, keepdims=True)
    stops = grey + (stops - grey) * rng.uniform(0.2, 1.4)  # from nearly grey to vivid
    at = np.clip(field, 0, 1) * 3
    colours = np.stack([np.interp(at, np.arange(4), stops[:, c]) for c in range(3)], -1)
    fine = _noise(rng, side, max(2, side // 6), octaves=2) - 0.5
    broad = _noise(rng, side, 3, octaves=2) - 0.5
    shade = rng.uniform(0, 70) * fine + rng.uniform(20, 110) * broad
    return np.clip(colours + shade[..., None], 0, 255).astype(np.float32)


def _noise(rng: np.random.Generator, side: int, cells: int, *, octaves: int) -> np.ndarray:
    """Draw smooth noise (side, side) about 0.5, each octave half as large and half as strong."""
    total = np.zeros((side, side), np.float32)
    for octave in range(octaves):
        grid = rng.uniform(-0.5, 0.5, (min(cells * 2 ** octave, side) + 1,) * 2)
        total += cv2.resize(grid.astype(np.float32), (side, side),
                            interpolation=cv2.INTER_CUBIC) / 2 ** octave
    return 0.5 + total * 1.4
