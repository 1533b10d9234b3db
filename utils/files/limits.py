"""How large what comes from a file may be: every reader checks a file against these first.

A limit is far above what scenes, weights and results need, and so low that reading any file that
is within it stays below about 1 GB beside the pixels and numbers that are kept. A size that a
file's head states is also compared with the length of the file.
"""
from __future__ import annotations

import codecs
import json
import os
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.errors import UserError

MIB = 2**20
#: Pixels of an image, before it is decoded: 15 bytes each are needed while it becomes floats.
MAX_PIXELS = 64_000_000
#: Width or height of an image that a calibration states.
MAX_SIDE = 100_000
#: Bytes of files by kind. A pickled camera file has a few hundred bytes, LPIPS weights 250 MB.
MAX_PICKLE_BYTES = 512 * MIB
MAX_CAMERA_PICKLE_BYTES = MIB
MAX_NPZ_BYTES = 64 * MIB
MAX_JSON_BYTES = 16 * MIB
MAX_YAML_BYTES = 2**16
MAX_TABLE_BYTES = 64 * MIB
MAX_CONFIG_BYTES = MIB
MAX_CAMERA_TEXT_BYTES = 4 * MIB
MAX_COLMAP_BYTES = 512 * MIB
MAX_PLY_BYTES = 256 * MIB
MAX_MAT_BYTES = 64 * MIB
#: Numbers of the vertices of a point cloud, and characters of a line of text.
MAX_PLY_NUMBERS = 64_000_000
MAX_LINE = 16 * MIB
#: Bytes of the numbers of an array of a MATLAB file, and points that a mesh is sampled at.
MAX_MAT_ARRAY_BYTES = 512 * MIB
MAX_MESH_POINTS = 30_000_000
#: Operations of a pickle, each of which may make an object of 64 bytes; and its parts for each of
#: its bytes, when a shared part counts wherever it is met.
MAX_OPERATIONS = 2_000_000
MAX_GROWTH = 16
#: Greatest entry of a matrix, coordinate of a point or radius: squares of it fit into float32.
MAX_COORDINATE = 1e15
#: Characters of a file's name in a message.
MAX_NAMED = 200
#: Frames of a capture.
MAX_FRAMES = 100_000
#: Fraction of the free memory that the pixels of a scene may take.
MEMORY_FRACTION = 0.9


def check_size(path: Path, most: int, fix: str, *, error: type[UserError]) -> int:
    """Return the length of a file in bytes.

    Args:
        path: the file.
        most: bytes that it may have.
        fix: what to do if it has more.
        error: class of the error that is raised.
    Raises:
        error: it has more, or cannot be looked at.
    """
    try:
        size = path.stat().st_size
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror}), need a readable file; check "
                    "the path and its permissions") from problem
    if size > most:
        raise error(f"{path}: {size:,} bytes, need at most {most:,}; {fix}")
    return size


def read_text(path: Path, most: int, *, error: type[UserError]) -> str:
    """Return a text file (UTF-8) of at most `most` bytes; raises `error`.

    A byte-order mark at its start, as Windows programs write it, is left out.
    """
    check_size(path, most, "check that this is the right file", error=error)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path}: {_encoding_problem(path, problem)}") from problem


def each_line(path: Path, most: int, *, error: type[UserError]) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a text file, from 1; raises `error` as `read_text`."""
    check_size(path, most, "check that this is the right file", error=error)
    try:
        with path.open(encoding="utf-8-sig") as file:
            number = 0
            while line := file.readline(MAX_LINE):
                number += 1
                if len(line) == MAX_LINE:
                    raise error(f"{path}: line {number} has more than {MAX_LINE:,} characters, "
                                "need shorter ones; check that this is the right file")
                yield number, line.rstrip("\n")
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path}: {_encoding_problem(path, problem)}") from problem


def _encoding_problem(path: Path, problem: OSError | UnicodeDecodeError) -> str:
    """Return in words why a text file cannot be read, and what to do."""
    if not isinstance(problem, UnicodeDecodeError):
        return f"not readable as text ({problem}); copy or export it again"
    with path.open("rb") as file:
        head = file.read(256)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return ("not readable as text: it is UTF-16, need UTF-8; save it as UTF-8, or convert it: "
                f"iconv -f utf-16 -t utf-8 '{path}'")
    byte = problem.object[problem.start]
    if b"\0" in head or byte < 0xa0:
        return f"not readable as text ({problem}); copy or export it again"
    return (f"not readable as text: byte 0x{byte:02x} is not UTF-8 but may be Windows-1252 "
            f"({bytes([byte]).decode('cp1252')}), need UTF-8; save it as UTF-8, or convert it: "
            f"iconv -f cp1252 -t utf-8 '{path}'")


def read_json(path: Path, *, error: type[UserError], most: int = MAX_JSON_BYTES) -> Any:
    """Return the content of a JSON file of at most `most` bytes; raises `error`."""
    text = read_text(path, most, error=error)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise error(f"{path}: not readable as JSON ({problem}); export or copy it "
                    "again") from problem


def check_memory(num_bytes: int, what: str, fix: str, *, error: type[UserError]) -> None:
    """Raise `error` where `what` needs more bytes than the machine has free; nothing is allocated.

    Does nothing where the free memory is not known.
    """
    free = free_memory()
    if free is not None and num_bytes > MEMORY_FRACTION * free:
        raise error(f"{what}: {num_bytes / 2**30:.1f} GiB of memory needed, {free / 2**30:.1f} GiB "
                    f"are free; {fix}")


def free_memory() -> int | None:
    """Return the bytes that can be had without swapping; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found = next(line for line in file if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def short(value: Any) -> str:
    """Return a value from a file for a message, cut where it is long."""
    try:
        return reprlib.repr(value)
    except ValueError:                 # Python writes no whole number of more than 4,300 digits
        return "of thousands of digits"
