"""Pickles of numpy arrays, dicts, lists, strings and numbers, read without running any code.

A pickle is a small program that may call whatever it names. Here every name it can reach stands in
one table, and each entry is a stand-in of ours that checks what it gets before it builds an array.
Nor may a small one grow large: memo numbers, nesting, keys and shared parts are bounded.
"""
from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import struct
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from utils.errors import UserError
from utils.files.limits import MAX_GROWTH, MAX_OPERATIONS, MAX_PICKLE_BYTES, MIB

#: Deepest nesting of dicts and lists that is followed.
MAX_DEPTH = 32
NPY_MAGIC = b"\x93NUMPY"
ADMITTED = "numpy arrays, dicts, lists, strings and numbers"
_DTYPE_CODE = re.compile(r"[<>=|]?([biufSU]\d{1,4}|O\d?|\?)")
#: Parts that even the smallest file may have, when shared ones count wherever they are met.
FEW_PARTS = 10_000
#: Numbers that are keys of a dict; larger ones could be chosen so that looking them up takes hours.
MAX_NUMBER_KEY = 2**31
DAMAGE = (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError,
          AttributeError, OverflowError, MemoryError, RecursionError, AssertionError, SyntaxError,
          struct.error, tokenize.TokenError)


class Refused(Exception):
    """The pickle holds something that is not admitted; the text says what."""


#: Python's own unpickler, which the type hints of the C version do not describe.
_PythonUnpickler: Any = pickle._Unpickler


