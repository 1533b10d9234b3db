"""A look at a checkpoint before torch reads it: nothing in it runs, nothing in it is larger than
the file.

`torch.load(weights_only=True)` runs no code, but trusts what a file says of sizes: a compressed
entry may become gigabytes, a storage may claim more bytes than its entry has (and be read beyond
them), a tensor more numbers than its storage, and `bytearray(n)` is admitted with any n. Here the
pickle is read with stand-ins that build nothing; what they are called with is compared with the
entries' lengths. torch does not look at the checksums of the entries either: a flipped bit would
load as another number.
"""
from __future__ import annotations

import io
import zipfile
from typing import Any, BinaryIO

from utils.files.limits import MAX_GROWTH, MIB
from utils.files.pickles import DAMAGE, FEW_PARTS, PlainUnpickler, Refused, check_operations

#: Names that a checkpoint of tensors, numbers, strings, lists and dicts needs.
_BUILDERS = {("torch._utils", "_rebuild_tensor_v2"): "tensor",
             ("torch._utils", "_rebuild_parameter"): "parameter",
             ("torch.nn.parameter", "Parameter"): "parameter",
             ("collections", "OrderedDict"): "dict", ("torch", "Size"): "other",
             ("torch", "device"): "other", ("_codecs", "encode"): "other"}
#: Classes of storages, and the bytes of an entry.
_STORAGE_BYTES = {f"{name}Storage": size for size, names in (
    (1, ("Byte", "Char", "Bool", "Untyped")), (2, ("Short", "Half", "BFloat16")),
    (4, ("Int", "Float")), (8, ("Long", "Double", "ComplexFloat")), (16, ("ComplexDouble",)))
    for name in names}
#: Bytes of a pickle within a checkpoint: names and shapes, and the numbers of a training curve.
MAX_PICKLE_BYTES = 64 * MIB
#: The end record of a zip archive without a comment; torch writes none.
_END_BYTES, _END_MARK = 22, b"PK\x05\x06"
#: How a file of torch before 1.6 begins, and how many pickles stand before its storages.
_OLD_START, _NUM_OLD_PICKLES = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", 5
MAX_DIMENSIONS = 64

Error = (*DAMAGE, Refused, zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError)


class Damaged(ValueError):
    """The file is no checkpoint, or what it says of sizes is not true."""


class Altered(Damaged):
    """An entry is not what its checksum says: bits have changed since the file was written."""


class _Storage:
    """Stand-in for a storage: how many numbers it has, each of how many bytes."""

    def __init__(self, numel: int, itemsize: int) -> None:
        self.numel, self.itemsize = numel, itemsize


class _Tensor:
    """Stand-in for a tensor or a parameter."""

    def __setstate__(self, state: Any) -> None:
        raise Refused("a tensor with a state of its own")


class _OrderedDict(dict):
    """Stand-in for an OrderedDict, which keeps a module's versions as its state."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise Refused("an OrderedDict with another state than a dict")


class _Builder:
    """Stand-in for a function or class that a pickle may name; looks at what it is called with."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, *arguments: Any) -> Any:
        if self.kind == "tensor":
            return _checked_tensor(*arguments[:4])
        if self.kind == "dict":
            if arguments and arguments != ([],):
                raise Refused("an OrderedDict made of something")
            return _OrderedDict()
        if self.kind == "parameter":
            if not arguments or not isinstance(arguments[0], _Tensor):
                raise Refused("a parameter that is no tensor")
            return arguments[0]
        if not all(isinstance(part, (str, int, tuple)) for part in arguments):
            raise Refused("a size or a device of something else than numbers and text")
        return arguments

    def __setstate__(self, state: Any) -> None:
        raise Refused("a state for a function")


class _Kind:
    """Stand-in for a class of storages, which no pickle may call."""

    __slots__ = ("itemsize",)

    def __init__(self, itemsize: int) -> None:
        self.itemsize = itemsize

    def __setstate__(self, state: Any) -> None:
        raise Refused("a state for a class")


class _Gate(PlainUnpickler):
    """Reads a checkpoint's pickle without building anything.

    Attributes:
        storages: key to number of bytes, as the pickle has them.
    """

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream, encoding="utf-8")
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a class or function that the pickle names."""
        if (module, name) in _BUILDERS:
            return _Builder(_BUILDERS[module, name])
        if module in ("torch", "torch.storage") and name in _STORAGE_BYTES:
            return _Kind(_STORAGE_BYTES[name])
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> _Storage:
        """Return a storage's stand-in, by ('storage', class, key, device, count[, view])."""
        word, kind, key, _, numel, *view = pid
        if word not in ("storage", b"storage") or not isinstance(kind, _Kind) \
                or not isinstance(key, str) or any(part is not None for part in view):
            raise Refused("a persistent id that is no storage")
        if type(numel) is not int or numel < 0:
            raise Damaged(f"a storage of {numel!r} entries")
        num_bytes = numel * kind.itemsize
        if self.storages.setdefault(key, num_bytes) != num_bytes:
            raise Damaged(f"storage {key[:40]} is of two sizes")
        return _Storage(numel, kind.itemsize)


