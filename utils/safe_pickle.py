"""Pickles of numpy arrays, dicts, lists, strings and numbers, read without running any code.

A pickle is a small program that may call whatever it names. Here every name it can reach stands in
one table, and each entry is a stand-in of ours that checks what it gets before it builds an array.
"""
from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from utils.errors import UserError

#: Largest pickle that is read; camera files have kilobytes, network weights up to 250 MB.
MAX_PICKLE_BYTES = 512 * 2**20
#: Deepest nesting of dicts and lists that is followed.
MAX_DEPTH = 32
NPY_MAGIC = b"\x93NUMPY"
ADMITTED = "numpy arrays, dicts, lists, strings and numbers"
_DTYPE_CODE = re.compile(r"[<>=|]?([biufSU]\d{1,4}|O\d?|\?)")
_DAMAGE = (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError,
           AttributeError, OverflowError, MemoryError, RecursionError, struct.error)


class _Refused(Exception):
    """The pickle holds something that is not admitted; the text says what."""


class _Dtype:
    """Stand-in for `numpy.dtype` while unpickling; structured and subarray types are refused."""

    def __init__(self, code: Any, *_flags: Any) -> None:
        if not isinstance(code, str) or not _DTYPE_CODE.fullmatch(code):
            raise _Refused(f"an array of type {str(code)[:40]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _version, byte_order, subdtype, names, fields = state[:5]
        if subdtype is not None or names is not None or fields is not None:
            raise _Refused("a structured array")
        if byte_order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(byte_order)


class _Array:
    """Stand-in for a `numpy.ndarray` while unpickling; its state makes the array."""

    def __init__(self, *_arguments: Any) -> None:
        self.array = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        shape, dtype, is_fortran, data = state[-4:]
        self.array = _build_array(shape, dtype, data, "F" if is_fortran else "C")


class _Constructor:
    """A callable that a pickle may name, and whose attributes it cannot set."""

    __slots__ = ("_make",)

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a state for a function")


def _build_array(shape: Any, dtype: Any, data: Any, order: str = "C") -> np.ndarray:
    """Array of a pickled state; the data must fill the shape, which bounds its size."""
    if not isinstance(dtype, _Dtype):
        raise _Refused("an array without a plain type")
    count = math.prod(shape)
    if dtype.dtype.hasobject:
        if not isinstance(data, list) or len(data) != count:
            raise ValueError("object array whose data does not fill its shape")
        array = np.empty(count, object)
        for i, item in enumerate(data):
            array[i] = item
        return array.reshape(shape)
    if isinstance(data, str):                     # written by Python 2
        data = data.encode("latin1")
    if len(data) != count * dtype.dtype.itemsize:
        raise ValueError("array whose data does not fill its shape")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order).copy()


def _build_scalar(dtype: Any, data: Any) -> Any:
    return _build_array((1,), dtype, data)[0]


def _build_from_buffer(data: Any, dtype: Any, shape: Any, order: str) -> _Array:
    out = _Array()
    out.array = _build_array(shape, dtype, data, order)
    return out


def _encode_latin1(text: Any, encoding: Any = "") -> bytes:
    """How protocols 0 to 2 write bytes; any other codec is refused."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused(f"a call of codec {str(encoding)[:40]!r}")
    return text.encode("latin1")


def _empty_bytes(*arguments: Any) -> bytes:
    """How protocols 0 to 2 write bytes of no length."""
    if arguments:
        raise _Refused("a call of bytes")
    return b""


def _not_callable(*_arguments: Any) -> None:
    raise _Refused("a bare call of numpy.ndarray")


_TABLE = {("numpy", "ndarray"): _not_callable, ("numpy", "dtype"): _Dtype,
          ("_codecs", "encode"): _encode_latin1, ("builtins", "bytes"): _empty_bytes,
          ("__builtin__", "bytes"): _empty_bytes}
for _package in ("numpy.core", "numpy._core"):                 # before and since numpy 2
    _TABLE[(f"{_package}.multiarray", "_reconstruct")] = _Array
    _TABLE[(f"{_package}.multiarray", "scalar")] = _build_scalar
    _TABLE[(f"{_package}.numeric", "_frombuffer")] = _build_from_buffer


class _RestrictedUnpickler(pickle.Unpickler):
    """Resolves the names of `_TABLE` and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _TABLE:
            raise _Refused(f"the global '{module}.{name}'")
        return _Constructor(_TABLE[(module, name)])

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("a persistent id")


