"""Files of image pairs with optical flow: `.flo`, `.pfm`, occlusion masks, images.

A flow field is (H, W, 2) float32 in pixels, x to the right and y down: the point that pixel (i, j)
shows is at (i + u, j + v) of the other image. Only a file's header is read before the size that it
states has been compared with the file's length.
"""
from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_processing.scenes.images import FORMATS, read_mask, read_rgb8
from utils.errors import SceneError
from utils.files.atomic import write_atomic
from utils.files.limits import MAX_PIXELS
from utils.results.pictures import save_png

FLO_MAGIC = 202021.25             # "PIEH" as a little-endian float
FLO_HEADER_BYTES = 12
#: A component beyond Middlebury's bound marks an unknown pixel; the value that is written for it.
UNKNOWN_BOUND, UNKNOWN_VALUE = 1e9, 1e10
#: Kind, width, height, a scale whose sign tells the order of bytes, then one blank.
PFM_HEADER = re.compile(rb"(P[fF])\s+(\d{1,9})\s+(\d{1,9})\s+"
                        rb"([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)(?:\r\n|\s)")
PFM_HEADER_BYTES = 256
IMAGE_FORMATS = (*FORMATS, "PPM")
#: Level from which on a pixel of an occlusion mask is occluded.
MIN_OCCLUDED = 128


@dataclass(frozen=True)
class FlowField:
    """The content of a flow file.

    Attributes:
        flow: (H, W, 2) float32, pixels; 0 where unknown.
        known_mask: (H, W) bool.
    """

    flow: np.ndarray
    known_mask: np.ndarray


def read_flo(path: Path) -> FlowField:
    """Read a Middlebury flow file; pixels with NaN or a component over 1e9 are unknown.

    Raises:
        SceneError: missing, no flow file, of an impossible size, or truncated.
    """
    head, length = _head_of(path, FLO_HEADER_BYTES, "a .flo file")
    if len(head) < FLO_HEADER_BYTES:
        raise SceneError(f"{path}: {len(head)} bytes, need a header of {FLO_HEADER_BYTES}; copy or "
                         "unpack the file again")
    magic = np.frombuffer(head, "<f4", 1)[0]
    if magic != np.float32(FLO_MAGIC):
        is_swapped = np.frombuffer(head, ">f4", 1)[0] == np.float32(FLO_MAGIC)
        found = "its bytes in big-endian order" if is_swapped else f"the magic number {magic:g}"
        raise SceneError(f"{path}: {found}, need {FLO_MAGIC} (PIEH), little-endian; give a "
                         "Middlebury .flo file")
    width, height = (int(side) for side in np.frombuffer(head, "<i4", 2, 4))
    _check_size(path, (width, height), 8, length - FLO_HEADER_BYTES)
    flow = _numbers_of(path, "<f4", FLO_HEADER_BYTES, (height, width, 2))
    with np.errstate(invalid="ignore"):
        known = np.all(np.abs(flow) <= UNKNOWN_BOUND, axis=-1)         # NaN compares as False
    return FlowField(np.where(known[..., None], flow, np.float32(0)), known)


def write_flo(path: Path, flow: np.ndarray, known_mask: np.ndarray | None = None) -> None:
    """Write a Middlebury flow file.

    Args:
        path: its folder is made where absent.
        flow: (H, W, 2), pixels.
        known_mask: (H, W) bool; other pixels are marked unknown. None: all are known.
    Raises:
        WriteError: it cannot be written.
    """
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise ValueError(f"flow is {flow.shape}, need (H, W, 2)")
    values = flow.astype("<f4")
    if known_mask is not None:
        values[~known_mask] = UNKNOWN_VALUE
    head = np.array([FLO_MAGIC], "<f4").tobytes() + np.array(flow.shape[1::-1], "<i4").tobytes()
    content = head + values.tobytes()
    write_atomic(path, lambda stream: stream.write(content), is_flushed=False)


