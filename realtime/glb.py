"""The mesh of an exported scene as a GLB file (glTF 2.0): positions, colours, triangles, unlit.

Only what `write_glb` writes is read: one primitive, float32 positions, packed tightly. So a length
that lies is found before memory is taken, and a page can read the file in 20 lines.
"""
from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from realtime.scene import TriangleMesh
from utils.errors import ExportedSceneError
from utils.files.glb import linear_from_srgb, to_upright

MAGIC, VERSION = b"glTF", 2
JSON_CHUNK, BIN_CHUNK = 0x4E4F534A, 0x004E4942
FLOAT, UINT8, UINT16, UINT32 = 5126, 5121, 5123, 5125
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
#: Vertices and triangles that a mesh may have.
MAX_COUNT = 5_000_000


def write_glb(mesh: TriangleMesh, up: tuple[float, float, float]) -> bytes:
    """Return a mesh as a GLB file.

    Args:
        mesh: in object space, not empty.
        up: unit vector, object space, that other viewers are to show upright.
    """
    index_type = np.uint16 if len(mesh.vertices_obj) < 2 ** 16 else np.uint32
    arrays = [np.ascontiguousarray(mesh.vertices_obj, "<f4"),
              np.ascontiguousarray(mesh.faces.astype(index_type)).reshape(-1)]
    attributes = {"POSITION": 0}
    accessors: list[dict[str, Any]] = [
        {"bufferView": 0, "componentType": FLOAT, "count": len(arrays[0]), "type": "VEC3",
         "min": arrays[0].min(0).tolist(), "max": arrays[0].max(0).tolist()},
        {"bufferView": 1, "componentType": UINT16 if index_type is np.uint16 else UINT32,
         "count": len(arrays[1]), "type": "SCALAR"}]
    if mesh.colours is not None:
        opaque = np.full((len(mesh.colours), 1), 255, np.uint8)
        linear = (linear_from_srgb(mesh.colours) * 255).round().astype(np.uint8)
        arrays.append(np.concatenate([linear, opaque], 1))
        attributes["COLOR_0"] = 2
        accessors.append({"bufferView": 2, "componentType": UINT8, "normalized": True,
                          "count": len(arrays[2]), "type": "VEC4"})
    views, chunk = [], b""
    for number, array in enumerate(arrays):
        data = array.tobytes()
        views.append({"buffer": 0, "byteOffset": len(chunk), "byteLength": len(data),
                      "target": ELEMENT_ARRAY_BUFFER if number == 1 else ARRAY_BUFFER})
        chunk += data + b"\0" * (-len(data) % 4)
    content = {
        "asset": {"version": "2.0", "generator": "MetaNLR++"}, "scene": 0,
        "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0, "rotation": to_upright(up)}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 1, "material": 0}]}],
        "materials": [{"extensions": {"KHR_materials_unlit": {}}, "doubleSided": True}],
        "extensionsUsed": ["KHR_materials_unlit"],
        "accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(chunk)}]}
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    length = 12 + 8 + len(text) + 8 + len(chunk)
    return (struct.pack("<4sII", MAGIC, VERSION, length)
            + struct.pack("<II", len(text), JSON_CHUNK) + text
            + struct.pack("<II", len(chunk), BIN_CHUNK) + chunk)


def read_glb(data: bytes, name: str) -> TriangleMesh:
    """Return the mesh of a GLB file as `write_glb` writes it.

    Raises:
        ExportedSceneError: damaged, or another kind of GLB file.
    """
    try:
        content, chunk = _chunks(data)
        primitive = content["meshes"][0]["primitives"][0]
        vertices = _array(content, chunk, primitive["attributes"]["POSITION"], 3)
        faces = _array(content, chunk, primitive["indices"], 1).astype(np.int64)
        colours = None
        if "COLOR_0" in primitive["attributes"]:
            colours = _array(content, chunk, primitive["attributes"]["COLOR_0"], 4)[:, :3]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError,
            struct.error) as problem:
        raise _damaged(name, f"no readable GLB file ({problem!r})") from problem
    if vertices.dtype != np.float32 or faces.size % 3 or not len(faces):
        raise _damaged(name, "positions or triangles of another kind")
    if not np.isfinite(vertices).all() or np.abs(vertices).max(initial=0) > 1e3:
        raise _damaged(name, "positions that are not in object space")
    if faces.max() >= len(vertices):
        raise _damaged(name, f"a triangle of vertex {faces.max()}, there are {len(vertices)}")
    if colours is not None and (colours.dtype != np.uint8 or len(colours) != len(vertices)):
        raise _damaged(name, "colours of another kind or number than vertices")
    return TriangleMesh(vertices.copy(), faces.reshape(-1, 3),
                        None if colours is None else _as_srgb(colours))


def _damaged(name: str, found: str) -> ExportedSceneError:
    return ExportedSceneError(f"{name}: {found}, need the mesh of an exported scene; export or "
                              "copy the scene again")


def _chunks(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the description and the buffer of a GLB file; ValueError where lengths lie."""
    magic, version, length = struct.unpack("<4sII", data[:12])
    if magic != MAGIC or version != VERSION or length != len(data):
        raise ValueError(f"it states {length:,} bytes and has {len(data):,}")
    found, start = [], 12
    for kind in (JSON_CHUNK, BIN_CHUNK):
        size, stated = struct.unpack("<II", data[start:start + 8])
        if stated != kind or start + 8 + size > len(data):
            raise ValueError(f"a chunk of {size:,} bytes at byte {start}")
        found.append(data[start + 8:start + 8 + size])
        start += 8 + size
    return json.loads(found[0]), found[1]


def _array(content: dict[str, Any], chunk: bytes, accessor: int, width: int) -> np.ndarray:
    """Return an accessor's numbers, (count, width), or (count,) where the width is 1."""
    described = content["accessors"][_index(accessor)]
    view = content["bufferViews"][_index(described["bufferView"])]
    start, count = _index(view["byteOffset"]), _index(described["count"])
    types = {FLOAT: "<f4", UINT8: "u1", UINT16: "<u2", UINT32: "<u4"}
    kind = np.dtype(types[described["componentType"]])
    size = count * width * kind.itemsize
    if described["type"] != {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[width] or "byteStride" in view:
        raise ValueError(f"an array of kind {described['type']}")
    if count > MAX_COUNT * (3 if width == 1 else 1) or start + size > len(chunk):
        raise ValueError(f"an array of {count:,} at byte {start:,} of {len(chunk):,}")
    found = np.frombuffer(chunk, kind, count * width, start)
    return found.reshape(-1, width) if width > 1 else found


def _index(value: Any) -> int:
    """Return a whole number of at least 0; ValueError for anything else."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} where a whole number belongs")
    return value


def _as_srgb(colours: np.ndarray) -> np.ndarray:
    """Return linear colours uint8 as sRGB, uint8: what was written, to its rounding."""
    value = colours / 255
    srgb = np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)
    return (srgb * 255).round().astype(np.uint8)
