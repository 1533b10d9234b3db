"""A mesh with fewer triangles, within a stated distance of the surface, in an order that is good
to store and to draw."""
from __future__ import annotations

import importlib
import importlib.util
import logging
from dataclasses import dataclass

import numpy as np
import torch

from sdf_meshing import CHUNK_CPU, Mesh, sample_surface
from utils.geometry.sdf import Sdf, gradient

log = logging.getLogger(__name__)

#: Points of the surface at which its distance is measured.
NUM_SAMPLES = 20_000
#: Fraction of them that must be within the tolerance: slivers at creases are left out.
QUANTILE = 0.99
#: Fractions of the triangles that are tried, and how many rounds of halving the interval follow.
LEAST_FACES, NUM_ROUNDS = 1_000, 7
#: Cells along a side of the curve that triangles are ordered along.
CELLS = 1 << 10


@dataclass(frozen=True)
class Simplified:
    """A mesh with fewer triangles.

    Attributes:
        mesh: the mesh.
        num_before: triangles before.
        distance: from the surface, object units: QUANTILE of points of the mesh are nearer.
        distance_before: the same of the mesh before.
    """

    mesh: Mesh
    num_before: int
    distance: float
    distance_before: float


def simplify(mesh: Mesh, sdf: Sdf, tolerance: float, *,
             device: torch.device | str = "cpu") -> Simplified:
    """Return the mesh with the fewest triangles that costs no more than a distance.

    Quadric edge collapse (the extra `export`), its vertices then moved onto the surface; without
    the extra the mesh keeps its triangles, and a line is logged.

    Args:
        mesh: not empty.
        sdf: its zero level is the surface.
        tolerance: by which the distance from the surface may grow, object units; 0: the mesh keeps
            its triangles.
        device: of the SDF.
    """
    num_before = len(mesh.faces)
    mesh = onto_surface(mesh, sdf, device)
    before = distance_to(mesh, sdf, device)
    best = Simplified(mesh, num_before, before, before)
    if tolerance <= 0:
        return best
    if importlib.util.find_spec("fast_simplification") is None:
        log.warning("fast-simplification is not installed: the exported mesh has all of its %d "
                    "triangles; pip install fast-simplification", num_before)
        return best
    low, high = min(LEAST_FACES / num_before, 1.0), 1.0
    for _ in range(NUM_ROUNDS):                   # on a scale of logarithms
        middle = (low * high) ** 0.5
        found = _collapsed(mesh, middle)
        if not found.is_empty:
            found = onto_surface(found, sdf, device)
        distance = np.inf if found.is_empty else distance_to(found, sdf, device)
        if distance <= before + tolerance:
            best, high = Simplified(found, num_before, distance, before), middle
        else:
            low = middle
    return best


def onto_surface(mesh: Mesh, sdf: Sdf, device: torch.device | str = "cpu") -> Mesh:
    """Return the mesh with its vertices moved onto the zero level, by one Newton step each.

    A vertex that would move farther than half its shortest edge stays: near creases steps mislead.
    """
    points = torch.from_numpy(mesh.vertices_obj)
    edges = np.linalg.norm(mesh.vertices_obj[mesh.faces] - mesh.vertices_obj[
        np.roll(mesh.faces, 1, 1)], axis=-1).astype(np.float32)            # (F, 3)
    shortest = np.full(len(points), np.inf, np.float32)
    for corner in range(3):                       # an edge counts for both its ends
        np.minimum.at(shortest, mesh.faces[:, corner], edges[:, corner])
        np.minimum.at(shortest, mesh.faces[:, corner - 1], edges[:, corner])
    moved = []
    for part in points.split(CHUNK_CPU):
        value, grad = gradient(sdf, part.to(device), create_graph=False)
        step = (value[:, None] * grad / grad.square().sum(-1, keepdim=True).clamp(min=0.01))
        moved.append(step.detach().float().cpu())
    steps = torch.cat(moved)
    is_small = steps.norm(dim=-1) <= 0.5 * torch.from_numpy(shortest)
    vertices = (points - steps * is_small[:, None]).numpy()
    return Mesh(vertices, mesh.faces, _vertex_normals(vertices, mesh.faces))


def _collapsed(mesh: Mesh, fraction: float) -> Mesh:
    """Return the mesh with about this fraction of its triangles."""
    library = importlib.import_module("fast_simplification")
    vertices, faces = library.simplify(mesh.vertices_obj, mesh.faces.astype(np.int32),
                                       1 - fraction)
    faces = np.asarray(faces, np.int64).reshape(-1, 3)
    return Mesh(np.asarray(vertices, np.float32), faces, _vertex_normals(vertices, faces))


def _vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return area-weighted unit normals (N, 3)."""
    corners = vertices[faces].astype(np.float64)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.stack([np.bincount(faces.ravel(), np.repeat(cross[:, i], 3), len(vertices))
                        for i in range(3)], -1)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return (normals / np.maximum(length, 1e-20)).astype(np.float32)


def distance_to(mesh: Mesh, sdf: Sdf, device: torch.device | str = "cpu") -> float:
    """Return the distance from the surface below which QUANTILE of a mesh's points are.

    To first order, |Phi| / |grad Phi|, as the gradient of a trained SDF is not quite a unit long.
    """
    points = torch.from_numpy(sample_surface(mesh, NUM_SAMPLES)[0]).float().to(device)
    found = []
    for part in points.split(CHUNK_CPU):
        value, grad = gradient(sdf, part, create_graph=False)
        found.append((value.abs() / grad.norm(dim=-1).clamp(min=0.1)).detach())
    return float(torch.cat(found).quantile(QUANTILE))


def in_order(mesh: Mesh) -> Mesh:
    """Return the mesh with triangles along a space-filling curve, vertices in the order of use.

    Neighbours in the file are neighbours on the surface then: caches hold them, and files that
    are compressed get smaller. Vertices without a triangle are left out.
    """
    centres = mesh.vertices_obj[mesh.faces].mean(1)
    low = centres.min(0)
    span = max(float((centres.max(0) - low).max()), 1e-12)
    cell = np.minimum((centres - low) / span * CELLS, CELLS - 1).astype(np.int64)
    faces = mesh.faces[np.argsort(_morton(cell), kind="stable")]
    used, first, inverse = np.unique(faces, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    kept = used[order]
    return Mesh(mesh.vertices_obj[kept], place[inverse].reshape(-1, 3).astype(np.int64),
                mesh.normals_obj[kept])


def _morton(cell: np.ndarray) -> np.ndarray:
    """Return the number (N,) of cells (N, 3) of ten bits a side along the Morton curve."""
    code = np.zeros(len(cell), np.int64)
    for bit in range(10):
        for axis in range(3):
            code |= (cell[:, axis] >> bit & 1) << (3 * bit + axis)
    return code
