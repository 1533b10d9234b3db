"""Arrays of MATLAB files: SciPy's reader of sound files, other byte orders, files that lie."""
from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from utils.errors import UserError
from utils.files.matlab import read_matlab_array

ARRAYS = {f"of_{kind}": np.arange(24).reshape(2, 3, 4).astype(kind) for kind in (
    "f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")}
ARRAYS |= {"a": np.array([[1.5]]), "none": np.zeros((0, 3)), "row": np.arange(5.0)[None],
           "yes_or_no": np.eye(3) > 0}


@pytest.mark.parametrize("is_packed", [False, True])
def test_arrays_are_as_scipy_reads_them(tmp_path, is_packed):
    path = tmp_path / "a.mat"
    savemat(path, {"first": {"x": 1}, "text": "words", **ARRAYS}, do_compression=is_packed)
    expected = loadmat(path)
    for name, array in ARRAYS.items():
        found = read_matlab_array(path, name, array.ndim)
        assert found.dtype == expected[name].dtype and np.array_equal(found, expected[name])


def element(kind: int, content: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}2I", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def matrix(sides, numbers: bytes, *, stored: int = 9, of: int = 6, order: str = "<") -> bytes:
    """A matrix P whose numbers are stored as one type, and have the class of another."""
    return element(14, b"".join([
        element(6, struct.pack(f"{order}2I", of, 0), order),
        element(5, struct.pack(f"{order}{len(sides)}i", *sides), order), element(1, b"P", order),
        element(stored, numbers, order)]), order)


def write(path, content: bytes, order: str = "<") -> None:
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + (
        b"\x00\x01IM" if order == "<" else b"\x01\x00MI") + content)


def test_the_other_order_of_bytes_and_numbers_stored_in_few(tmp_path):
    """MATLAB stores doubles that are small whole numbers as bytes."""
    path = tmp_path / "a.mat"
    write(path, matrix((2, 2), struct.pack(">4d", 1, 2, 3, 4.5), order=">"), ">")
    assert read_matlab_array(path, "P", 2).tolist() == [[1, 3], [2, 4.5]]
    write(path, matrix((2, 2), bytes([1, 2, 3, 255]), stored=2))
    found = read_matlab_array(path, "P", 2)
    assert found.dtype == np.float64 and found.tolist() == [[1, 3], [2, 255]]


@pytest.mark.parametrize("content, words", [
    (matrix((2, 2), b"\0" * 24), "24 bytes of numbers for shape"),
    (matrix((2, 2), b"\0" * 32, stored=77), "numbers are of type 77"),
    (matrix((2, -2), b"\0" * 32), "shape .2, -2."),
    (matrix((2**30, 2**30), b"\0" * 32), "at most 536,870,912 bytes"),
    (matrix((2, 2), b"\0" * 32, of=0x0806), "P is complex"),
    (element(14, element(6, b"\0" * 8)), "a matrix without flags or sides|absent"),
    (element(15, zlib.compress(matrix((8, 8), b"\0" * 512))[:-9])[:-3], "not complete|truncated"),
    (element(15, zlib.compress(matrix((1, 1), b"\0" * 10**6))), "not complete"),
    (struct.pack("<2I", 9 << 16 | 14, 0), "9 bytes has place for 4")])
def test_files_that_lie_are_refused(tmp_path, content, words):
    path = tmp_path / "a.mat"
    write(path, content)
    with pytest.raises(UserError, match=words):
        read_matlab_array(path, "P", 2)