def _checked_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> _Tensor:
    """Return a tensor's stand-in, once all its numbers lie in its storage and are no more than it
    has."""
    sides = (*size, *stride, offset)
    if not isinstance(storage, _Storage) or len(size) != len(stride) \
            or len(size) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in sides):
        raise Damaged("a tensor whose storage, size or stride is none")
    count, last = 1, offset
    for side, step in zip(size, stride):
        count *= side
        last += max(side - 1, 0) * step
    if max(sides, default=0) >= 2**63 or count > storage.numel \
            or (count and last >= storage.numel):
        raise Damaged(f"a tensor of {count:,} numbers in a storage of {storage.numel:,}")
    return _Tensor()


def check_checkpoint(stream: BinaryIO) -> None:
    """Raise one of `Error` where a file is not safe to be read by torch.

    Args:
        stream: of a file, at its start; it is left anywhere.
    Raises:
        Refused: it names something that could run code; the text says what.
        Damaged: it is no checkpoint, or a size that it states is not true.
        others of `Error`: it is truncated or damaged.
    """
    start = stream.read(len(_OLD_START))
    if start == _OLD_START:
        _check_old(stream)
    elif start.startswith(b"PK"):
        _check_archive(stream)
    else:
        _read_pickle(start + stream.read(MIB))              # names what it would call, if anything
        raise Damaged("its beginning is not that of a file of torch.save")


def _check_archive(stream: BinaryIO) -> None:
    """Check the zip archive that torch writes: entries that are stored as they are."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(size - _END_BYTES, 0))
    if not stream.read(4) == _END_MARK:
        raise zipfile.BadZipFile("its end is missing")
    with zipfile.ZipFile(stream) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len({name.casefold() for name in entries}) < len(archive.infolist()):
            raise Damaged("it has two entries of one name")
        for entry in entries.values():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise Damaged(f"its entry {entry.filename[:80]} is compressed")
        if sum(entry.file_size for entry in entries.values()) > size:
            raise Damaged("its entries are larger than the file")
        root = next(iter(entries), "").partition("/")[0]
        main = entries.get(f"{root}/data.pkl")
        if main is None:
            raise Damaged("it has no data.pkl")
        if main.file_size > MAX_PICKLE_BYTES:
            raise Damaged(f"its data.pkl has {main.file_size:,} bytes, more than "
                          f"{MAX_PICKLE_BYTES:,}")
        _check_sums(archive)
        storages = _read_pickle(archive.read(main))
    for key, num_bytes in storages.items():
        entry = entries.get(f"{root}/data/{key}")
        if entry is None or entry.file_size != num_bytes:
            found = "is missing" if entry is None else f"has {entry.file_size:,} bytes"
            raise Damaged(f"its storage {key[:40]} {found}, needed {num_bytes:,}")


def _check_sums(archive: zipfile.ZipFile) -> None:
    """Raise Altered where the content of an entry differs from its CRC; all of it is read."""
    altered = archive.testzip()
    if altered is not None:
        raise Altered(f"its entry {altered[:80]!r} is not what its checksum says")


def _check_old(stream: BinaryIO) -> None:
    """Check a file of torch before 1.6: pickles one after the other, then storages."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    data = stream.read(min(size, MAX_PICKLE_BYTES))
    pickles, num_bytes = io.BytesIO(data), 0
    for _ in range(_NUM_OLD_PICKLES):
        start = pickles.tell()
        check_operations(pickles)
        num_bytes += sum(_read_pickle(data[start:pickles.tell()]).values())
    if num_bytes > size:
        raise Damaged(f"its storages need {num_bytes:,} bytes, the file has {size:,}")


def _read_pickle(data: bytes) -> dict[str, int]:
    """Return the storages that a pickle names, key to bytes; nothing is built."""
    try:
        check_operations(data)
    except DAMAGE:
        _raise_first_name(data)
        raise
    gate = _Gate(io.BytesIO(data))
    content = gate.load()
    _num_parts(content, FEW_PARTS + MAX_GROWTH * len(data), {})
    return gate.storages


def _raise_first_name(data: bytes) -> None:
    """Raise Refused where a damaged pickle names something before the place of its damage."""
    try:
        _Gate(io.BytesIO(data)).load()
    except (*DAMAGE, Damaged):
        return


def _num_parts(value: Any, most: int, done: dict[int, int], depth: int = 0) -> int:
    """Return the number of parts of nested containers, shared ones counted wherever they are met.

    Raises Refused for more than `most`, or deep nesting: walking through them would take long.
    """
    if depth > MAX_DIMENSIONS:
        raise Refused(f"more than {MAX_DIMENSIONS} nested levels")
    if not isinstance(value, (dict, list, tuple)):
        return 1
    if id(value) not in done:
        parts = value.values() if isinstance(value, dict) else value
        done[id(value)] = 1 + sum(_num_parts(part, most, done, depth + 1) for part in parts)
    if done[id(value)] > most:
        raise Refused("parts that are shared so often that they multiply")
    return done[id(value)]
