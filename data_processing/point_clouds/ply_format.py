"""Reader of PLY files: vertices, their normals, and faces; ascii and binary.

The header states how many records there are; each count is compared with the bytes that follow
before an array of that size is made. Names of other files in the header (textures) are not
followed.
"""
from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from utils.errors import SceneError
from utils.files.limits import MAX_COORDINATE, MAX_PLY_BYTES, MAX_PLY_NUMBERS, check_size

#: PLY's types to numpy's.
TYPES = {"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2",
         "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
         "float": "f4", "float32": "f4", "double": "f8", "float64": "f8"}
FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
HEAD_END = re.compile(rb"\nend_header[ \t]*(?:\r\n|\n)")
MAX_HEAD_BYTES = 2**16
FACE_NAMES = ("vertex_indices", "vertex_index")
AXES, NORMAL_AXES = ("x", "y", "z"), ("nx", "ny", "nz")


@dataclass(frozen=True)
class CloudPoints:
    """What a file of points holds, in its own space.

    Attributes:
        points: (N, 3) float64, finite, N over 0.
        normals: (N, 3) float64 as the file has them, not scaled; None where it has none.
        faces: (F, 3) int64 triangles, numbers of points; None where there are none.
    """

    points: np.ndarray
    normals: np.ndarray | None = None
    faces: np.ndarray | None = None


@dataclass(frozen=True)
class _Element:
    """A kind of record of a PLY file.

    `fields` are its single numbers (name, numpy type), `lists` its lists (name, type of the length,
    type of the entries); of the records that are read one of the two is empty.
    """

    name: str
    count: int
    fields: tuple[tuple[str, str], ...]
    lists: tuple[tuple[str, str, str], ...]


def read_ply(path: Path) -> CloudPoints:
    """Read the points of a PLY file, and their normals and faces where it has them.

    Raises:
        SceneError: missing, damaged, truncated, too large, or without points.
    """
    check_size(path, MAX_PLY_BYTES, "thin the point cloud out", error=SceneError)
    try:
        data = path.read_bytes()
        order, elements, start = _parse_head(data)
        read = _read_binary if order else _read_ascii
        numbers, faces = read(data, start, elements, order)
        points = np.stack([numbers[axis] for axis in AXES], -1).astype(np.float64)
        has_normals = set(NORMAL_AXES) <= set(numbers)
        normals = np.stack([numbers[axis] for axis in NORMAL_AXES], -1).astype(np.float64) \
            if has_normals else None
    except (OSError, ValueError, KeyError, IndexError, OverflowError, MemoryError) as problem:
        raise SceneError(f"{path}: not readable as PLY ({problem}), need a point cloud; export it "
                         "again or remove the file") from problem
    check_points(points, path)
    if faces is not None and (not len(faces) or faces.min() < 0 or faces.max() >= len(points)):
        faces = None
    return CloudPoints(points, normals, faces)


def check_points(points: np.ndarray, path: Path) -> None:
    """Raise SceneError unless there are points (N, 3), finite and not too far."""
    with np.errstate(invalid="ignore"):
        is_sound = (np.abs(points) <= MAX_COORDINATE).all()
    if not len(points) or not is_sound:
        raise SceneError(f"{path}: points of shape {points.shape}, some not finite or too far, or "
                         f"none, need (N, 3) finite numbers up to {MAX_COORDINATE:g}, N over 0; "
                         "export it again or remove the file")


def _parse_head(data: bytes) -> tuple[str, list[_Element], int]:
    """Return the order of bytes ('' for ascii), the elements, and where the numbers begin."""
    end = HEAD_END.search(data, 0, MAX_HEAD_BYTES)
    if end is None or not re.match(rb"ply\s", data):
        raise ValueError("it has no head from 'ply' to 'end_header'")
    lines = data[:end.start()].decode("ascii", errors="replace").split("\n")[1:]
    words = [line.split() for line in lines]
    words = [line for line in words if line and line[0] not in ("comment", "obj_info")]
    if not words or len(words[0]) != 3 or words[0][0] != "format" or words[0][1] not in FORMATS:
        raise ValueError(f"its format is not one of {', '.join(FORMATS)}")
    order = FORMATS[words[0][1]]
    elements: list[_Element] = []
    for line in words[1:]:
        if line[0] == "element" and len(line) == 3 and re.fullmatch(r"\d{1,12}", line[2], re.ASCII):
            elements.append(_Element(line[1], int(line[2]), (), ()))
        elif line[0] == "property" and elements:
            elements[-1] = _with_property(elements[-1], line[1:], order)
        else:
            raise ValueError(f"its head has the line {' '.join(line)[:80]!r}")
    return order, elements, end.end()


