"""Reader of Middlebury's `*_par.txt` (Seitz et al. 2006): a line for each photograph.

    NAME.png k11 k12 k13 k21 k22 k23 k31 k32 k33 r11 ... r33 t1 t2 t3

A point X of the world is seen at K (R X + t), pixels, OpenCV axes.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from data_processing.captures.capture import (
    Capture,
    CapturedView,
    Lens,
    check_lens,
    make_capture,
    parse_numbers,
    rigid_from_rotation,
)
from data_processing.captures.paths import find_file
from data_processing.scenes.folder import check_rigid
from data_processing.scenes.images import image_size
from utils.errors import SceneError
from utils.files.limits import MAX_CAMERA_TEXT_BYTES, MAX_NAMED, each_line
from utils.geometry.cameras import OPENCV_TO_OPENGL

PATTERN = "*_par.txt"
NUM_VALUES = 21                   # of a line: K, rotation and translation


def par_file(folder: Path) -> Path | None:
    """Return the folder's parameter file, or None; raise SceneError for several."""
    found = sorted(folder.glob(PATTERN))
    if len(found) > 1:
        raise SceneError(f"{folder}: {len(found)} files {PATTERN} ({found[0].name}, "
                         f"{found[1].name}), need one; move the others elsewhere")
    return found[0] if found else None


def read_middlebury(folder: Path) -> Capture:
    """Read the cameras of a folder with `*_par.txt`.

    Photographs that are missing are left out and listed.

    Raises:
        SceneError: a line is damaged; the message names file and line.
    """
    path = par_file(folder)
    if path is None:
        raise SceneError(f"{folder}: no file {PATTERN}, need one; copy it there")
    views, left_out = [], []
    for number, line in each_line(path, MAX_CAMERA_TEXT_BYTES, error=SceneError):
        words = line.split()
        if len(words) < 2:                                # the first line has the count alone
            continue
        image = find_file(folder, words[0], f"{path}: line {number}")
        if image is None:
            left_out.append(f"{words[0][:MAX_NAMED]}: no such file")
            continue
        views.append(_read_line(words, image, f"{path}: line {number} ({words[0][:MAX_NAMED]})"))
    return make_capture(f"{path.name} (Middlebury)", folder, views, left_out=tuple(left_out))


def _read_line(words: list[str], image: Path, where: str) -> CapturedView:
    """Return the view of one line."""
    numbers = np.array(parse_numbers(words[1:], NUM_VALUES, where))
    k, rotation, translation = numbers[:9].reshape(3, 3), numbers[9:18].reshape(3, 3), numbers[18:]
    if k[2, 2] == 0 or np.abs(np.tril(k / k[2, 2], -1)).max() > 1e-9:
        raise SceneError(f"{where}: K is {k.tolist()}, need an upper triangular matrix; export it "
                         "again")
    k = k / k[2, 2]
    lens = check_lens(Lens(image_size(image), (k[0, 0], k[1, 1]), (k[0, 2], k[1, 2]), k[0, 1]),
                      where)
    rigid = check_rigid(rigid_from_rotation(rotation, translation), where)
    return CapturedView(image.name, image, OPENCV_TO_OPENGL.double().numpy() @ rigid, lens)
