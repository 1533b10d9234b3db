"""A capture: photographs with calibrated cameras as another tool left them.

The readers of foreign formats return a `Capture`; `pinhole_images.py` turns it into the pinhole
photographs of one size that the system trains on.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_processing.scenes.folder import check_num_views, whole_number
from utils.errors import SceneError
from utils.files.limits import MAX_COORDINATE, MAX_SIDE, read_json

#: Letters of a view's name that are kept.
MAX_STEM = 100
#: Focal lengths below and above these many times the longer side are refused, principal points and
#: skews beyond the last.
MIN_FOCAL_FACTOR, MAX_FOCAL_FACTOR, MAX_CENTER_FACTOR = 1e-6, 1000.0, 1e6
#: Distortion beyond this cannot be a lens: the coefficients belong to another model or unit.
MAX_DISTORTION = 1e3


@dataclass(frozen=True)
class Lens:
    """Intrinsics in pixels, OpenCV axes, with the centre of the top left pixel at (0, 0).

    Attributes:
        size: (W, H) of the calibrated images.
        focal: (fx, fy).
        center: (cx, cy), the principal point.
        skew: entry (0, 1) of K.
        distortion: OpenCV's k1, k2, p1, p2[, k3[, k4, k5, k6]], or k1..k4 of a fisheye; () is none.
        is_fisheye: whether the coefficients are of OpenCV's equidistant fisheye model.
    """

    size: tuple[int, int]
    focal: tuple[float, float]
    center: tuple[float, float]
    skew: float = 0.0
    distortion: tuple[float, ...] = ()
    is_fisheye: bool = False

    @property
    def matrix(self) -> np.ndarray:
        """Return the calibration matrix K, (3, 3) float64."""
        return np.array([[self.focal[0], self.skew, self.center[0]],
                         [0, self.focal[1], self.center[1]], [0, 0, 1.0]])

    @property
    def is_distorted(self) -> bool:
        """Return whether images must be resampled to become those of a pinhole camera."""
        return self.is_fisheye or any(self.distortion)

    def resized(self, size: tuple[int, int]) -> Lens:
        """Return the lens for images resized to (W, H); edges of the frame stay edges."""
        x, y = size[0] / self.size[0], size[1] / self.size[1]
        return replace(self, size=size, focal=(self.focal[0] * x, self.focal[1] * y),
                       center=((self.center[0] + 0.5) * x - 0.5, (self.center[1] + 0.5) * y - 0.5),
                       skew=self.skew * x)


@dataclass(frozen=True)
class CapturedView:
    """One photograph of a capture.

    `view` (4, 4) float64 is world to camera, OpenGL axes; `mask` may be None.
    """

    name: str
    image: Path
    view: np.ndarray
    lens: Lens
    mask: Path | None = None


@dataclass(frozen=True)
class Capture:
    """What a reader found: photographs, cameras and what the source states besides.

    Attributes:
        source: in words, what was read.
        root: the folder that file names are relative to.
        views: in the order of their names.
        points_world: (N, 3) float64 points of the scene, or None.
        model: (4, 4) object to world that the source states itself, or None.
        left_out: a line for each frame that was not taken, with the reason.
        least_foreground: smallest 8-bit value of a mask file that counts as object.
    """

    source: str
    root: Path
    views: tuple[CapturedView, ...]
    points_world: np.ndarray | None = None
    model: np.ndarray | None = None
    left_out: tuple[str, ...] = ()
    least_foreground: int = 128


def make_capture(source: str, root: Path, views: list[CapturedView], **more: Any) -> Capture:
    """Return a capture with its views sorted and named for files.

    Args:
        source: in words, what was read.
        root: the folder that file names are relative to.
        views: in any order.
        more: further attributes of `Capture`.
    Raises:
        SceneError: fewer views than can be learned from, or one photograph twice.
    """
    left_out = more.get("left_out", ())
    what = f"{source}; {len(left_out)} left out, the first: {left_out[0]}" if left_out else source
    check_num_views(root, len(views), what)
    views = sorted(views, key=lambda view: _order(view.name))
    names = file_names([view.name for view in views])
    views = [replace(view, name=name) for view, name in zip(views, names)]
    views.sort(key=lambda view: view.name)
    return Capture(source, root, tuple(views), **more)


def _order(name: str) -> list[tuple[bool, int, str]]:
    """Return a sorting key that compares the numbers in names as numbers."""
    numbered = [(whole_number(part), part) for part in re.split(r"([0-9]+)", name) if part]
    return [(number is None, number or 0, part if number is None else "")
            for number, part in numbered]


def file_names(names: list[str]) -> list[str]:
    """Return short file names that sort in the given order.

    The stems are kept where they differ and sort so, else they get a number in front. Long ones
    are cut: the files of a view have longer names than its photograph.
    """
    stems = [re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).stem)[:MAX_STEM] or "view"
             for name in names]
    if len(set(stems)) == len(stems) and sorted(stems) == stems:
        return stems
    digits = len(str(len(stems)))
    return [f"{i:0{max(3, digits)}d}_{stem}" for i, stem in enumerate(stems)]


def _text(pair: tuple[float, float]) -> str:
    """Return two numbers as they are read, of whatever type of numpy's they are."""
    return " and ".join(f"{float(number):g}" for number in pair)


