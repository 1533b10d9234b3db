"""Reader of COLMAP's sparse models, binary and text: cameras, poses and points.

Poses are world to camera with OpenCV axes; pixels count from the top left corner of the image.
Every count in a binary file is compared with the bytes that are left before memory is reserved for
it.
"""
from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile, islice
from pathlib import Path

import numpy as np

from data_processing.captures.capture import (
    Capture,
    CapturedView,
    Lens,
    check_lens,
    inside_folder,
    is_file,
    make_capture,
    parse_numbers,
    rigid_from_rotation,
)
from utils.errors import SceneError
from utils.files.limits import MAX_COLMAP_BYTES, MAX_COORDINATE, MAX_NAMED, check_size, each_line
from utils.geometry.cameras import OPENCV_TO_OPENGL

#: Where a project keeps its model (the first that exists counts), and its images.
MODEL_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", "dense/sparse", ".")
IMAGE_FOLDERS = ("images", "input", "image", "rgb", "dense/images", ".")
#: COLMAP's camera models: number, name, count of parameters.
MODELS = ((0, "SIMPLE_PINHOLE", 3), (1, "PINHOLE", 4), (2, "SIMPLE_RADIAL", 4), (3, "RADIAL", 5),
          (4, "OPENCV", 8), (5, "OPENCV_FISHEYE", 8), (6, "FULL_OPENCV", 12), (7, "FOV", 5),
          (8, "SIMPLE_RADIAL_FISHEYE", 4), (9, "RADIAL_FISHEYE", 5), (10, "THIN_PRISM_FISHEYE", 12),
          (11, "RAD_TAN_THIN_PRISM_FISHEYE", 16))
UNDISTORTABLE = ("FOV", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE")
#: Views that must have seen a point: those that fewer saw are more often wrong.
MIN_TRACK = 3
QUATERNION_TOLERANCE = 1e-2


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


def model_folder(folder: Path) -> Path | None:
    """Return the folder that holds cameras and images of a COLMAP model, or None."""
    for name in MODEL_FOLDERS:
        found = folder / name
        if any((found / f"cameras{end}").is_file() and (found / f"images{end}").is_file()
               for end in (".bin", ".txt")):
            return found
    return None


def read_colmap(folder: Path, image_folder: Path | None = None) -> Capture:
    """Read the cameras and points of a COLMAP project.

    Args:
        folder: the project, or the model's own folder.
        image_folder: of the photographs; None looks in the usual places.
    Raises:
        SceneError: something is missing, damaged or of a camera model without a pinhole form.
    """
    model = model_folder(folder)
    if model is None:
        raise SceneError(f"{folder}: no cameras.bin with images.bin, nor .txt, need a sparse "
                         "model; point --input at the project")
    end = ".bin" if (model / "cameras.bin").is_file() and (model / "images.bin").is_file() \
        else ".txt"
    cameras = (_binary_cameras if end == ".bin" else _text_cameras)(model / f"cameras{end}")
    poses = (_binary_poses if end == ".bin" else _text_poses)(model / f"images{end}")
    points_file = model / f"points3D{end}"
    points = None
    if points_file.is_file():
        points = (_binary_points if end == ".bin" else _text_points)(points_file)
    root = image_folder or _image_folder(folder, poses)
    views, left_out = [], []
    for pose in poses:
        where = f"{model / 'images'}{end}: {pose.name[:MAX_NAMED]}"
        if pose.camera not in cameras:
            raise SceneError(f"{where}: camera {pose.camera}, which is not in cameras{end}; export "
                             "the model again")
        image = inside_folder(root, pose.name, where)
        if not is_file(image):
            left_out.append(f"{pose.name[:MAX_NAMED]}: no such file in {root}")
            continue
        views.append(CapturedView(pose.name, image, pose.view, cameras[pose.camera]))
    return make_capture(f"COLMAP model ({model}, {'binary' if end == '.bin' else 'text'})", folder,
                        views, points_world=points if points is not None and len(points) else None,
                        left_out=tuple(left_out))


def _image_folder(folder: Path, poses: list[Pose]) -> Path:
    """Return the usual place that has most of the photographs."""
    places = [folder / name for name in IMAGE_FOLDERS]
    places += [place.parent / name for place in (folder, folder.parent) for name in ("images",)]
    found = [sum(is_file(place / pose.name) for pose in poses) for place in places]
    if not poses or not max(found):
        raise SceneError(f"{folder}: none of the model's {len(poses)} images found in "
                         f"{', '.join(IMAGE_FOLDERS[:3])}, need them in images/; copy them there")
    return places[int(np.argmax(found))]


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
    if abs(length - 1) > QUATERNION_TOLERANCE \
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
    return out


def _text_poses(path: Path) -> list[Pose]:
    """Return the poses of images.txt, in which every other line lists an image's points."""
    out = []
    lines = dropwhile(lambda numbered: not numbered[1], _content(path))
    for number, line in islice(lines, 0, None, 2):
        if not line:
            continue
        where = f"{path}: line {number}"
        words = line.split(maxsplit=9)
        if len(words) < 10:
            raise SceneError(f"{where}: {len(words)} words, need ID QW QX QY QZ TX TY TZ CAMERA "
                             "NAME; export the model again")
        numbers = parse_numbers(words[:9], 9, where)
        out.append(_pose(words[9], int(numbers[8]), numbers[1:8], where))
    return out


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
