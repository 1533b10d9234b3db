"""Reader of Polycam's raw export: keyframes/images/ and keyframes/cameras/, a JSON file each.

Entries t_00 to t_23 are camera to world with OpenGL axes; fx, fy, cx, cy are pixels that count from
the top left corner. `corrected_images` and `corrected_cameras`, which the app computes from loops,
are read instead where they are there.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from data_processing.captures.capture import (
    Capture,
    CapturedView,
    Lens,
    check_lens,
    load_json,
    make_capture,
)
from data_processing.captures.paths import IMAGE_SUFFIXES, file_named
from data_processing.scenes.folder import check_rigid, list_files
from data_processing.scenes.images import image_size
from utils.errors import SceneError
from utils.files.limits import MAX_COORDINATE, short

KEYFRAMES = "keyframes"
#: Folders of photographs and cameras; the first pair is read that has two of each.
PAIRS = (("corrected_images", "corrected_cameras"), ("images", "cameras"))


def polycam_folders(folder: Path) -> tuple[Path, Path] | None:
    """Return the folders of photographs and of cameras, or None where this is no such export."""
    for base in (folder / KEYFRAMES, folder):
        for images, cameras in PAIRS:
            files = list_files(base / cameras, (".json",))
            if (len(files) >= 2 and len(list_files(base / images, IMAGE_SUFFIXES)) >= 2
                    and (base != folder or _is_camera(files[0]))):
                return base / images, base / cameras
    return None


def _is_camera(path: Path) -> bool:
    """Return whether a JSON file holds a camera of this format."""
    try:
        return "t_00" in load_json(path)
    except SceneError:
        return False


def read_polycam(folder: Path) -> Capture:
    """Read the cameras of a raw export; photographs without a camera are left out and listed.

    Raises:
        SceneError: a file is damaged or lacks an entry; the message names it.
    """
    places = polycam_folders(folder)
    if places is None:
        raise SceneError(f"{folder}: no {KEYFRAMES}/images with {KEYFRAMES}/cameras, need the raw "
                         "data of Polycam; export it again as 'Raw Data' and unzip it")
    images, cameras = places
    views, left_out = [], []
    for image in list_files(images, IMAGE_SUFFIXES):
        path = file_named(cameras, f"{image.stem}.json")
        if path is None:
            left_out.append(f"{image.name}: no {cameras.name}/{image.stem}.json")
        else:
            views.append(_view(folder, image, path))
    return make_capture(f"Polycam, raw export ({cameras.name})", folder, views,
                        left_out=tuple(left_out))


def _view(folder: Path, image: Path, path: Path) -> CapturedView:
    """Return the view of one photograph and its camera's file."""
    content = load_json(path)

    def number(key: str, default: float | None = None) -> float:
        """Return the number of a key; raise SceneError where it is missing or something else."""
        value = content.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or \
                not abs(value) <= MAX_COORDINATE:
            raise SceneError(f"{path}: {key} is {short(value)}, need a number; export the raw data "
                             "again")
        return float(value)

    to_world = np.eye(4)
    to_world[:3] = [[number(f"t_{row}{column}") for column in range(4)] for row in range(3)]
    width, height = image_size(image)
    size = (round(number("width", width)), round(number("height", height)))
    lens = check_lens(Lens(size, (number("fx"), number("fy")),
                           (number("cx") - 0.5, number("cy") - 0.5)), str(path))
    return CapturedView(str(image.relative_to(folder)), image,
                        np.linalg.inv(check_rigid(to_world, f"{path}: t_00 to t_23",
                                                  is_to_world=True)), lens)
