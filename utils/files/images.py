"""Image files opened by Pillow: few formats, a bounded number of pixels, one kind of error."""
from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from utils.errors import UserError
from utils.files import limits

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FORMATS = ("PNG", "JPEG")
#: How files of other formats begin, and the brands of those in ISO containers.
FOREIGN_STARTS = ((b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"BM", "BMP"), (b"GIF8", "GIF"),
                  (b"P2", "PGM"), (b"P3", "PPM"), (b"P5", "PGM"), (b"P6", "PPM"),
                  (b"\0\0\0\x0cjP  ", "JPEG 2000"), (b"v/1\x01", "EXR"), (b"8BPS", "PSD"))
FOREIGN_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"avif": "AVIF"}
#: What Pillow raises for damaged files, its own slips included.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError,
          AttributeError, ArithmeticError, AssertionError, RuntimeError, MemoryError, struct.error,
          zlib.error)


@contextmanager
def open_image(path: Path, *, decode: bool = True, formats: tuple[str, ...] = FORMATS,
               error: type[UserError]) -> Iterator[Image.Image]:
    """Open, and wholly decode, an image file by Pillow.

    Args:
        path: the file.
        decode: False: only its head is read.
        formats: Pillow's names of the formats that are admitted.
        error: class of the error that is raised.
    Raises:
        error: missing, of no pixels or more than `limits.MAX_PIXELS`, damaged, truncated.
    """
    if not os.path.isfile(path):      # False, not an error, for names that are too long
        raise error(f"{path}: no such file, need a PNG or JPEG image; copy it there or take "
                    "its view out of the scene")
    try:
        image = _opened(path, decode, formats)
    except Image.DecompressionBombError as problem:
        raise error(f"{path}: too large ({problem}), need at most {limits.MAX_PIXELS:,} pixels; "
                    "make the images smaller") from problem
    except DAMAGE as problem:
        foreign = foreign_format(path)
        if foreign and foreign not in formats:
            raise error(f"{path}: a picture in the format {foreign}, need PNG or JPEG; convert it: "
                        f"magick '{path}' '{path.with_suffix('.png')}'") from problem
        raise error(f"{path}: unreadable or truncated image ({problem}), need a whole PNG or "
                    "JPEG file; copy or export it again") from problem
    with image:
        yield image


def foreign_format(path: Path) -> str | None:
    """Return the name of a picture's format that is neither PNG nor JPEG; None where unknown."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(32)
    except OSError:
        return None
    if head[4:8] == b"ftyp":
        return FOREIGN_BRANDS.get(head[8:12])
    if head[:4] == b"RIFF":
        return "WEBP" if head[8:12] == b"WEBP" else None
    return next((name for start, name in FOREIGN_STARTS if head.startswith(start)), None)


def _opened(path: Path, decode: bool, formats: tuple[str, ...]) -> Image.Image:
    """Return the image, its size checked before it is decoded; raises as Pillow does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")            # of Pillow, about damaged metadata and size
        has_end = check_chunks(path)
        image = Image.open(path, formats=formats)
        width, height = image.size
        if width < 1 or height < 1:
            raise ValueError(f"it has {width}x{height} pixels")
        if width * height > limits.MAX_PIXELS:
            raise Image.DecompressionBombError(f"{width}x{height} pixels")
        if decode:
            image.load()
            if not has_end:
                raise OSError("its end is missing")
            if image.mode in ("P", "PA") and image.palette is None:
                raise ValueError("its palette is missing")
            if image.mode in ("P", "PA"):
                image.convert("RGBA")              # fails where its transparency is damaged
        return image


def check_chunks(path: Path) -> bool:
    """Return whether a PNG has its end chunk, which Pillow does not miss; True for other files.

    Raises:
        OSError: a chunk of a PNG that says it is longer than what is left of the file: Pillow
            would take that much memory before it reads.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        if stream.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
            return True
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"IEND":
                return True
            if stream.tell() + length > size:
                raise OSError(f"a chunk of {length:,} bytes at byte {stream.tell() - 8:,}, "
                              f"the file has {size:,}")
            stream.seek(length + 4, 1)                    # its data and checksum
    return False
