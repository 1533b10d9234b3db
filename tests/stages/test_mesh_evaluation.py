"""evaluate_mesh.py on an analytic object written in DTU's layout, and on true points."""
from __future__ import annotations

import json

import numpy as np
import pytest
import trimesh
from scipy.io import savemat
from support.tiny_runs import call

from utils.errors import ConfigError, SceneError, UserError
from utils.files.matlab import read_matlab_array

CENTER, RADIUS = np.array([10.0, -20.0, 630.0]), 8.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """DTU's files of scan 7, a ball, all of whose surroundings were observed; and meshes of it.

    The table cuts the ball's lower half off. `near.ply` is 0.3 mm too large, `far.ply` elsewhere.
    """
    root = tmp_path_factory.mktemp("dtu")
    (root / "SampleSet/MVS Data/ObsMask").mkdir(parents=True)
    (root / "Points/stl").mkdir(parents=True)
    ball = trimesh.creation.icosphere(subdivisions=5, radius=RADIUS)
    points = np.asarray(ball.vertices)
    cloud = trimesh.Trimesh(points + CENTER, ball.faces, vertex_normals=points, process=False)
    cloud.export(root / "Points/stl/stl007_total.ply", vertex_normal=True)
    low = CENTER - 12
    savemat(root / "SampleSet/MVS Data/ObsMask/ObsMask7_10.mat",
            {"ObsMask": np.ones((13, 13, 13), np.uint8), "BB": np.stack([low, low + 24]),
             "Res": np.array([[2.0]]), "Margin": np.array([[10]])})
    savemat(root / "SampleSet/MVS Data/ObsMask/Plane7.mat",
            {"P": np.array([[0.0], [0], [1], [-CENTER[2]]])})
    for name, scale, move in (("near", 1 + 0.3 / RADIUS, 0), ("far", 1, 100)):
        mesh = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS * scale)
        mesh.apply_translation(CENTER + move)
        mesh.export(root / f"{name}.ply")
    return root


def measured(folder, *flags):
    """What the command writes as JSON."""
    call("evaluate_mesh", *flags, "--mesh_json", folder / "found.json")
    return json.loads((folder / "found.json").read_text())


def test_a_ball_in_dtus_layout(folder, capsys):
    """0.3 mm too large; both ways the nearest of points 0.2 mm apart lies a little off the foot."""
    found = measured(folder, "--mesh", folder / "near.ply", "--dtu_folder", folder, "--scan", 7)
    assert found["accuracy_mm"] == pytest.approx(0.3, abs=0.04)
    assert found["completeness_mm"] == pytest.approx(0.3, abs=0.04)
    assert found["of_these_observed"] == found["points_of_the_mesh"] > 4 * np.pi * 64 / 0.1
    assert found["points_of_the_scan"] == pytest.approx(10242 / 2, rel=0.03)
    printed = capsys.readouterr().out
    assert "overall mm" in printed and f"{found['overall_mm']:.4f}" in printed


def test_true_points_with_normals(folder):
    found = measured(folder, "--mesh", folder / "near.ply", "--points",
                     folder / "Points/stl/stl007_total.ply")
    assert found["chamfer"] == pytest.approx(0.3, abs=0.03)
    assert 0 < found["normal_error_degrees"] < 3           # of the facets
    bare = trimesh.PointCloud(trimesh.load(folder / "near.ply").vertices)
    bare.export(folder / "bare.ply")
    assert measured(folder, "--mesh", folder / "near.ply", "--points",
                    folder / "bare.ply")["normal_error_degrees"] is None


def test_the_mesh_of_a_run_far_from_the_origin(folder, tmp_path):
    """mesh.ply beside mesh_origin.txt against points in the coordinates of the world."""
    far = np.array([412345.6, 5412345.6, 312.4])
    (tmp_path / "mesh.ply").write_bytes((folder / "near.ply").read_bytes())
    (tmp_path / "mesh_origin.txt").write_text(" ".join(map(str, far)) + "\n")
    ball = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS)
    head = ["ply", "format ascii 1.0", f"element vertex {len(ball.vertices)}",
            *(f"property double {axis}" for axis in "xyz"), "end_header"]
    rows = [" ".join(map(repr, row)) for row in (ball.vertices + CENTER + far).tolist()]
    (tmp_path / "points.ply").write_text("\n".join([*head, *rows, ""]))
    flags = ("--mesh", tmp_path / "mesh.ply", "--points", tmp_path / "points.ply", "--mesh_json",
             tmp_path / "found.json")
    call("evaluate_mesh", *flags)
    # Sparse points lie up to half their spacing of 0.4 mm beside the foot.
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["chamfer"] == pytest.approx(0.3, abs=0.2)
    (tmp_path / "mesh_origin.txt").write_text("1 2\n")
    with pytest.raises(SceneError, match="mesh_origin.txt.*need 3"):
        call("evaluate_mesh", *flags)


def test_what_can_be_mended_is_said(folder, tmp_path):
    dtu = ("--dtu_folder", folder, "--scan", 7)
    with pytest.raises(ConfigError, match="mesh is missing"):
        call("evaluate_mesh", *dtu)
    for flags in ((), ("--dtu_folder", folder), (*dtu, "--points", "x.ply"), ("--scan", 7)):
        with pytest.raises(ConfigError, match="need either"):
            call("evaluate_mesh", "--mesh", folder / "near.ply", *flags)
    with pytest.raises(SceneError, match="do not meet.*world space"):
        call("evaluate_mesh", "--mesh", folder / "far.ply", *dtu)
    with pytest.raises(SceneError, match="stl008_total.ply not found"):
        call("evaluate_mesh", "--mesh", folder / "near.ply", "--dtu_folder", folder, "--scan", 8)
    with pytest.raises(SceneError, match="no triangles"):
        call("evaluate_mesh", "--mesh", folder / "bare.ply", *dtu)
    huge = trimesh.creation.icosphere(subdivisions=2, radius=RADIUS * 1e4)
    huge.export(tmp_path / "huge.ply")
    with pytest.raises(SceneError, match="millimetres"):
        call("evaluate_mesh", "--mesh", tmp_path / "huge.ply", *dtu)


@pytest.mark.parametrize("content, message", [
    (b"", "not readable"), (b"MATLAB 7.3 MAT-file" + b" " * 500, "not readable"),
    ({"P": np.zeros((4, 1, 1))}, "dimensions"), ({"Q": np.zeros(4)}, "absent"),
    ({"P": {"x": 1}}, "need numbers"), ({"P": np.array([["a"]])}, "need numbers")])
def test_matlab_files_that_are_no_such_array(tmp_path, content, message):
    path = tmp_path / "Plane.mat"
    if isinstance(content, dict):
        savemat(path, content)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_matlab_array(path, "P", 2)


def test_damaged_matlab_files_are_told(tmp_path):
    """Each cut, and bytes turned over at every fourth place: an array or an error of ours."""
    path = tmp_path / "Plane.mat"
    savemat(path, {"P": np.arange(4.0)[:, None]}, do_compression=True)
    whole = path.read_bytes()
    for place in range(0, len(whole), 4):
        turned = whole[:place] + bytes([whole[place] ^ 0xff]) + whole[place + 1:]
        for data in (whole[:place], turned):
            path.write_bytes(data)
            try:
                assert read_matlab_array(path, "P", 2).size < 1000
            except UserError as error:
                assert str(path) in str(error)
