"""The files of COLMAP's sparse models, binary and text: cameras, poses and points.

Poses are world to camera with OpenCV axes; pixels count from the top left corner of the image.
Every count in a binary file is compared with the bytes that are left before memory is reserved for
it.
"""
from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np

from data_processing.captures.capture import (
    Lens,
    check_lens,
    parse_numbers,
    rigid_from_rotation,
)
from data_processing.scenes.folder import whole_number
from utils.errors import SceneError
from utils.files.limits import MAX_COLMAP_BYTES, MAX_COORDINATE, check_size, each_line
from utils.geometry.cameras import OPENCV_TO_OPENGL

#: COLMAP's camera models: number, name, count of parameters.
MODELS = ((0, "SIMPLE_PINHOLE", 3), (1, "PINHOLE", 4), (2, "SIMPLE_RADIAL", 4), (3, "RADIAL", 5),
          (4, "OPENCV", 8), (5, "OPENCV_FISHEYE", 8), (6, "FULL_OPENCV", 12), (7, "FOV", 5),
          (8, "SIMPLE_RADIAL_FISHEYE", 4), (9, "RADIAL_FISHEYE", 5), (10, "THIN_PRISM_FISHEYE", 12),
          (11, "RAD_TAN_THIN_PRISM_FISHEYE", 16))
UNDISTORTABLE = ("FOV", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE")
#: Views that must have seen a point: those that fewer saw are more often wrong.
MIN_TRACK = 3
QUATERNION_TOLERANCE = 1e-2
#: The comment of a text file that states how many records follow.
COUNT_COMMENT = re.compile(r"#\s*Number of (cameras|images|points):\s*([0-9]{1,12})\b")
#: The two forms of a model's files.
BINARY, TEXT = ".bin", ".txt"


@dataclass(frozen=True)
class Pose:
    """The pose of one photograph: `view` (4, 4) is world to camera, OpenGL axes."""

    name: str
    camera: int
    view: np.ndarray


class _Bytes:
    """Reads a binary file from front to end, never beyond its end."""

    def __init__(self, path: Path) -> None:
        check_size(path, MAX_COLMAP_BYTES, "thin the model out", error=SceneError)
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def take(self, form: str) -> tuple:
        """Return the next little-endian numbers; `form` is a format of `struct`."""
        size = struct.calcsize("<" + form)
        self.need(size)
        self.at += size
        return struct.unpack_from("<" + form, self.data, self.at - size)

    def skip(self, size: int) -> None:
        """Skip bytes that nobody needs."""
        self.need(size)
        self.at += size

    def need(self, size: int) -> None:
        """Raise SceneError where fewer bytes are left."""
        if size < 0 or self.at + size > len(self.data):
            raise SceneError(f"{self.path}: ends at byte {len(self.data)}, need "
                             f"{self.at + size:,}; the file is truncated or not COLMAP's, copy it "
                             "again")

    def count(self, least_size: int) -> int:
        """Return the next number of records, each of at least `least_size` bytes."""
        (number,) = self.take("Q")
        self.need(number * least_size)
        return number

    def word(self, longest: int = 4096) -> str:
        """Return the text up to the next zero byte."""
        end = self.data.find(b"\0", self.at, self.at + longest)
        if end < 0:
            raise SceneError(f"{self.path}: a name without an end at byte {self.at}; the file is "
                             "damaged, copy it again")
        text = self.data[self.at:end].decode("utf-8", errors="replace")
        self.at = end + 1
        return text


def forms_in(folder: Path) -> list[str]:
    """Return the forms, BINARY first, in which a folder has cameras and images of a model."""
    return [end for end in (BINARY, TEXT)
            if (folder / f"cameras{end}").is_file() and (folder / f"images{end}").is_file()]


def read_cameras(folder: Path, end: str) -> dict[int, Lens]:
    """Return the lenses of a model by camera number; `end` is its form."""
    return (_binary_cameras if end == BINARY else _text_cameras)(folder / f"cameras{end}")


def read_poses(folder: Path, end: str) -> list[Pose]:
    """Return the poses of a model; `end` is its form."""
    return (_binary_poses if end == BINARY else _text_poses)(folder / f"images{end}")


def read_points(folder: Path, end: str) -> np.ndarray | None:
    """Return the points (N, 3) of a model that enough views saw; None where it has none."""
    path = folder / f"points3D{end}"
    if not path.is_file():
        return None
    points = (_binary_points if end == BINARY else _text_points)(path)
    return points if len(points) else None


def lens_of(model: str, size: tuple[int, int], values: list[float], where: str) -> Lens:
    """Return COLMAP's camera parameters as a lens.

    Raises:
        SceneError: a model that OpenCV's pinhole and fisheye forms cannot express.
    """
    if model in UNDISTORTABLE or model not in {name for _, name, _ in MODELS}:
        raise SceneError(f"{where}: camera model {model}, need a pinhole or OpenCV form; run "
                         "colmap image_undistorter and import its result")
    needed = next(count for _, name, count in MODELS if name == model)
    if len(values) != needed:
        raise SceneError(f"{where}: {len(values)} parameters of {model}, need {needed}; export "
                         "the model again")
    shared = model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE",
                       "RADIAL_FISHEYE")
    focal = (values[0], values[0]) if shared else (values[0], values[1])
    cx, cy, *rest = values[1:] if shared else values[2:]
    is_fisheye = model.endswith("FISHEYE")
    if is_fisheye:
        rest = [*rest, 0.0, 0.0, 0.0][:4]
    elif rest:
        rest = [*rest, 0.0, 0.0, 0.0][:4] if len(rest) < 4 else rest
    return check_lens(Lens(size, focal, (cx - 0.5, cy - 0.5), 0.0, tuple(rest), is_fisheye), where)


