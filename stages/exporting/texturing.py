"""A mesh with a texture of the photographs, for programs that show GLB files.

The surface is cut into charts that lie flat side by side in a square picture (xatlas, in the extra
`export`); each texel is a point of the surface, and is blended from the photographs that see it.
"""
from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from realtime.mesh_rays import pixels_of_rectangles
from sdf_meshing import Mesh
from utils.errors import ConfigError, MissingExtraError, WriteError
from utils.files.atomic import whole_file
from utils.files.glb import Texture, write_glb

#: Texels between charts, so that filters do not mix them.
PADDING = 3
#: Triangles are a little larger where texels are sought in them: none on an edge is left out.
EDGE = -1e-5
QUALITY = 92


@dataclass(frozen=True)
class Unwrapped:
    """A mesh whose vertices are doubled along the borders of charts.

    Attributes:
        mesh: in object space.
        uv: (N, 2) float32 in [0, 1], from the top left corner of the texture.
    """

    mesh: Mesh
    uv: np.ndarray


@dataclass(frozen=True)
class Texels:
    """The T texels of a texture that show the surface.

    Attributes:
        index: (T,) int64, numbered row by row.
        points_obj, normals_obj: (T, 3) float32.
    """

    index: np.ndarray
    points_obj: np.ndarray
    normals_obj: np.ndarray


def check_textured(path: Path, overwrite: bool) -> None:
    """Check that a textured mesh can be made before anything is computed.

    Raises:
        MissingExtraError: xatlas is not installed.
        UserError: the name is not one of a GLB file, or is taken.
    """
    if path.suffix != ".glb":
        raise ConfigError(f"--textured_mesh {path}: need a name that ends in .glb")
    if path.exists() and not overwrite:
        raise WriteError(f"{path} exists already; give another --textured_mesh or --overwrite 1")
    if importlib.util.find_spec("xatlas") is None:
        raise MissingExtraError("--textured_mesh needs xatlas: pip install xatlas")


def unwrap(mesh: Mesh, size: int) -> Unwrapped:
    """Return a mesh whose charts fill a texture of `size` x `size` texels without overlaps."""
    xatlas = importlib.import_module("xatlas")
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices_obj, mesh.faces.astype(np.uint32), mesh.normals_obj)
    options = xatlas.PackOptions()
    options.resolution, options.padding = size, PADDING
    atlas.generate(pack_options=options)
    vertices, faces, uv = atlas[0]
    vertices = vertices.astype(np.int64)
    doubled = Mesh(mesh.vertices_obj[vertices], faces.astype(np.int64), mesh.normals_obj[vertices])
    return Unwrapped(doubled, np.ascontiguousarray(uv, np.float32))


def texels_of(unwrapped: Unwrapped, size: int) -> Texels:
    """Return the texels whose centres lie in a triangle of the unwrapped mesh."""
    mesh = unwrapped.mesh
    corners = torch.from_numpy(unwrapped.uv[mesh.faces]).double() * size         # (F, 3, 2)
    low = (corners.amin(1) - 0.5).ceil().clamp(min=0).long()
    high = (corners.amax(1) - 0.5).floor().clamp(max=size - 1).long()
    index, face = pixels_of_rectangles(low, (high - low + 1).clamp(min=0), size)
    place = torch.stack([index % size, index // size], -1) + 0.5
    weights = barycentric(corners[face], place)                                  # (M, 3)
    inside = weights.amin(-1) >= EDGE
    index, face, weights = index[inside].numpy(), face[inside].numpy(), weights[inside].numpy()
    index, first = np.unique(index, return_index=True)
    weights = weights[first].astype(np.float32)[..., None]
    own = mesh.faces[face[first]]                                                # (T, 3)
    normals = (mesh.normals_obj[own] * weights).sum(1)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-20)
    return Texels(index, (mesh.vertices_obj[own] * weights).sum(1), normals)


def barycentric(corners: Tensor, places: Tensor) -> Tensor:
    """Return the weights (M, 3) that make places (M, 2) of the corners (M, 3, 2) of triangles.

    They sum to 1; those of a triangle without area are below 0.
    """
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    offset = places - corners[:, 0]
    area = cross_2d(first, second)
    safe = torch.where(area == 0, torch.ones_like(area), area)
    v, w = cross_2d(offset, second) / safe, cross_2d(first, offset) / safe
    found = torch.stack([1 - v - w, v, w], -1)
    return torch.where((area == 0)[:, None], torch.full_like(found, -1.0), found)


def cross_2d(a: Tensor, b: Tensor) -> Tensor:
    """Return the area (M,) that vectors (M, 2) span, with its sign."""
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def texture_of(texels: Texels, size: int, colours: np.ndarray) -> np.ndarray:
    """Return the texture (size, size, 3) uint8; around charts the nearest texel's colour goes on.

    Args:
        texels: T of them, at least one.
        size: of a side.
        colours: (T, 3) uint8.
    """
    picture = np.zeros((size * size, 3), np.uint8)
    picture[texels.index] = colours
    empty = np.ones(size * size, bool)
    empty[texels.index] = False
    nearest = ndimage.distance_transform_edt(empty.reshape(size, size), return_distances=False,
                                             return_indices=True)
    row, column = np.asarray(nearest)
    return picture.reshape(size, size, 3)[row, column]


def write_textured(path: Path, mesh: Mesh, size: int,
                   colours_at: Callable[[Mesh], np.ndarray], *, up: tuple[float, float, float],
                   to_world: Callable[[np.ndarray], np.ndarray]) -> int:
    """Write a mesh with its texture as a GLB file, in world units.

    Args:
        path: of the file.
        mesh: in object space, not empty.
        size: of a side of the texture.
        colours_at: the colours (N, 3) uint8 of a mesh's vertices.
        up: unit vector of world space that viewers are to show upright.
        to_world: takes points (N, 3) of object space to world space.
    Returns:
        Bytes of the file.
    """
    unwrapped = unwrap(mesh, size)
    texels = texels_of(unwrapped, size)
    no_faces = np.zeros((0, 3), np.int64)
    colours = colours_at(Mesh(texels.points_obj, no_faces, texels.normals_obj))
    data = io.BytesIO()
    Image.fromarray(texture_of(texels, size, colours)).save(data, "JPEG", quality=QUALITY,
                                                            subsampling=0)
    doubled = unwrapped.mesh
    with whole_file(path) as part:
        write_glb(part, to_world(doubled.vertices_obj), doubled.faces, up=up,
                  normals=to_world(doubled.normals_obj) - to_world(np.zeros(3)),
                  texture=Texture(unwrapped.uv, data.getvalue()))
    return path.stat().st_size