def _with_property(element: _Element, words: list[str], order: str) -> _Element:
    """Return the element with a further property of the words TYPE NAME or list TYPE TYPE NAME."""
    types = words[1:-1] if words[:1] == ["list"] else words[:-1]
    if len(types) != (2 if words[:1] == ["list"] else 1) or any(t not in TYPES for t in types):
        raise ValueError(f"its head has the property {' '.join(words)[:80]!r}")
    kinds, name = [order + TYPES[t] for t in types], words[-1]
    if words[0] == "list":
        return replace(element, lists=(*element.lists, (name, kinds[0], kinds[1])))
    return replace(element, fields=(*element.fields, (name, kinds[0])))


def _check_vertices(element: _Element) -> None:
    """Check that the points come first and are single numbers, as all known programs write them."""
    if element.name != "vertex" or element.lists or not set(AXES) <= {f for f, _ in element.fields}:
        raise ValueError("its first element is not vertex with the numbers x, y, z")
    if element.count * len(element.fields) > MAX_PLY_NUMBERS:
        raise ValueError(f"it says that it has {element.count:,} points of {len(element.fields)} "
                         f"numbers, more than {MAX_PLY_NUMBERS:,} numbers")


def _read_binary(data: bytes, start: int, elements: list[_Element],
                 order: str) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return the numbers of the vertices by name, and the triangles."""
    vertex = elements[0]
    _check_vertices(vertex)
    kind = np.dtype(list(vertex.fields))
    end = start + vertex.count * kind.itemsize
    if end > len(data):
        raise ValueError(f"truncated: {len(data) - start} bytes behind the head, {vertex.count} "
                         f"points need {end - start}")
    rows = np.frombuffer(data, kind, vertex.count, start)
    faces = _binary_faces(data, end, elements[1]) if _has_faces(elements) else None
    return {name: rows[name] for name, _ in vertex.fields}, faces


def _has_faces(elements: list[_Element]) -> bool:
    """Return whether faces follow the vertices, as lists of their numbers and nothing else."""
    if len(elements) < 2 or elements[1].name != "face" or elements[1].fields:
        return False
    return [name for name, *_ in elements[1].lists] in [[name] for name in FACE_NAMES]


def _binary_faces(data: bytes, start: int, face: _Element) -> np.ndarray | None:
    """Return triangles (F, 3), or None where some face is none: it only costs the normals."""
    _, length_kind, index_kind = face.lists[0]
    kind = np.dtype([("length", length_kind), ("corners", index_kind, (3,))])
    if face.count * kind.itemsize > len(data) - start:
        return None
    rows = np.frombuffer(data, kind, face.count, start)
    return rows["corners"].astype(np.int64) if (rows["length"] == 3).all() else None


def _read_ascii(data: bytes, start: int, elements: list[_Element],
                order: str) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return what `_read_binary` does, from text; a number takes two bytes at least."""
    vertex = elements[0]
    _check_vertices(vertex)
    num_faces = elements[1].count if _has_faces(elements) else 0
    num_vertex, num_face = vertex.count * len(vertex.fields), 4 * num_faces
    if 2 * num_vertex > len(data) - start + 1:
        raise ValueError(f"truncated: {len(data) - start} bytes behind the head, {vertex.count} "
                         "points need more")
    is_short = 2 * (num_vertex + num_face) > len(data) - start + 1
    numbers = _numbers(data, start, num_vertex + (0 if is_short else num_face))
    if len(numbers) < num_vertex:
        raise ValueError(f"{len(numbers)} numbers behind the head, {vertex.count} points need "
                         f"{num_vertex}")
    rows = numbers[:num_vertex].reshape(vertex.count, len(vertex.fields))
    corners = numbers[num_vertex:]
    faces = None
    if num_faces and len(corners) == num_face and (corners[::4] == 3).all():
        faces = corners.reshape(-1, 4)[:, 1:].astype(np.int64)
    return {name: rows[:, i] for i, (name, _) in enumerate(vertex.fields)}, faces


def _numbers(data: bytes, start: int, count: int) -> np.ndarray:
    """Return up to `count` float64 numbers of a text, fewer where other text comes first."""
    if count == 0:
        return np.empty(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)      # of text that is no number
        return np.fromstring(data[start:].decode("ascii", errors="replace"), np.float64, count,
                             sep=" ")