def _check_memo(data: bytes) -> None:
    """Refuse memo numbers beyond the count of operations, which would only eat memory."""
    for count, (opcode, argument, _position) in enumerate(pickletools.genops(data)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count + 1:
            raise _Refused("an oversized memo")


def _to_plain(value: Any, seen: dict[int, Any], depth: int = 0) -> Any:
    """Replace stand-ins by arrays; refuse whatever is not admitted."""
    if depth > MAX_DEPTH:
        raise _Refused(f"more than {MAX_DEPTH} nested levels")
    if value is None or isinstance(value, (bool, int, float, str, bytes, np.generic)):
        return value
    if id(value) in seen:                         # shared parts once, or they multiply
        return seen[id(value)]
    if isinstance(value, _Array):
        plain = value.array
        if plain.dtype.hasobject:
            items = [_to_plain(item, seen, depth + 1) for item in plain.ravel()]
            plain = _build_array(plain.shape, _Dtype("O"), items)
    elif isinstance(value, dict):
        plain = {_to_plain(key, seen, depth + 1): _to_plain(item, seen, depth + 1)
                 for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        plain = type(value)(_to_plain(item, seen, depth + 1) for item in value)
    else:
        raise _Refused(f"a {type(value).__name__.strip('_').lower()}")
    seen[id(value)] = plain
    return plain


def _read_bounded(source: BinaryIO | str | Path, what: str, max_bytes: int,
                  error: type[UserError]) -> bytes:
    try:
        if hasattr(source, "read"):
            data = source.read(max_bytes + 1)
        else:
            with open(source, "rb") as stream:
                data = stream.read(max_bytes + 1)
    except OSError as problem:
        raise error(f"{what}: cannot be read ({problem.strerror}), need a readable file; check "
                    "the path and its permissions") from problem
    if len(data) > max_bytes:
        raise error(f"{what}: more than {max_bytes:,} bytes, which no such file needs; "
                    "check that this is the right file")
    return data


def _unpickle(data: bytes, what: str, error: type[UserError]) -> Any:
    try:
        _check_memo(data)
        return _to_plain(_RestrictedUnpickler(io.BytesIO(data), encoding="latin1").load(), {})
    except _Refused as problem:
        raise error(f"{what}: holds {problem}, which is not admitted as it could run code; need "
                    f"{ADMITTED} only. Save it again with these alone, and do not trust "
                    "the file if it came from elsewhere") from problem
    except _DAMAGE as problem:
        raise error(f"{what}: damaged or truncated pickle ({problem}); need {ADMITTED}. "
                    "Copy or save the file again") from problem


def load_restricted_pickle(source: BinaryIO | str | Path, what: str = "", *,
                           max_bytes: int = MAX_PICKLE_BYTES,
                           error: type[UserError] = UserError) -> Any:
    """Content of a pickle that holds numpy arrays, dicts, lists, strings and numbers only.

    Args:
        source: path, or a binary file at the start of the pickle.
        what: name for messages; the path by itself.
        max_bytes: larger files are refused unread.
        error: class of the error that is raised.
    Raises:
        error: the file is absent, damaged, too large, or names anything else.
    """
    what = what or str(source)
    return _unpickle(_read_bounded(source, what, max_bytes, error), what, error)


def load_pickled_npy(path: str | Path, *, max_bytes: int = MAX_PICKLE_BYTES,
                     error: type[UserError] = UserError) -> Any:
    """Content of an `.npy` file: a pickled object (`np.save` of a dict), an array, or a pickle.

    Returns:
        the dict (or other object) of a 0-d object array, otherwise the array or bare object.
    Raises:
        error: the file is absent, damaged, too large, or holds anything but admitted types.
    """
    what = str(path)
    data = _read_bounded(path, what, max_bytes, error)
    if not data.startswith(NPY_MAGIC):
        return _unpickle(data, what, error)
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0,
                       (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, is_fortran, dtype = read_header(stream)
        rest = data[stream.tell():]
        if not dtype.hasobject:
            count = math.prod(shape)
            array = np.frombuffer(rest, dtype, count=count) if count else np.empty(0, dtype)
            return array.reshape(shape, order="F" if is_fortran else "C").copy()
    except _DAMAGE as problem:
        raise error(f"{what}: damaged or truncated .npy file ({problem}); need what numpy.save "
                    "writes. Copy or save the file again") from problem
    content = _unpickle(rest, what, error)
    if isinstance(content, np.ndarray) and content.shape == () and content.dtype.hasobject:
        return content.item()
    return content
