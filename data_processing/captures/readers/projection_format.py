"""Reader of cameras as text, a file for each photograph, as academic data sets and MVS tools do.

Two contents are read. A 3x4 matrix K[R|t] (or 4x4), perhaps below a line CONTOUR, as PMVS has it:

    CONTOUR
    p11 p12 p13 p14
    p21 p22 p23 p24
    p31 p32 p33 p34

and MVSNet's words `extrinsic`, a 4x4 matrix, `intrinsic`, K. Pixels count from the centre of the
first one, axes are OpenCV's.
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
)
from data_processing.captures.paths import IMAGE_SUFFIXES, file_named
from data_processing.scenes.folder import (
    check_matrix,
    check_rigid,
    decompose_projection,
    is_unit_intrinsics,
    list_files,
)
from data_processing.scenes.images import image_size
from utils.errors import SceneError
from utils.files.limits import MAX_CAMERA_TEXT_BYTES, read_text
from utils.geometry.cameras import OPENCV_TO_OPENGL

IMAGE_FOLDERS = ("images", "image", "rgb", "visualize", "blended_images", ".")
MATRIX_FOLDERS = ("txt", "calib", "calibration", "cameras", "camera", "cams", "cam", "proj",
                  "projection", "matrices", "P", ".")
#: What follows the photograph's stem.
MATRIX_ENDS = (".txt", "_P.txt", ".P", "_cam.txt", "_proj.txt", ".proj")
HEADER, PARAMETERS_HEADER, MVSNET_HEADER = "CONTOUR", "CONTOUR2", "extrinsic"


def matrix_files(folder: Path) -> list[tuple[Path, Path | None]]:
    """Return photographs with their files of cameras; empty where two have none that look so."""
    for name in IMAGE_FOLDERS:
        images = list_files(folder / name, IMAGE_SUFFIXES)
        pairs = [(image, _matrix_file(folder, image)) for image in images]
        files = [file for _, file in pairs if file is not None]
        if len(files) >= 2 and any(map(_looks_like_a_camera, files[:2])):
            return pairs
    return []


def _matrix_file(folder: Path, image: Path) -> Path | None:
    """Return the file of a photograph's camera, or None."""
    for place in (*(folder / name for name in MATRIX_FOLDERS), image.parent):
        for end in MATRIX_ENDS:
            found = file_named(place, image.stem + end)
            if found is not None:
                return found
    return None


def _looks_like_a_camera(path: Path) -> bool:
    """Return whether a text file begins with a word of a header, or holds 12 or 16 words."""
    try:
        words = read_text(path, MAX_CAMERA_TEXT_BYTES, error=SceneError).split()
    except SceneError:
        return False
    return bool(words) and (words[0] in (HEADER, PARAMETERS_HEADER, MVSNET_HEADER)
                            or len(words) in (12, 16) and _is_number(words[0]))


def _is_number(word: str) -> bool:
    """Return whether a word is a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_matrices(folder: Path) -> Capture:
    """Read photographs with a text file of the camera each.

    Photographs without one are left out and listed.

    Raises:
        SceneError: a file is damaged or of another content; the message names it.
    """
    pairs = matrix_files(folder)
    if not pairs:
        raise SceneError(f"{folder}: no photographs with 3x4 matrices as text, need NAME.txt for "
                         "NAME.png beside it or in txt/, calib/ or cameras/; copy them there")
    views = [_read_view(folder, image, file) for image, file in pairs if file is not None]
    left_out = tuple(f"{image.name}: no file of its camera" for image, file in pairs
                     if file is None)
    return make_capture("photographs with a camera matrix each, as text", folder, views,
                        left_out=left_out)


def _read_view(folder: Path, image: Path, file: Path) -> CapturedView:
    """Return the view of a photograph and the file of its camera."""
    words, where = read_text(file, MAX_CAMERA_TEXT_BYTES, error=SceneError).split(), str(file)
    if words and words[0] == PARAMETERS_HEADER:
        raise SceneError(f"{file}: {PARAMETERS_HEADER}, which holds parameters, need the matrix "
                         f"below {HEADER}; export projection matrices")
    k, pose = _mvsnet_camera(words, where) if words and words[0] == MVSNET_HEADER else \
        _matrix_camera(words, where)
    k = k / k[2, 2]
    lens = check_lens(Lens(image_size(image), (k[0, 0], k[1, 1]), (k[0, 2], k[1, 2]), k[0, 1]),
                      where)
    return CapturedView(str(image.relative_to(folder)), image,
                        OPENCV_TO_OPENGL.double().numpy() @ pose, lens)


def _matrix_camera(words: list[str], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return K (3, 3) up to scale and the pose (4, 4) of a matrix of 12 or 16 numbers.

    Such a matrix is known up to its sign: that one is taken which places points in front.
    """
    words = words[1:] if words and words[0] == HEADER else words
    count = 16 if len(words) == 16 else 12
    matrix = np.eye(4)
    matrix[:3] = np.reshape(parse_numbers(words, count, where)[:12], (3, 4))
    if np.linalg.det(matrix[:3, :3]) < 0:
        matrix[:3] *= -1
    k, pose = decompose_projection(matrix, where)
    if is_unit_intrinsics(k):
        raise SceneError(f"{where}: a rotation and a translation without K, need K[R|t] in pixels; "
                         "multiply them by the calibration matrix")
    return k, pose


def _mvsnet_camera(words: list[str], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return K (3, 3) and the pose (4, 4) of MVSNet's two matrices; depths below do not count."""
    if len(words) < 27 or words[17] != "intrinsic":
        raise SceneError(f"{where}: {len(words)} words, need 'extrinsic', 16 numbers, 'intrinsic' "
                         "and 9 numbers; export it again")
    pose = check_rigid(np.reshape(parse_numbers(words[1:17], 16, where), (4, 4)), where)
    k = check_matrix(np.reshape(parse_numbers(words[18:27], 9, where), (3, 3)), where, (3, 3))
    if k[2, 2] == 0:
        raise SceneError(f"{where}: K is {k.tolist()}, need an upper triangular matrix; export it "
                         "again")
    return k, pose