def read_pfm(path: Path, num_channels: int = 1) -> np.ndarray:
    """Read a portable float map of either byte order; rows come from the top.

    Args:
        path: the file.
        num_channels: 1 (kind Pf) or 3 (kind PF).
    Returns:
        (H, W) or (H, W, 3) float32.
    Raises:
        SceneError: missing, no float map, of the other kind, of an impossible size, or truncated.
    """
    first, length = _head_of(path, PFM_HEADER_BYTES, "a .pfm file")
    head = PFM_HEADER.match(first)
    if head is None or float(head[4]) == 0:
        raise SceneError(f"{path}: begins with {first[:16]!r}, need a float map's header (Pf, "
                         "width and height, scale); give a .pfm file")
    channels = 3 if head[1] == b"PF" else 1
    if channels != num_channels:
        raise SceneError(f"{path}: {channels} channels ({head[1].decode()}), need {num_channels} "
                         f"({'PF' if num_channels == 3 else 'Pf'}); give the file of the right "
                         "kind, or write it again with that many")
    width, height = int(head[2]), int(head[3])
    _check_size(path, (width, height), 4 * channels, length - head.end())
    order = "<f4" if float(head[4]) < 0 else ">f4"
    shape = (height, width) if channels == 1 else (height, width, 3)
    return _numbers_of(path, order, head.end(), shape)[::-1].astype(np.float32)


def write_pfm(path: Path, values: np.ndarray) -> None:
    """Write (H, W) or (H, W, 3) as a little-endian float map; WriteError where that fails."""
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3):
        raise ValueError(f"values are {values.shape}, need (H, W) or (H, W, 3)")
    kind = "PF" if values.ndim == 3 else "Pf"
    head = f"{kind}\n{values.shape[1]} {values.shape[0]}\n-1\n".encode()
    content = head + values[::-1].astype("<f4").tobytes()
    write_atomic(path, lambda stream: stream.write(content), is_flushed=False)


def read_picture(path: Path) -> np.ndarray:
    """Read an image (H, W, 3) uint8 RGB; raise SceneError where it is not 8-bit RGB."""
    return read_rgb8(path, IMAGE_FORMATS)


def read_occlusion(path: Path) -> np.ndarray:
    """Read a mask (H, W) bool that is True where a point is hidden in the other image.

    Raises:
        SceneError: it cannot be read.
    """
    if path.suffix.lower() == ".pfm":
        return read_pfm(path) > 0.5
    return read_mask(path, least_foreground=MIN_OCCLUDED)


def write_occlusion(path: Path, occluded_mask: np.ndarray) -> None:
    """Write a mask (H, W) bool as a black and white RGB image, white where occluded."""
    levels = np.where(occluded_mask, 255, 0).astype(np.uint8)
    save_png(path, np.repeat(levels[..., None], 3, axis=2))


def _head_of(path: Path, num_bytes: int, what: str) -> tuple[bytes, int]:
    """Return the first bytes of a file, and its length; raise SceneError if it is unreadable."""
    if not path.is_file():
        raise SceneError(f"{path}: no such file, need {what}; copy it there")
    try:
        with open(path, "rb") as file:
            return file.read(num_bytes), path.stat().st_size
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror}), need {what}; fix its "
                         "permissions") from error


def _numbers_of(path: Path, dtype: str, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the numbers behind a header, once `_check_size` has found that there are enough."""
    try:
        return np.fromfile(path, dtype, math.prod(shape), offset=offset).reshape(shape)
    except (OSError, ValueError) as error:
        raise SceneError(f"{path}: cannot be read any more ({error}); copy it again") from error


def _check_size(path: Path, size: tuple[int, int], bytes_a_pixel: int, found: int) -> None:
    """Compare the size that a header states with the number of bytes that follow it."""
    width, height = size
    if not (0 < width and 0 < height and width * height <= MAX_PIXELS):
        raise SceneError(f"{path}: says that it is {width}x{height}, need 1 to {MAX_PIXELS:,} "
                         "pixels; the file is damaged, copy it again")
    needed = width * height * bytes_a_pixel
    if needed != found:
        kind = "truncated" if found < needed else "longer than its header says"
        raise SceneError(f"{path}: {kind}: {found} bytes after the header, need {needed} for "
                         f"{width}x{height} pixels; copy or unpack the file again")
