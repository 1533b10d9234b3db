"""Damage to files: bytes, numbers in text, values in JSON and in pickles, entries of archives.

Each function takes content and a numpy Generator, and gives damaged content of the same kind.
"""
from __future__ import annotations

import io
import json
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

MOST_BYTES = 1 << 20              # a mutant is cut here
NUMBERS = (0, 1, 2, 3, 127, 128, 255, 256, 4096, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1,
           2**40, 2**62, 2**63 - 1, 2**64 - 1)
WORDS = ("nan", "inf", "-inf", "1e999", "-1e999", "1e308", "1e39", "1e-320", "-0", "0", "-1", "1",
         "0.5", "1e15", "2147483648", "-9223372036854775809", "9" * 30, "9" * 5000, "", "1,5",
         "0x10", "null", "true", "\u00b2", "1_0", "[", "]", "{", "\"", "a b", "../../etc/passwd",
         "/etc/passwd", "..", ".", "~", "x" * 300, "\x00", "C:\\x", "con", "#", "&a", "*a",
         "!!python/name:os.system")
NUMBER = re.compile(rb"-?\d+\.?\d*(?:e[-+]?\d+)?", re.IGNORECASE)
WORD = re.compile(rb"[^\s,:=\"{}\[\]]+")
VALUES = (None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 0.0, 1e-320, 1e308, float("nan"),
          float("inf"), float("-inf"), 1e20, "", "x", "../../x", "/etc/passwd", "\ud800", "\0",
          "n" * 300, "n" * 5000, [], {}, [[]], [1, [2]], [[1, 2], [3]], {"a": 1}, [None] * 4,
          [[0.0] * 4] * 4, [[1e308] * 4] * 4, [[float("nan")] * 4] * 4, [1, 2, 3], [[1] * 3] * 3)
ARRAYS = (np.zeros((4, 4)), np.eye(4) * 1e308, np.eye(4) * 1e-310, np.full((4, 4), np.nan),
          np.eye(4, dtype=complex), np.eye(4, dtype=np.int8), np.eye(4, dtype=bool),
          np.array([["a"] * 4] * 4), np.zeros((0, 4)), np.zeros((4, 0, 4)), np.array(3.0),
          np.array([None, 1], object), np.eye(4)[::-1], np.diag([1, 1, 1, -1.0]),
          np.diag([1e-200, 1, 1, 1]), np.diag([1e14, 1, 1, 1]), np.eye(4, dtype=np.float16))

TENSORS = (torch.zeros(()), torch.zeros(0), torch.ones(3), torch.full((2, 2), torch.nan),
           torch.ones(2, 2, dtype=torch.complex64), torch.ones(2, 2, dtype=torch.int64),
           torch.ones(4, dtype=torch.bool), torch.ones(5000, dtype=torch.uint8),
           torch.ones(2, 3, 4, dtype=torch.bfloat16), torch.tensor(1e300, dtype=torch.float64))

Mutation = Callable[[bytes, np.random.Generator], bytes]


