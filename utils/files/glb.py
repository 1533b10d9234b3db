"""Meshes as binary glTF 2.0: one file that viewers and browsers open.

glTF multiplies vertex colours in linear light, while photographs and PLY hold sRGB levels: the
levels are converted, and stored in 16 bits, as 8 would merge dark ones. The material is rough and
not metallic, so that a viewer shows the colours and no reflections.
"""
from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAGIC, VERSION = b"glTF", 2
JSON_CHUNK, BINARY_CHUNK = b"JSON", b"BIN\0"
#: Component types and targets of buffers, as the standard numbers them.
UNSIGNED_SHORT, UNSIGNED_INT, FLOAT = 5123, 5125, 5126
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
TOP_SHORT = 65535
MATERIAL = {"name": "photographs", "pbrMetallicRoughness": {"metallicFactor": 0.0,
                                                            "roughnessFactor": 1.0}}
TEXTURED = {"name": "photographs", "extensions": {"KHR_materials_unlit": {}},
            "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0,
                                     "baseColorTexture": {"index": 0}}}


@dataclass(frozen=True)
class Texture:
    """The picture on a mesh.

    Attributes:
        uv: (N, 2) place of each vertex in it, [0, 1] from the top left corner.
        jpeg: the picture's file, sRGB.
    """

    uv: np.ndarray
    jpeg: bytes


def linear_from_srgb(levels: np.ndarray) -> np.ndarray:
    """Return linear light in [0, 1], float64, of sRGB levels (uint8), by IEC 61966-2-1."""
    share = levels.astype(np.float64) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def write_glb(path: Path, vertices: np.ndarray, faces: np.ndarray, *, normals: np.ndarray,
              colours: np.ndarray | None = None, texture: Texture | None = None,
              up: tuple[float, float, float] = (0.0, 1.0, 0.0)) -> None:
    """Write a mesh.

    Args:
        path: of the file.
        vertices: (N, 3), rounded to float32.
        faces: (F, 3) numbers of vertices, counter-clockwise seen from outside.
        normals: (N, 3), made unit.
        colours: (N, 3) uint8 sRGB levels; without them the mesh is white.
        texture: in place of colours. Photographs hold their light already, so that viewers that
            know KHR_materials_unlit add none.
        up: unit vector that viewers are to show upright.
    """
    points = np.ascontiguousarray(vertices, "<f4")
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    unit = np.where(length > 0, normals / np.where(length > 0, length, 1), [0.0, 0.0, 1.0])
    parts = [(np.ascontiguousarray(faces, "<u4").reshape(-1, 1),
              {"componentType": UNSIGNED_INT, "type": "SCALAR"}, ELEMENT_ARRAY_BUFFER),
             (points, {"componentType": FLOAT, "type": "VEC3", "min": points.min(0).tolist(),
                       "max": points.max(0).tolist()}, ARRAY_BUFFER),
             (unit.astype("<f4"), {"componentType": FLOAT, "type": "VEC3"}, ARRAY_BUFFER)]
    attributes = {"POSITION": 1, "NORMAL": 2}
    if colours is not None:                          # four shorts: elements begin at multiples of 4
        light = np.full((len(colours), 4), TOP_SHORT, "<u2")
        light[:, :3] = np.round(linear_from_srgb(colours) * TOP_SHORT)
        parts.append((light, {"componentType": UNSIGNED_SHORT, "type": "VEC4", "normalized": True},
                      ARRAY_BUFFER))
        attributes["COLOR_0"] = 3
    if texture is not None:
        parts.append((np.ascontiguousarray(texture.uv, "<f4"),
                      {"componentType": FLOAT, "type": "VEC2"}, ARRAY_BUFFER))
        attributes["TEXCOORD_0"] = 3
    path.write_bytes(_packed(parts, attributes, texture, to_upright(up)))


def to_upright(up: tuple[float, float, float]) -> list[float]:
    """Return the quaternion (x, y, z, w) that turns `up`, a unit vector, to glTF's +y, shortest."""
    x, y, z = up
    if y < -0.999999:
        return [1.0, 0.0, 0.0, 0.0]
    found = np.array([-z, 0.0, x, 1 + y])                  # (up x y, 1 + up . y)
    return (found / np.linalg.norm(found)).tolist()


def _packed(parts: list[tuple[np.ndarray, dict[str, Any], int]], attributes: dict[str, int],
            texture: Texture | None, rotation: list[float]) -> bytes:
    """Return the file of arrays (each with its accessor and target), the first of which is faces.
    """
    binary, views, accessors = b"", [], []
    for number, (array, accessor, target) in enumerate(parts):
        data = array.tobytes()                       # each a multiple of 4 bytes
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(data),
                      "target": target})
        accessors.append({"bufferView": number, "count": len(array), **accessor})
        binary += data
    content = {
        "asset": {"version": "2.0", "generator": "MetaNLR++"}, "scene": 0,
        "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0, "rotation": rotation}],
        "materials": [MATERIAL],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 0, "material": 0}]}],
        "accessors": accessors, "bufferViews": views}
    if texture is not None:
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(texture.jpeg)})
        binary += texture.jpeg + b"\0" * (-len(texture.jpeg) % 4)
        content |= {"images": [{"bufferView": len(views) - 1, "mimeType": "image/jpeg"}],
                    "textures": [{"source": 0}], "materials": [TEXTURED],
                    "extensionsUsed": ["KHR_materials_unlit"]}
    content["buffers"] = [{"byteLength": len(binary)}]
    head = json.dumps(content, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 4)
    length = 12 + 8 + len(head) + 8 + len(binary)
    return b"".join([MAGIC, struct.pack("<II", VERSION, length),
                     struct.pack("<I", len(head)), JSON_CHUNK, head,
                     struct.pack("<I", len(binary)), BINARY_CHUNK, binary])
