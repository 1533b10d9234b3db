"""A simplified mesh stays near the surface, and nothing of it is lost in reordering."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from data_processing.synthetic.analytic_sdf import torus
from sdf_meshing import Mesh, extract_mesh
from stages.exporting import simplification
from stages.exporting.simplification import distance_to, in_order, onto_surface, simplify

SDF = torus(0.5, 0.22)
MESH = extract_mesh(SDF, resolution=64)


def area(mesh: Mesh) -> float:
    corners = mesh.vertices_obj[mesh.faces].astype(np.float64)
    return float(np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0],
                                         corners[:, 2] - corners[:, 0]), axis=-1).sum() / 2)


@pytest.mark.skipif(not simplification.importlib.util.find_spec("fast_simplification"),
                    reason="fast-simplification is not installed")
def test_a_mesh_is_simplified_within_the_tolerance():
    found = simplify(MESH, SDF, 1e-3)
    assert found.num_before == len(MESH.faces) and len(found.mesh.faces) < 0.7 * len(MESH.faces)
    assert found.distance <= found.distance_before + 1e-3
    assert np.isclose(found.distance, distance_to(found.mesh, SDF))
    # Pappus: a torus has the area 4 pi^2 R r; chords lie within by some percent
    assert 0.93 < area(found.mesh) / (4 * np.pi ** 2 * 0.5 * 0.22) < 1.0
    assert len(simplify(MESH, SDF, 3e-3).mesh.faces) < len(found.mesh.faces)


def test_without_the_package_or_a_tolerance_all_triangles_stay(monkeypatch, caplog):
    assert len(simplify(MESH, SDF, 0.0).mesh.faces) == len(MESH.faces)
    monkeypatch.setattr(simplification.importlib.util, "find_spec", lambda name: None)
    assert len(simplify(MESH, SDF, 1e-2).mesh.faces) == len(MESH.faces)
    assert "pip install fast-simplification" in caplog.text


def test_vertices_are_moved_onto_the_surface():
    rough = Mesh(MESH.vertices_obj + np.float32(0.002) * MESH.normals_obj, MESH.faces,
                 MESH.normals_obj)
    before = SDF(torch.from_numpy(rough.vertices_obj)).abs()
    after = SDF(torch.from_numpy(onto_surface(rough, SDF).vertices_obj)).abs()
    assert before.median() > 1.5e-3
    # one Newton step of an exact distance; the ends of marching cubes' slivers stay
    assert after.quantile(0.7) < 2e-5


def test_the_distance_is_the_offset():
    moved = Mesh(MESH.vertices_obj, MESH.faces, MESH.normals_obj)
    assert np.isclose(distance_to(moved, lambda x: 3 * (SDF(x) + 0.05)), 0.05, atol=5e-3)


def test_reordering_keeps_triangles_and_drops_what_no_triangle_uses():
    unused = np.concatenate([np.full((1, 3), 9, np.float32), MESH.vertices_obj])
    found = in_order(Mesh(unused, MESH.faces + 1, np.concatenate([unused[:1], MESH.normals_obj])))
    assert len(found.vertices_obj) == len(MESH.vertices_obj)

    def corners(mesh):
        return sorted(map(tuple, mesh.vertices_obj[mesh.faces].reshape(len(mesh.faces), 9)))

    assert corners(found) == corners(MESH)
    assert found.faces[0].tolist() == sorted(found.faces[0].tolist()) and found.faces[0, 0] == 0
    # neighbours in the file share vertices: far fewer jumps than as marching cubes left them
    jump = np.abs(np.diff(found.faces[:, 0])).mean()
    assert jump < 0.5 * len(found.vertices_obj) / 10
