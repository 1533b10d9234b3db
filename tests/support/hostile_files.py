"""Files made to do harm: pickles that run a command, bombs, sizes that lie, paths that lead out."""
from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch


class Evil:
    """Makes a file when an ordinary unpickler reads it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def png_of_size(width: int, height: int, data: bytes = b"") -> bytes:
    """A grey PNG that says it has this size, with the given pixel data (zlib of b'' if none)."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(data, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c))
        for k, c in chunks)


def png_with_text_bomb() -> bytes:
    """A sound picture whose compressed comment unpacks to 200 MB."""
    text = b"comment\0\0" + zlib.compress(b"a" * (200 << 20), 9)
    sound = png_of_size(8, 8, b"\0" * 72)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(
        ">I", zlib.crc32(b"zTXt" + text))
    return sound[:33] + chunk + sound[33:]


def npy_of_shape(shape: str, dtype: str = "<f8", data: bytes = b"\0" * 128) -> bytes:
    """An .npy file whose head states a shape that its data does not have."""
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + data


def zip_of(compression: int = zipfile.ZIP_STORED, **entries: bytes) -> bytes:
    """A zip archive; __ in the name of an entry stands for /, _dot_ for a dot."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name.replace("_dot_", ".").replace("__", "/"), data)
    return out.getvalue()


def zip_that_lies() -> bytes:
    """An .npz whose directory says that an entry takes 4 GB."""
    sound = zip_of(world_mat_0_dot_npy=bytes(200))
    start = sound.rindex(b"PK\x01\x02") + 20                  # of the size in the directory
    return sound[:start] + (4_294_967_167).to_bytes(4, "little") + sound[start + 4:]


def checkpoint_program(numel: int, sides: tuple[int, ...], steps: tuple[int, ...]) -> bytes:
    """The pickle of {'sdf': tensor} by hand: a storage of `numel` floats, a shape and strides."""
    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(pickle.dumps(v, 2)[2:-1] for v in values) + b"t"
    storage = (b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
               b"X\x03\x00\x00\x00cpu" + pickle.dumps(numel, 2)[2:-1] + b"tQ")
    tensor = (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + numbers(sides)
              + numbers(steps) + b"\x89ccollections\nOrderedDict\n)RtR")
    return b"\x80\x02}X\x03\x00\x00\x00sdf" + tensor + b"s."


def checkpoint_of(program: bytes, storage: bytes = b"\0" * 16,
                  compression: int = zipfile.ZIP_STORED) -> bytes:
    """A checkpoint of torch with this pickle and one storage."""
    return zip_of(compression, a__data_dot_pkl=program, a__byteorder=b"little",
                  a__data__0=storage, a__version=b"3\n")


def nested_keys() -> bytes:
    """A pickle of a dict whose key is a tuple that takes 2**60 steps to hash."""
    return b"}" + b"K\x01" + b"2\x86" * 60 + b"K\x01s."


def shared_lists(levels: int = 26) -> list:
    """2**levels numbers in a few hundred bytes."""
    part = [0.0]
    for _ in range(levels):
        part = [part, part]
    return part


def yaml_laughs() -> str:
    """Nine lines that become 10**9 words, for whoever prints or counts them."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    return "\n".join([*lines, "center: *a8", "radius: 1"])


def ply_head(*lines: str, encoding: str = "binary_little_endian") -> bytes:
    """A PLY's head."""
    return "\n".join(["ply", f"format {encoding} 1.0", *lines, "end_header", ""]).encode()


def old_checkpoint(numel: int) -> bytes:
    """A file of torch before 1.6 whose storage claims to have `numel` floats."""
    out = io.BytesIO()
    torch.save({"sdf": torch.zeros(4)}, out, _use_new_zipfile_serialization=False)
    return out.getvalue().replace(b"K\x04Ntq", pickle.dumps(numel, 2)[2:-1] + b"Ntq")


def lying_flo(width: int, height: int) -> bytes:
    """A flow file's head without pixels."""
    return struct.pack("<fii", 202021.25, width, height)


def object_npz(marker: Path) -> bytes:
    """A cameras file with a pickle in it."""
    out = io.BytesIO()
    np.savez(out, world_mat_0=np.array([Evil(marker)], dtype=object))
    return out.getvalue()