def _pose(name: str, camera: int, numbers: list[float], where: str) -> Pose:
    """Return the pose of 7 numbers: quaternion (w, x, y, z) and translation."""
    quaternion, translation = np.array(numbers[:4]), np.array(numbers[4:])
    length = np.linalg.norm(quaternion)
    if not abs(length - 1) <= QUATERNION_TOLERANCE \
            or not (np.abs(translation) <= MAX_COORDINATE).all():
        raise SceneError(f"{where}: quaternion {quaternion.tolist()} and translation "
                         f"{translation.tolist()}, need a unit quaternion and finite numbers; "
                         "export the model again")
    w, x, y, z = quaternion / length
    rotation = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]])
    view = OPENCV_TO_OPENGL.double().numpy() @ rigid_from_rotation(rotation, translation)
    return Pose(name, camera, view)


def _binary_cameras(path: Path) -> dict[int, Lens]:
    """Return the lenses of cameras.bin by camera number."""
    stream, out = _Bytes(path), {}
    by_number = {number: (name, count) for number, name, count in MODELS}
    for _ in range(stream.count(24)):
        key, number, width, height = stream.take("iiQQ")
        if number not in by_number:
            raise SceneError(f"{path}: camera {key} is of model number {number}, need 0 to "
                             f"{MODELS[-1][0]}; run colmap image_undistorter and import its result")
        name, count = by_number[number]
        values = list(stream.take(f"{count}d"))
        out[key] = lens_of(name, (width, height), values, f"{path}: camera {key}")
    return out


def _binary_poses(path: Path) -> list[Pose]:
    """Return the poses of images.bin."""
    stream, out = _Bytes(path), []
    for _ in range(stream.count(73)):
        key, *numbers, camera = stream.take("i7di")
        name = stream.word()
        (num_points,) = stream.take("Q")
        stream.skip(num_points * 24)
        out.append(_pose(name, camera, numbers, f"{path}: image {key}"))
    return out


def _binary_points(path: Path) -> np.ndarray:
    """Return the finite points (N, 3) of points3D.bin that enough views saw."""
    stream, out = _Bytes(path), array("d")
    for _ in range(stream.count(51)):
        _, *place, _, _, _, _, length = stream.take("Q3d3BdQ")
        stream.skip(length * 8)
        if length >= MIN_TRACK:
            out.extend(place)
    return _finite(out)


def _content(path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines without comments; blank lines stay, as an image may have no points."""
    for number, line in each_line(path, MAX_COLMAP_BYTES, error=SceneError):
        if not line.startswith("#"):
            yield number, line.strip()


def _check_count(path: Path, count: int) -> None:
    """Raise SceneError where the comments at the top of a text file state another count."""
    for _, line in takewhile(lambda numbered: numbered[1].startswith("#"),
                             each_line(path, MAX_COLMAP_BYTES, error=SceneError)):
        stated = COUNT_COMMENT.match(line)
        if stated and int(stated[2]) != count:
            raise SceneError(f"{path}: its head states {int(stated[2])} {stated[1]}, {count} "
                             "follow, need as many; the file is truncated or was edited: export "
                             "the model again, or correct the number")


def _text_cameras(path: Path) -> dict[int, Lens]:
    """Return the lenses of cameras.txt by camera number."""
    out = {}
    for number, line in _content(path):
        words = line.split()
        if not words:
            continue
        where = f"{path}: line {number}"
        if len(words) < 5:
            raise SceneError(f"{where}: {len(words)} words, need ID MODEL WIDTH HEIGHT PARAMETERS; "
                             "export the model again")
        key, width, height = parse_numbers([words[0], words[2], words[3]], 3, where)
        values = parse_numbers(words[4:], len(words) - 4, where)
        out[int(key)] = lens_of(words[1], (int(width), int(height)), values, where)
    _check_count(path, len(out))
    return out


def _text_poses(path: Path) -> list[Pose]:
    """Return the poses of images.txt, each followed by a line of the image's points.

    Some tools leave that line out where there are no points, others leave it empty.
    """
    out: list[Pose] = []
    may_be_points = False
    for number, line in _content(path):
        if not line or (may_be_points and _is_points(line)):
            may_be_points = False
            continue
        where = f"{path}: line {number}"
        words = line.split(maxsplit=9)
        if len(words) < 10:
            raise SceneError(f"{where}: {len(words)} words, need ID QW QX QY QZ TX TY TZ CAMERA "
                             "NAME; export the model again")
        numbers = parse_numbers(words[:9], 9, where)
        out.append(_pose(words[9], int(numbers[8]), numbers[1:8], where))
        may_be_points = True
    _check_count(path, len(out))
    return out


def _is_points(line: str) -> bool:
    """Return whether a line lists points, X Y ID each, and is not a pose that ends in a name."""
    words = line.split()
    return len(words) % 3 == 0 and whole_number(words[-1].removeprefix("-")) is not None


def _text_points(path: Path) -> np.ndarray:
    """Return the finite points (N, 3) of points3D.txt that enough views saw."""
    out = array("d")
    for number, line in _content(path):
        words = line.split()
        if not words:
            continue
        if len(words) >= 8 + 2 * MIN_TRACK:
            out.extend(parse_numbers(words[1:4], 3, f"{path}: line {number}"))
    return _finite(out)


def _finite(coordinates: array) -> np.ndarray:
    """Return the points (N, 3) of a flat list whose coordinates are finite."""
    points = np.frombuffer(coordinates, np.float64).reshape(-1, 3) if coordinates \
        else np.empty((0, 3))
    with np.errstate(invalid="ignore"):
        return points[(np.abs(points) <= MAX_COORDINATE).all(1)]
