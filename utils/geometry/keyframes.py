"""A camera path as a file: the cameras that it passes, in order, as JSON.

    {"format": "camera-path", "version": 1,
     "keyframes": [{"object_to_camera": [[...], ...], "projection": [[...], ...],
                    "resolution": [800, 600]}, ...]}

`object_to_camera` is a rotation and a shift in object units, OpenGL axes; `projection` goes from
camera space to clip space, for a picture of the given width and height.
"""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.command_names import typed
from utils.errors import UserError
from utils.files.atomic import write_text_atomic
from utils.files.limits import MAX_COORDINATE, read_json, short
from utils.geometry.cameras import Cameras

FORMAT, VERSION = "camera-path", 1
MAX_KEYFRAMES = 1000
#: By how much rows of a stored rotation may differ from unit length and right angles.
ROTATION_TOLERANCE = 1e-3


class PathError(UserError):
    """A file of a camera path cannot be read."""


def rigid_from_object(cameras: Cameras) -> Cameras:
    """Return the same cameras straight from object space: rotation and shift, no scale."""
    scale = torch.diag(cameras.view.new_tensor([1 / cameras.model_scale] * 3 + [1.0]))
    return Cameras(scale @ cameras.object_to_camera, cameras.projection,
                   torch.eye(4).to(cameras.view), cameras.resolution)


def write_keyframes(path: str | Path, keyframes: Cameras) -> None:
    """Write keyframes of one size; WriteError where that is not possible."""
    write_text_atomic(path, keyframes_text(keyframes))


def keyframes_text(keyframes: Cameras, **facts: Any) -> str:
    """Return keyframes as the text of a file, with further entries that readers pass over."""
    rigid = rigid_from_object(keyframes)
    entries = [{"object_to_camera": view.tolist(), "projection": projection.tolist(),
                "resolution": list(rigid.resolution)}
               for view, projection in zip(rigid.view, rigid.projection, strict=True)]
    return json.dumps({"format": FORMAT, "version": VERSION, **facts, "keyframes": entries},
                      indent=1)


def read_keyframes(path: str | Path, like: Cameras) -> Cameras:
    """Return the keyframes of a file as cameras of a scene.

    Pictures keep their vertical angle of view; at other aspect ratios they show more or less at the
    sides.

    Args:
        path: of the file.
        like: cameras of the scene, whose model matrix and resolution the keyframes get.
    Raises:
        PathError: not such a file, or values that are no cameras.
    """
    content = read_json(Path(path), error=PathError)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise PathError(f"{path}: not a camera path, need a file that {typed('view')} saved")
    if content.get("version") != VERSION:
        raise PathError(f"{path}: a camera path of version {short(content.get('version'))}, need "
                        f"{VERSION}; update the program, or save the path again")
    entries = content.get("keyframes")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_KEYFRAMES:
        raise PathError(f"{path}: need a list of 1 to {MAX_KEYFRAMES:,} keyframes; save the path "
                        "again")
    views, projections = zip(*(_keyframe(entry, f"{path}: keyframes[{i}]", like.resolution)
                               for i, entry in enumerate(entries)), strict=True)
    model = like.model.double()
    to_camera = torch.stack(views) @ torch.linalg.inv(model)             # world to camera, scaled
    to_camera[:, :3] *= like.model_scale
    return Cameras(to_camera.to(like.view), torch.stack(projections).to(like.projection),
                   like.model, like.resolution)


def _keyframe(entry: Any, where: str, resolution: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return object to camera and projection (4, 4) float64 for pictures of this resolution."""
    if not isinstance(entry, dict):
        raise PathError(f"{where} is {short(entry)}, need a table; save the path again")
    view, projection = (_matrix(entry.get(key), f"{where}.{key}")
                        for key in ("object_to_camera", "projection"))
    product = view[:3, :3] @ view[:3, :3].T
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=view.dtype)
    if not (torch.allclose(product, torch.eye(3).double(), atol=ROTATION_TOLERANCE)
            and torch.linalg.det(view[:3, :3]) > 0 and torch.equal(view[3], bottom)):
        raise PathError(f"{where}.object_to_camera is no rotation and shift; save the path again")
    size = entry.get("resolution")
    if not (isinstance(size, list) and len(size) == 2
            and all(type(side) is int and 0 < side < 100_000 for side in size)):
        raise PathError(f"{where}.resolution is {short(size)}, need width and height")
    if min(projection[0, 0], projection[1, 1]) <= 0 or projection[3].tolist() != [0, 0, -1, 0]:
        raise PathError(f"{where}.projection is no perspective projection; save the path again")
    projection[0, :3] *= size[0] / size[1] * resolution[1] / resolution[0]
    return view, projection


def _matrix(rows: Any, where: str) -> Tensor:
    """Return a matrix (4, 4) float64 of finite numbers."""
    is_square = isinstance(rows, list) and len(rows) == 4 and all(
        isinstance(row, list) and len(row) == 4 for row in rows)
    numbers = [number for row in rows for number in row] if is_square else []
    if not is_square or not all(
            isinstance(number, int | float) and not isinstance(number, bool)
            and abs(number) <= MAX_COORDINATE for number in numbers):
        raise PathError(f"{where} is {short(rows)}, need 4 rows of 4 numbers; save the path again")
    return torch.tensor(rows, dtype=torch.float64)
