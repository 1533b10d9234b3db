"""Reader of `transforms.json`: nerfstudio, instant-ngp and NeRF's synthetic scenes.

A frame's `transform_matrix` is camera to world with OpenGL axes. Intrinsics stand in the frame or
outside all frames, in pixels that count from the top left corner; `camera_angle_x` is the
horizontal field of view.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_processing.captures.capture import (
    Capture,
    CapturedView,
    Lens,
    check_lens,
    load_json,
    make_capture,
)
from data_processing.captures.paths import find_file, find_image, inside_folder, is_file
from data_processing.scenes.folder import check_rigid
from data_processing.scenes.images import image_size
from data_processing.scenes.normalization import load_ply_points
from utils.errors import SceneError
from utils.files.limits import MAX_COORDINATE, MAX_FRAMES, MAX_NAMED, short

TRANSFORMS = "transforms.json"
#: NeRF's synthetic scenes split their frames into these files, which are read as one capture.
SPLIT_FILES = ("transforms_train.json", "transforms_val.json", "transforms_test.json")
PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
FISHEYES = ("OPENCV_FISHEYE", "FISHEYE")
LAST_ROW = [0.0, 0.0, 0.0, 1.0]


def transforms_files(folder: Path) -> list[Path]:
    """Return the files to read: transforms.json, else those of a split scene, else none."""
    if (folder / TRANSFORMS).is_file():
        return [folder / TRANSFORMS]
    return [folder / name for name in SPLIT_FILES if (folder / name).is_file()]


def read_transforms(folder: Path) -> Capture:
    """Read the cameras of a folder with `transforms.json`.

    Frames whose image is missing, and further frames of an image, are left out and listed.

    Raises:
        SceneError: a file is damaged or lacks what is needed; the message names file and frame.
    """
    views, left_out, points = [], [], None
    taken: set[Path] = set()
    for path in transforms_files(folder):
        content = load_json(path)
        for index, frame in enumerate(_frames(content, path)):
            where = f"{path}: frame {index}"
            image = find_image(folder, frame.get("file_path"), f"{where}, file_path")
            if image is None or image in taken:
                why = "no such file" if image is None else "it is listed twice"
                left_out.append(f"{frame['file_path'][:MAX_NAMED]}: {why}")
                continue
            taken.add(image)
            views.append(_read_frame(content, frame, image, folder=folder, where=where))
        if content.get("ply_file_path") is not None:
            points = _read_points(inside_folder(folder, content["ply_file_path"],
                                                f"{path}: ply_file_path"), left_out)
    return make_capture("transforms.json (nerfstudio, instant-ngp)", folder, views,
                        points_world=points, left_out=tuple(left_out))


def _frames(content: dict, path: Path) -> list[dict]:
    """Return the frames of a file's content; raise SceneError where they are no list of objects."""
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames or len(frames) > MAX_FRAMES:
        found = f"{len(frames)} of them" if isinstance(frames, list) else f"{type(frames).__name__}"
        raise SceneError(f"{path}: frames is {found}, need a list of 1 to {MAX_FRAMES:,} frames; "
                         "export it again")
    for index, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise SceneError(f"{path}: frame {index} is a {type(frame).__name__}, need an object "
                             "with file_path and transform_matrix; export it again")
    return frames


def _read_frame(content: dict, frame: dict, image: Path, *, folder: Path,
                where: str) -> CapturedView:
    """Return the view of a frame, whose own entries take precedence over those for all frames."""
    matrix = frame.get("transform_matrix")
    if matrix is None:
        raise SceneError(f"{where}: no transform_matrix, need camera to world (4, 4); export it "
                         "again or take the frame out")
    to_world = check_rigid(_square(matrix), f"{where}, transform_matrix", is_to_world=True)
    mask = frame.get("mask_path")
    if mask is not None:
        stated = inside_folder(folder, mask, f"{where}, mask_path")
        mask = find_file(folder, mask, f"{where}, mask_path")
        if mask is None:
            raise SceneError(f"{stated}: no such mask ({where}, mask_path), need it; add it, or "
                             "take mask_path out of every frame")
    stated = {key: value for key, value in frame.items() if value is not None}
    lens = _lens({**content, **stated}, image, where)
    return CapturedView(str(image.relative_to(folder)), image, np.linalg.inv(to_world), lens, mask)


def _square(matrix: Any) -> Any:
    """Return a matrix of three rows with its fourth, and a flat list of 16 as four rows.

    The list goes row by row or, as some apps write it, column by column: the place of 0 0 0 1
    tells. Anything else is returned as it is.
    """
    if not isinstance(matrix, list):
        return matrix
    if len(matrix) == 16 and not any(isinstance(value, list) for value in matrix):
        rows = [matrix[first:first + 4] for first in range(0, 16, 4)]
        columns = [list(column) for column in zip(*rows)]
        return columns if columns[3] == LAST_ROW != rows[3] else rows
    return [*matrix, LAST_ROW] if len(matrix) == 3 else matrix


def _lens(values: Mapping[str, Any], image: Path, where: str) -> Lens:
    """Return the lens of one frame; sizes that are not stated are those of the image."""
    def number(key: str, default: float) -> float:
        """Return the number of a key; raise SceneError where it is something else."""
        value = values.get(key)
        value = default if value is None else value          # null: not given
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise SceneError(f"{where}: {key} is {short(value)}, need a number; export it again")
        return float(value) if abs(value) <= MAX_COORDINATE else math.nan

    model = str(values.get("camera_model") or "OPENCV")[:100].upper()
    if model not in (*PINHOLES, *FISHEYES):
        raise SceneError(f"{where}: camera_model {model}, need one of "
                         f"{', '.join((*PINHOLES, *FISHEYES))}; undistort the images with the tool "
                         "that calibrated them")
    actual = image_size(image)
    size = (number("w", actual[0]), number("h", actual[1]))
    if not all(math.isfinite(side) for side in size):
        raise SceneError(f"{where}: images of {size} pixels, need finite sizes; export it again")
    width, height = (round(side) for side in size)
    fx = number("fl_x", _focal(number("camera_angle_x", 0), width))
    fy = number("fl_y", _focal(number("camera_angle_y", 0), height) or fx)
    if fx == 0:
        raise SceneError(f"{where}: neither fl_x nor camera_angle_x, need the focal length; "
                         "export it again")
    is_fisheye = model in FISHEYES or bool(values.get("is_fisheye", False))
    keys = ("k1", "k2", "k3", "k4") if is_fisheye else ("k1", "k2", "p1", "p2", "k3", "k4")
    distortion = [number(key, 0) for key in keys]
    if not is_fisheye and distortion.pop():
        raise SceneError(f"{where}: k4 is not 0, need OpenCV's coefficients, which have no such "
                         "term; undistort the images with the tool that calibrated them")
    center = (number("cx", width / 2) - 0.5, number("cy", height / 2) - 0.5)
    return check_lens(Lens((width, height), (fx, fy), center, 0.0, tuple(distortion), is_fisheye),
                      where)


def _focal(angle: float, side: int) -> float:
    """Return the focal length in pixels of a field of view in radians; 0 where there is none."""
    return side / 2 / math.tan(angle / 2) if 0 < angle < math.pi else 0.0


def _read_points(path: Path, left_out: list[str]) -> np.ndarray | None:
    """Return the points (N, 3) of a PLY file, or None where it is absent."""
    if not is_file(path):
        left_out.append(f"{path.name}: no such file of points")
        return None
    return load_ply_points(path)