def damage_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four small changes: bits, bytes, numbers, cuts, copies, insertions."""
    for _ in range(1 + int(rng.integers(4)) * int(rng.integers(2))):
        data = _CHANGES[rng.integers(len(_CHANGES))](data or b"\0", rng)
    return data[:MOST_BYTES]


def _place(data: bytes, rng: np.random.Generator) -> int:
    """A position, in half of the cases near the front, where heads are."""
    return int(rng.integers(min(len(data), 128) if rng.integers(2) else len(data)))


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    at = _place(data, rng)
    return data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1:]


def _set(data: bytes, rng: np.random.Generator) -> bytes:
    at, count = _place(data, rng), int(rng.integers(1, 9))
    return data[:at] + rng.bytes(count) + data[at + count:]


def _number(data: bytes, rng: np.random.Generator) -> bytes:
    at, value = _place(data, rng), NUMBERS[rng.integers(len(NUMBERS))]
    order, form = "<>"[rng.integers(2)], "BHIQ"[rng.integers(4)]
    size = struct.calcsize(form)
    return data[:at] + struct.pack(order + form, value % 256**size) + data[at + size:]


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[:_place(data, rng)]


def _remove(data: bytes, rng: np.random.Generator) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 64)):]


def _insert(data: bytes, rng: np.random.Generator) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.bytes(int(rng.integers(1, 16))) + data[at:]


def _copy(data: bytes, rng: np.random.Generator) -> bytes:
    start, at = _place(data, rng), _place(data, rng)
    return data[:at] + data[start:start + int(rng.integers(1, 256))] + data[at:]


def _repeat(data: bytes, rng: np.random.Generator) -> bytes:
    start = _place(data, rng)
    piece = data[start:start + int(rng.integers(1, 16))]
    return data[:start] + piece * int(rng.integers(2, 3000)) + data[start:]


_CHANGES = (_flip, _flip, _set, _number, _number, _number, _cut, _remove, _insert, _copy, _repeat)


def damage_text(data: bytes, rng: np.random.Generator) -> bytes:
    """Another number, word or line; in one case of four bytes."""
    kind = int(rng.integers(4))
    if kind == 3:
        return damage_bytes(data, rng)
    if kind == 2:
        lines = data.split(b"\n")
        at, other = int(rng.integers(len(lines))), int(rng.integers(len(lines)))
        copies, kept = int(rng.integers(3)), int(rng.integers(2))
        lines[at:at + 1] = [lines[other]] * copies + [lines[at]] * kept
        return b"\n".join(lines)[:MOST_BYTES]
    for _ in range(int(rng.integers(1, 4))):
        found = list((NUMBER, WORD)[kind].finditer(data))
        if found:
            match = found[rng.integers(len(found))]
            word = WORDS[rng.integers(len(WORDS))].encode("utf-8")
            data = data[:match.start()] + word + data[match.end():]
    return data[:MOST_BYTES]


def damage_tree(value: Any, rng: np.random.Generator, values: tuple = VALUES) -> Any:
    """Nested dicts and lists with one part set, taken out, doubled or put elsewhere."""
    path, parts = [], value
    while isinstance(parts, (dict, list, tuple)) and len(parts) and (not path or rng.integers(5)):
        key = list(parts)[rng.integers(len(parts))] if isinstance(parts, dict) \
            else int(rng.integers(len(parts)))
        path.append(key)
        parts = parts[key]
    if not path:
        return values[rng.integers(len(values))]
    return _changed(value, path, rng, values)


def _changed(value: Any, path: list, rng: np.random.Generator, values: tuple) -> Any:
    """The value with its part at the end of the path changed."""
    key, *rest = path
    out = dict(value) if isinstance(value, dict) else list(value)
    if rest:
        out[key] = _changed(value[key], rest, rng, values)
    elif (kind := int(rng.integers(8))) == 0:
        del out[key]
    elif kind == 1 and isinstance(out, dict):
        out[("k", 7, None, "k" * 300, "../k")[rng.integers(5)]] = out.pop(key)
    elif kind == 1:
        out.insert(key, out[key])
    elif kind == 2:
        out[key] = [value] * int(rng.integers(1, 40))
    else:
        out[key] = values[rng.integers(len(values))]
    return type(value)(out) if isinstance(value, tuple) else out


def damage_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Other values in the tree, sometimes very deep ones; in one case of three, of text."""
    kind = int(rng.integers(12))
    if kind < 4:
        return damage_text(data, rng)
    if kind == 4:
        deep = b"[" * int(rng.integers(1, 100_000))
        at = data.find(b"[") + 1
        return (data[:at] + deep + b"]" * len(deep) * int(rng.integers(2)) + data[at:])[:MOST_BYTES]
    content = json.loads(data)
    for _ in range(int(rng.integers(1, 4))):
        content = damage_tree(content, rng)
    return json.dumps(content, default=str).encode("utf-8", "surrogatepass")[:MOST_BYTES]


#: What a number of a table becomes.
VALUES_OF_TABLES = (0.0, -1.0, np.nan, np.inf, 1e300, -1e300, 1e-300, 1e6)


def damage_npy(data: bytes, rng: np.random.Generator) -> bytes:
    """A dict or a table of `numpy.save` with other values; in half of the cases, of bytes."""
    if rng.integers(2):
        return damage_bytes(data, rng)
    content, out = np.load(io.BytesIO(data), allow_pickle=True), io.BytesIO()
    if content.ndim:
        content.flat[rng.integers(content.size)] = VALUES_OF_TABLES[
            rng.integers(len(VALUES_OF_TABLES))]
        np.save(out, content[:, :rng.integers(2, content.shape[1] + 1)]
                if not rng.integers(4) else content)
        return out.getvalue()
    content = damage_tree(content.item(), rng, (*VALUES, *ARRAYS))
    np.save(out, np.array(content, dtype=object), allow_pickle=True)
    return out.getvalue()


def damage_pickle(data: bytes, rng: np.random.Generator) -> bytes:
    """A pickle with other values, of any protocol; in half of the cases, of bytes."""
    if rng.integers(2):
        return damage_bytes(data, rng)
    content = damage_tree(pickle.loads(data), rng, (*VALUES, *ARRAYS))
    return pickle.dumps(content, int(rng.integers(6)))


