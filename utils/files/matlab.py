"""Reader of single arrays of MATLAB files (version 5 to 7.2), checked before they are unpacked.

Such a file is a head of 128 bytes and a row of elements, each with its type and length; a matrix is
an element of elements: flags, sides, name and numbers. SciPy's reader trusts what they say, and a
damaged file can end it with a segmentation fault.
"""
from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.files.limits import MAX_MAT_ARRAY_BYTES, MAX_MAT_BYTES, check_size

HEAD_BYTES = 128
#: Bytes at the end of the head: version 1.0, and the order of bytes as "MI" reads in it.
_ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
#: Types of elements.
_MATRIX, _PACKED = 14, 15
#: Types of elements that hold numbers, and classes of matrices of numbers, to numpy's kinds.
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
           13: "u8"}
_NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8",
            15: "u8"}
_OTHERS = {1: "a cell", 2: "a struct", 3: "an object", 4: "text", 5: "sparse", 16: "a function"}
_COMPLEX = 0x0800
#: Unpacked bytes in which flags, sides and name of a matrix lie.
_FRONT_BYTES = 4096
MAX_DIMENSIONS = 32


@dataclass(frozen=True)
class _Matrix:
    """What a matrix says before its numbers.

    Attributes:
        kind: of its numbers as numpy has it, or in words what it holds instead.
        shape: its sides.
    """

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def is_numbers(self) -> bool:
        return self.kind in _NUMBERS.values()

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.kind).itemsize


def read_matlab_array(path: Path, name: str, num_dims: int) -> np.ndarray:
    """Return an array of numbers of a file.

    Args:
        path: of the file.
        name: of the array.
        num_dims: dimensions that it must have.
    Raises:
        UserError: missing, damaged, too large, or without such an array.
    """
    check_size(path, MAX_MAT_BYTES, "check that this is the right file", error=UserError)
    try:
        data = path.read_bytes()
        order = _ORDERS.get(data[HEAD_BYTES - 4:HEAD_BYTES])
        if order is None:
            raise ValueError("its head is of another kind of file")
        found = next((pair for pair in _matrices(data, order) if pair[0].name == name), None)
    except (OSError, ValueError, struct.error, zlib.error) as problem:
        raise UserError(f"{path}: not readable as a MATLAB file ({problem}), need version 5 to "
                        "7.2; copy it again, or save it with -v7") from problem
    matrix = found[0] if found else _Matrix(name, "absent", ())
    if not matrix.is_numbers or len(matrix.shape) != num_dims \
            or matrix.num_bytes > MAX_MAT_ARRAY_BYTES:
        raise UserError(f"{path}: {name} is {matrix.kind}, shape {matrix.shape}, need numbers in "
                        f"{num_dims} dimensions, at most {MAX_MAT_ARRAY_BYTES:,} bytes of them; "
                        "check that this is the right file")
    assert found is not None, "only what is there has numbers"
    try:
        content = _unpacked(*found[1:], matrix.num_bytes + _FRONT_BYTES)
        return _numbers(matrix, content, order)
    except (ValueError, struct.error, zlib.error) as problem:
        raise UserError(f"{path}: {name} cannot be read ({problem}); copy the file again") \
            from problem


def _matrices(data: bytes, order: str) -> Iterator[tuple[_Matrix, int, bytes]]:
    """Yield what each matrix of a file says of itself, and the type and content of its element."""
    for kind, content in _elements(data[HEAD_BYTES:], order):
        if kind in (_MATRIX, _PACKED):
            front = _unpacked(kind, content, _FRONT_BYTES, is_whole=False)
            yield _described(front, order), kind, content


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of the elements of a file or a matrix, as far as they are complete."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}2I", data, at)
        start, step = at + 8, 8 + size
        if kind >> 16:                                     # up to four bytes lie in the tag itself
            kind, size, start, step = kind & 0xffff, kind >> 16, at + 4, 8
            if size > 4:
                raise ValueError(f"an element of {size} bytes has place for 4")
        yield kind, data[start:start + size]
        at += step if kind == _PACKED else -(-step // 8) * 8


def _unpacked(kind: int, content: bytes, most: int, *, is_whole: bool = True) -> bytes:
    """Return at most `most` bytes of a matrix's content, or ValueError where it must be whole."""
    if kind == _MATRIX:
        return content if is_whole else content[:most]
    stream = zlib.decompressobj()
    found = stream.decompress(content, most)
    if is_whole and (stream.unconsumed_tail or not stream.eof):
        raise ValueError("its packed numbers are not complete")
    return found[8:]                                       # after the tag of the matrix


def _described(front: bytes, order: str) -> _Matrix:
    """Return what a matrix says of itself; ValueError where that makes no sense."""
    elements = _elements(front, order)
    (_, flags), (_, sides), (_, name) = (next(elements, (0, b"")) for _ in range(3))
    if len(flags) < 8 or len(sides) % 4 or len(sides) > 4 * MAX_DIMENSIONS:
        raise ValueError("a matrix without flags or sides")
    shape = struct.unpack(f"{order}{len(sides) // 4}i", sides)
    if min(shape, default=0) < 0:
        raise ValueError(f"a matrix of shape {shape}")
    (word, _) = struct.unpack(f"{order}2I", flags[:8])
    number = word & 0xff
    kind = "complex" if word & _COMPLEX else _NUMBERS.get(number, _OTHERS.get(number, "unknown"))
    return _Matrix(name.decode("latin-1"), kind, shape)


def _numbers(matrix: _Matrix, content: bytes, order: str) -> np.ndarray:
    """Return the numbers of a matrix; they may be stored in fewer bytes than its class has."""
    parts = list(_elements(content, order))                # flags, sides, name, numbers
    kind, data = parts[3] if len(parts) > 3 else (0, b"")
    stored, count = _STORED.get(kind), math.prod(matrix.shape)
    if stored is None:
        raise ValueError(f"its numbers are of type {kind}")
    if len(data) != count * np.dtype(stored).itemsize:
        raise ValueError(f"{len(data):,} bytes of numbers for shape {matrix.shape}")
    found = np.frombuffer(data, np.dtype(order + stored))
    return found.astype(matrix.kind).reshape(matrix.shape, order="F")