def check_lens(lens: Lens, where: str) -> Lens:
    """Return the lens if a camera can have its numbers; raise SceneError otherwise."""
    numbers = np.array([*lens.focal, *lens.center, lens.skew, *lens.distortion], np.float64)
    longest = max(lens.size)
    if not 0 < min(lens.size) <= longest <= MAX_SIDE:
        raise SceneError(f"{where}: images of {lens.size[0]}x{lens.size[1]} pixels, need sides of "
                         f"1 to {MAX_SIDE}; calibrate again")
    if not np.isfinite(numbers).all():
        raise SceneError(f"{where}: intrinsics hold NaN or infinity, need finite numbers; "
                         "calibrate again")
    least, most = MIN_FOCAL_FACTOR * longest, MAX_FOCAL_FACTOR * longest
    if not least <= min(lens.focal) <= max(lens.focal) <= most:
        raise SceneError(f"{where}: focal lengths {_text(lens.focal)} for images of "
                         f"{lens.size[0]}x{lens.size[1]}, need {least:g} to {most:g} pixels; "
                         "calibrate again")
    if max(map(abs, (*lens.center, lens.skew))) > MAX_CENTER_FACTOR * longest:
        raise SceneError(f"{where}: principal point {_text(lens.center)} and skew "
                         f"{float(lens.skew):g} for images of {lens.size[0]}x{lens.size[1]}, "
                         f"need pixels within {MAX_CENTER_FACTOR * longest:g}; calibrate again")
    if any(abs(value) > MAX_DISTORTION for value in lens.distortion):
        raise SceneError(f"{where}: distortion {lens.distortion}, need OpenCV's coefficients; "
                         "calibrate again")
    return lens


def load_json(path: Path) -> dict:
    """Return the content of a JSON file that holds an object; raise SceneError otherwise."""
    content = read_json(path, error=SceneError)
    if not isinstance(content, dict):
        raise SceneError(f"{path}: holds a {type(content).__name__}, need an object with frames; "
                         "export it again")
    return content


def parse_numbers(words: list[str], count: int, where: str) -> list[float]:
    """Return exactly `count` finite numbers; raise SceneError otherwise."""
    try:
        numbers = [float(word) for word in words]
    except ValueError as problem:
        raise SceneError(f"{where}: {str(problem)[:200]}, need {count} numbers; export it "
                         "again") from problem
    if len(numbers) != count or not all(abs(number) <= MAX_COORDINATE for number in numbers):
        raise SceneError(f"{where}: {len(numbers)} numbers, or some not finite, need {count} "
                         f"finite ones up to {MAX_COORDINATE:g}; export it again")
    return numbers


def rigid_from_rotation(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Return the (4, 4) rigid matrix of a rotation (3, 3) and a translation (3,)."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, translation
    return out