class PlainUnpickler(_PythonUnpickler):
    """Python's own unpickler with plain keys and without sets, extensions and persistent ids.

    A tuple of tuples that share their parts takes forever to hash, and so would a dict with such
    a key. The C version cannot be told to look at keys. `find_class` is left to the subclasses.
    """

    dispatch = dict(_PythonUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """Refuse a name in the pickle; subclasses return what those that they admit stand for."""
        raise Refused(f"the global '{module}.{name}'")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse a persistent id; subclasses may return what it stands for."""
        raise Refused("a persistent id")

    def _set_item(self) -> None:
        _check_keys(self.stack[-2:-1])
        self.load_setitem()

    def _set_items(self) -> None:
        _check_keys(self.stack[::2])
        self.load_setitems()

    def _make_dict(self) -> None:
        _check_keys(self.stack[::2])
        self.load_dict()

    def _refuse_set(self) -> None:
        raise Refused("a set")

    def _refuse_extension(self) -> None:
        raise Refused("a name of the extension registry")

    dispatch |= {pickle.SETITEM[0]: _set_item, pickle.SETITEMS[0]: _set_items,
                 pickle.DICT[0]: _make_dict}
    dispatch |= dict.fromkeys((code[0] for code in (pickle.EMPTY_SET, pickle.FROZENSET,
                                                    pickle.ADDITEMS)), _refuse_set)
    dispatch |= dict.fromkeys((code[0] for code in (pickle.EXT1, pickle.EXT2, pickle.EXT4)),
                              _refuse_extension)


def _check_keys(keys: list) -> None:
    """Refuse keys of a dict that are not text, bytes, None or small numbers."""
    for key in keys:
        is_small = isinstance(key, int) and abs(key) < MAX_NUMBER_KEY
        if not (is_small or key is None or isinstance(key, (str, bytes))):
            raise Refused(f"a dict with a {type(key).__name__.strip('_').lower()} or a large "
                          "number as key")


class _Dtype:
    """Stand-in for `numpy.dtype` while unpickling; structured and subarray types are refused."""

    def __init__(self, code: Any, *_flags: Any) -> None:
        if not isinstance(code, str) or not _DTYPE_CODE.fullmatch(code):
            raise Refused(f"an array of type {str(code)[:40]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _version, byte_order, subdtype, names, fields = state[:5]
        if subdtype is not None or names is not None or fields is not None:
            raise Refused("a structured array")
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
        raise Refused("a state for a function")


def _build_array(shape: Any, dtype: Any, data: Any,
                 order: Literal["C", "F"] = "C") -> np.ndarray:
    """Return the array of a pickled state; the data must fill the shape, which bounds its size."""
    if not isinstance(dtype, _Dtype):
        raise Refused("an array without a plain type")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("array whose shape is not of whole numbers")
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


def _build_from_buffer(data: Any, dtype: Any, shape: Any, order: Literal["C", "F"]) -> _Array:
    out = _Array()
    out.array = _build_array(shape, dtype, data, order)
    return out


def _encode_latin1(text: Any, encoding: Any = "") -> bytes:
    """Return bytes as protocols 0 to 2 write them; any other codec is refused."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused(f"a call of codec {str(encoding)[:40]!r}")
    return text.encode("latin1")


def _empty_bytes(*arguments: Any) -> bytes:
    """Return no bytes, as protocols 0 to 2 write them; a call with anything is refused."""
    if arguments:
        raise Refused("a call of bytes")
    return b""


def _not_callable(*_arguments: Any) -> None:
    raise Refused("a bare call of numpy.ndarray")


_TABLE = {("numpy", "ndarray"): _not_callable, ("numpy", "dtype"): _Dtype,
          ("_codecs", "encode"): _encode_latin1, ("builtins", "bytes"): _empty_bytes,
          ("__builtin__", "bytes"): _empty_bytes}
for _package in ("numpy.core", "numpy._core"):                 # before and since numpy 2
    _TABLE[(f"{_package}.multiarray", "_reconstruct")] = _Array
    _TABLE[(f"{_package}.multiarray", "scalar")] = _build_scalar
    _TABLE[(f"{_package}.numeric", "_frombuffer")] = _build_from_buffer


class _RestrictedUnpickler(PlainUnpickler):
    """Resolves the names of `_TABLE` and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _TABLE:
            return super().find_class(module, name)
        return _Constructor(_TABLE[(module, name)])


def check_operations(data: bytes | BinaryIO) -> None:
    """Read the next pickle of `data` without doing what it says; raises where it is cut off.

    Refuses memo numbers beyond the count of operations, and more operations than any file of ours
    has: one byte may make a dict of 64.
    """
    for count, (opcode, argument, _position) in enumerate(pickletools.genops(data)):
        if count > MAX_OPERATIONS:
            raise Refused(f"more than {MAX_OPERATIONS:,} operations")
        is_memo = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT")
        if is_memo and isinstance(argument, int) and argument > count + 1:
            raise Refused("an oversized memo")


class _Plain:
    """Replaces stand-ins by arrays and refuses whatever is not admitted.

    Args:
        most_parts: numbers, characters and containers there may be, when a part that is shared
            counts wherever it is met: whoever makes an array or text of it, meets it so often.
    """

    def __init__(self, most_parts: int) -> None:
        self.most_parts = most_parts
        self.done: dict[int, tuple[Any, int]] = {}

    def of(self, value: Any, depth: int = 0) -> tuple[Any, int]:
        """Return the value without stand-ins and its number of parts; shared parts stay shared."""
        if depth > MAX_DEPTH:
            raise Refused(f"more than {MAX_DEPTH} nested levels")
        if isinstance(value, (str, bytes)):
            return value, 1 + len(value)
        if value is None or isinstance(value, (bool, int, float, np.generic)):
            return value, 1
        if id(value) not in self.done:
            self.done[id(value)] = self._container(value, depth)
        return self.done[id(value)]

    def _container(self, value: Any, depth: int) -> tuple[Any, int]:
        if isinstance(value, _Array):
            array = value.array
            if not array.dtype.hasobject:
                return array, 1 + array.size
            items, num_parts = self._all(array.ravel(), depth)
            return _build_array(array.shape, _Dtype("O"), items), num_parts
        if isinstance(value, dict):
            keys, num_keys = self._all(value, depth)
            items, num_items = self._all(value.values(), depth)
            return dict(zip(keys, items)), num_keys + num_items
        if isinstance(value, (list, tuple)):
            items, num_parts = self._all(value, depth)
            return type(value)(items), num_parts
        raise Refused(f"a {type(value).__name__.strip('_').lower()}")

    def _all(self, values: Iterable, depth: int) -> tuple[list, int]:
        found = [self.of(item, depth + 1) for item in values]
        num_parts = 1 + sum(count for _, count in found)
        if num_parts > self.most_parts:
            raise Refused("parts that are shared so often that they multiply")
        return [item for item, _ in found], num_parts


def _read_bounded(source: BinaryIO | str | Path, what: str, max_bytes: int,
                  error: type[UserError]) -> bytes:
    try:
        if isinstance(source, (str, Path)):
            with open(source, "rb") as stream:
                data = _read_up_to(stream, max_bytes + 1)
        else:
            data = _read_up_to(source, max_bytes + 1)
    except OSError as problem:
        raise error(f"{what}: cannot be read ({problem.strerror}), need a readable file; check "
                    "the path and its permissions") from problem
    if len(data) > max_bytes:
        raise error(f"{what}: more than {max_bytes:,} bytes, which no such file needs; "
                    "check that this is the right file")
    return data


def _read_up_to(stream: BinaryIO, num_bytes: int) -> bytes:
    """Return the stream's next bytes, read in blocks.

    Asked for all of them at once, Python would make room for all of them first.
    """
    data = bytearray()
    while block := stream.read(min(MIB, num_bytes - len(data))):
        data += block
    return bytes(data)


def _unpickle(data: bytes, what: str, error: type[UserError]) -> Any:
    try:
        check_operations(data)
        content = _RestrictedUnpickler(io.BytesIO(data), encoding="latin1").load()
        return _Plain(FEW_PARTS + MAX_GROWTH * len(data)).of(content)[0]
    except Refused as problem:
        raise error(f"{what}: holds {problem}, which is not admitted as it could run code; need "
                    f"{ADMITTED} only. Save it again with these alone, and do not trust "
                    "the file if it came from elsewhere") from problem
    except DAMAGE as problem:
        raise error(f"{what}: damaged or truncated pickle ({problem}); need {ADMITTED}. "
                    "Copy or save the file again") from problem


def load_restricted_pickle(source: BinaryIO | str | Path, what: str = "", *,
                           max_bytes: int = MAX_PICKLE_BYTES,
                           error: type[UserError] = UserError) -> Any:
    """Return what a pickle holds: numpy arrays, dicts, lists, strings and numbers, nothing else.

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
    """Return what an `.npy` file holds: a pickled object (`np.save` of a dict), or an array.

    A bare pickle under that name is read too.

    Returns:
        the dict (or other object) of a 0-d object array, otherwise the array or bare object.
    Raises:
        error: the file is absent, damaged, too large, or holds anything but admitted types.
    """
    what = str(path)
    data = _read_bounded(path, what, max_bytes, error)
    if not data.startswith(NPY_MAGIC):
        return _unpickle(data, what, error)
    try:
        array, rest = _parse_npy(data)
    except DAMAGE as problem:
        raise error(f"{what}: damaged or truncated .npy file ({problem}); need what numpy.save "
                    "writes. Copy or save the file again") from problem
    if array is not None:
        return array
    content = _unpickle(rest, what, error)
    if isinstance(content, np.ndarray) and content.shape == () and content.dtype.hasobject:
        return content.item()
    return content


def array_of_npy(data: bytes) -> np.ndarray:
    """Return the array of an `.npy` file's content; what its head says is compared with its length.

    Raises:
        ValueError, or another of `DAMAGE`: damaged, truncated, or a pickled object.
    """
    array, _ = _parse_npy(data)
    if array is None:
        raise ValueError("pickled objects")
    return array


def _parse_npy(data: bytes) -> tuple[np.ndarray | None, bytes]:
    """Return the array, or None for one of objects; and the bytes behind the head."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0,
                   (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, is_fortran, dtype = read_header(stream)
    rest = data[stream.tell():]
    if dtype.hasobject:
        return None, rest
    if dtype.kind == "V" or dtype.subdtype is not None or any(side < 0 for side in shape):
        raise ValueError(f"an array of type {str(dtype)[:40]} and shape {str(shape)[:40]}")
    count = math.prod(shape)
    array = np.frombuffer(rest, dtype, count=count) if count else np.empty(0, dtype)
    return array.reshape(shape, order="F" if is_fortran else "C").copy(), rest