def damage_zip(data: bytes, rng: np.random.Generator) -> bytes:
    """An archive with one entry damaged, renamed, doubled or left out, and sound sums; in one case
    of three, bytes of the archive itself."""
    if not rng.integers(3):
        return damage_bytes(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    weights = [3 if name.endswith((".pkl", ".json")) else 1 for name, _ in entries]
    at = int(rng.choice(len(entries), p=np.array(weights) / sum(weights)))
    name, content = entries[at]
    kind = int(rng.integers(12))
    if kind == 0:
        del entries[at]
    elif kind == 1:
        entries.append((name, damage_bytes(content, rng)))
    elif kind == 2:
        entries[at] = (damage_bytes(name.encode(), rng).decode("utf-8", "replace")[:200], content)
    elif name.endswith(".json"):
        entries[at] = (name, damage_json(content, rng))
    else:
        entries[at] = (name, damage_bytes(content, rng))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if kind == 3 else 0) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def damage_state(data: bytes, rng: np.random.Generator) -> bytes:
    """A file of torch.save with other values, whose sums are sound; in half of the cases, of the
    archive (bytes of a file of torch before 1.6)."""
    if rng.integers(2):
        return damage_zip(data, rng) if data.startswith(b"PK") else damage_bytes(data, rng)
    content, out = torch.load(io.BytesIO(data), weights_only=True), io.BytesIO()
    for _ in range(int(rng.integers(1, 3))):
        content = damage_tree(content, rng, (*VALUES, *TENSORS))
    torch.save(content, out, _use_new_zipfile_serialization=data.startswith(b"PK"))
    return out.getvalue()


def damage_matlab(data: bytes, rng: np.random.Generator) -> bytes:
    """A MATLAB file with bytes of one element damaged, which is packed again if it was; in one case
    of three, bytes of the file."""
    if not rng.integers(3):
        return damage_bytes(data, rng)
    elements, at = [], 128
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<2I", data, at)
        elements.append((kind, data[at + 8:at + 8 + length]))
        at += 8 + length
    at = int(rng.integers(len(elements)))
    kind, content = elements[at]
    content = zlib.compress(damage_bytes(zlib.decompress(content), rng)) if kind == 15 \
        else damage_bytes(content, rng)
    elements[at] = (kind, content)
    return data[:128] + b"".join(struct.pack("<2I", kind, len(content)) + content
                                 for kind, content in elements)


def damage_png(data: bytes, rng: np.random.Generator) -> bytes:
    """A picture with one chunk damaged, and sound sums; in one case of three, of bytes (as JPEG
    and other files always)."""
    if not data.startswith(b"\x89PNG") or not rng.integers(3):
        return damage_bytes(data, rng)
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4:at + 8], data[at + 8:at + 8 + length]))
        at += 12 + length
    at = int(rng.integers(len(chunks)))
    kind, content = chunks[at]
    if kind == b"IDAT" and rng.integers(2):
        content = zlib.compress(damage_bytes(zlib.decompress(content), rng))
    else:
        content = damage_bytes(content, rng)
    chunks[at] = (kind if rng.integers(4) else (b"tRNS", b"PLTE", b"eXIf", b"zTXt", b"acTL",
                                                b"iCCP", b"gAMA")[rng.integers(7)], content)
    if not rng.integers(6):
        chunks.insert(int(rng.integers(len(chunks))), chunks[rng.integers(len(chunks))])
    return data[:8] + b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(
        ">I", zlib.crc32(k + c)) for k, c in chunks)


#: Which damage suits a file, by its ending.
BY_SUFFIX: dict[str, Mutation] = {
    ".json": damage_json, ".txt": damage_text, ".csv": damage_text, ".yaml": damage_text,
    ".xml": damage_text, ".xyzn": damage_text, ".npy": damage_npy, ".pkl": damage_pickle,
    ".ckpt": damage_pickle, ".npz": damage_zip, ".pth": damage_state, ".zip": damage_zip,
    ".mat": damage_matlab, ".png": damage_png}


def damaged(name: str, data: bytes, rng: np.random.Generator) -> bytes:
    """The content of a file of this name, damaged in a way that suits it."""
    suffix = name[name.rfind("."):]
    mutation = BY_SUFFIX.get(suffix, damage_bytes)
    if suffix == ".ply" and data[:20].find(b"ascii") > 0 or (suffix == ".ply" and rng.integers(2)):
        mutation = damage_head
    return mutation(data, rng)


def damage_head(data: bytes, rng: np.random.Generator) -> bytes:
    """The text of a PLY's head, or all of an ascii one."""
    end = data.find(b"end_header") if b"ascii" not in data[:20] else len(data)
    return damage_text(data[:end], rng) + data[end:]
