"""Captures of Polycam, LLFF, Metashape and MVS tools: round trips, bad input, named refusals."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from support.ball_scene import ball_scene
from support.capture_files import intrinsics, write_pictures
from support.tool_captures import (
    centred,
    write_llff,
    write_matrices,
    write_metashape,
    write_mvsnet,
    write_polycam,
    write_reality_capture,
    write_record3d,
)

from data_processing.captures.importing import import_capture
from data_processing.captures.readers.llff_format import read_llff
from data_processing.captures.readers.metashape_format import read_metashape
from data_processing.captures.readers.polycam_format import read_polycam
from data_processing.captures.readers.projection_format import read_matrices
from data_processing.captures.recognising import recognise
from data_processing.scenes.scene import Scene
from utils.config.tool_sections import ImportConfig
from utils.errors import SceneError

TURN = (2.5, Rotation.from_euler("xyz", [20, -30, 70], degrees=True).as_matrix(), (3.0, 1.0, -2.0))
WRITERS = {
    "polycam": write_polycam, "polycam_corrected": lambda s, f: write_polycam(s, f, True),
    "llff": write_llff, "llff_15": lambda s, f: write_llff(s, f, 15),
    "matrices": write_matrices,
    "matrices_contour": lambda s, f: write_matrices(s, f, "txt/{}.txt", "CONTOUR"),
    "matrices_negative": lambda s, f: write_matrices(s, f, "calib/{}_P.txt", None, -1e-3),
    "matrices_mvsnet": write_mvsnet, "metashape": write_metashape,
    "metashape_turned": lambda s, f: write_metashape(s, f, transform=TURN)}


@pytest.fixture(scope="module")
def ball() -> Scene:
    return centred(ball_scene(0.6, num_views=6, resolution=(32, 24)))


@pytest.fixture(scope="module")
def few() -> Scene:
    return centred(ball_scene(0.6, num_views=3, resolution=(16, 12)))


@pytest.mark.parametrize("name", list(WRITERS))
def test_round_trip(ball, tmp_path, name):
    """Images and masks to the bit; points are seen within a thousandth of a pixel of the truth."""
    WRITERS[name](ball, tmp_path / "capture")
    assert recognise(tmp_path / "capture") == name.partition("_")[0]
    found = import_capture(ImportConfig(input=str(tmp_path / "capture"),
                                        output=str(tmp_path / "scene"))).scene
    assert torch.equal(found.images, ball.images) and torch.equal(found.masks, ball.masks)
    world = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    model = found.cameras.model
    points_obj = (world - model[:3, 3]) @ torch.linalg.inv(model[:3, :3]).T
    expected, _ = ball.cameras.project(world)
    torch.testing.assert_close(found.cameras.project(points_obj)[0], expected, atol=6e-5, rtol=0)


def test_poses_of_a_larger_size_fit_smaller_images(few, tmp_path):
    """LLFF keeps images_4 beside the poses of full size."""
    folder = write_llff(few, tmp_path / "c")
    rows = np.load(folder / "poses_bounds.npy")
    rows[:, [4, 9, 14]] *= 4                                   # height, width and focal length
    np.save(folder / "poses_bounds.npy", rows)
    (folder / "images").rename(folder / "images_4")
    lens = read_llff(folder).views[0].lens
    assert lens.size == (64, 48)
    np.testing.assert_allclose(lens.resized((16, 12)).matrix, intrinsics(few)[0], atol=1e-5)


@pytest.mark.parametrize("terms, kind, distortion, is_fisheye", [
    ("<k1>0.1</k1><k2>-0.2</k2><k3>0.3</k3><p1>0.01</p1><p2>0.02</p2>", "frame",
     (0.1, -0.2, 0.02, 0.01, 0.3), False),
    ("<k1>0.1</k1><k4>-0.2</k4>", "fisheye", (0.1, 0, 0, -0.2), True)])
def test_lenses_of_metashape(few, tmp_path, terms, kind, distortion, is_fisheye):
    """Metashape adds P1 (r^2 + 2 x^2) + 2 P2 x y to x, OpenCV p2 (r^2 + 2 x^2) + 2 p1 x y."""
    found = read_metashape(write_metashape(few, tmp_path / "c", kind, terms)).views[0].lens
    assert found.distortion == distortion and found.is_fisheye == is_fisheye
    np.testing.assert_allclose(found.matrix, intrinsics(few)[0], atol=1e-9)


def test_cameras_of_metashape_that_are_left_out(few, tmp_path):
    path = write_metashape(few, tmp_path / "c") / "cameras.xml"
    text = path.read_text()
    camera = text[text.index('<camera id="2"'):text.index("</camera></cameras>")]
    extra = [camera.replace('label="002"', 'label="far"').replace('component_id="0"',
                                                                  'component_id="1"'),
             '<camera id="8" sensor_id="0" label="loose">',
             camera.replace('label="002"', 'label="off" enabled="false"'),
             camera.replace('label="002"', 'label="gone"')]
    path.write_text(text.replace("</camera></cameras>", "</camera>" + "".join(
        f"{part}</camera>" for part in extra) + "</cameras>"))
    found = read_metashape(tmp_path / "c")
    assert len(found.views) == 3
    assert [line.partition(":")[0] for line in found.left_out] == ["far", "loose", "off", "gone"]
    assert [word in line for word, line in zip(
        ("another component", "did not align", "switched off", "no such photograph"),
        found.left_out)] == [True] * 4


@pytest.mark.parametrize("old, new, message", [
    ("</document>", "", "not readable as XML"), ("<chunk ", "<chunc ", "no XML file of Metashape"),
    ("<document", "<!DOCTYPE a [<!ENTITY b 'c'>]><document", "defines entities"),
    ('type="frame"', 'type="spherical"', "type 'spherical'.*Undistort Photos"),
    ("</b2>", "</b2><k4>0.1</k4>", "k4 not 0.*Undistort Photos"),
    ("<f>", "<f>x", "could not convert"), ("<transform>", "<transform>1 ", "need 16"),
    ('sensor_id="1"', 'sensor_id="9"', "no calibration"),
    ('width="16"', 'width="0"', "need sides")])
def test_bad_metashape_is_named(few, tmp_path, old, new, message):
    path = write_metashape(few, tmp_path / "c") / "cameras.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(SceneError, match=message):
        read_metashape(tmp_path / "c")


@pytest.mark.parametrize("old, new, message", [
    ('"t_12"', '"t"', "t_12 is None, need a number"),
    ('"fx": ', '"fx": -', r"focal lengths -[\d.]+ and \d"),
    ('"cy": ', '"cy": 1e999, "c": ', "cy is inf"), ("{", "[", "not readable as JSON")])
def test_bad_polycam_is_named(few, tmp_path, old, new, message):
    path = write_polycam(few, tmp_path / "c") / "keyframes" / "cameras" / "001.json"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(SceneError, match=message):
        read_polycam(tmp_path / "c")


def test_corrected_cameras_go_first_and_missing_ones_are_listed(few, tmp_path):
    folder = write_polycam(few, tmp_path / "c", True)
    (folder / "keyframes" / "corrected_cameras" / "001.json").unlink()
    found = read_polycam(folder)
    assert "corrected_cameras" in found.source and "001.png: no corr" in found.left_out[0]


@pytest.mark.parametrize("rows, message", [
    (np.zeros((3, 17)), "singular"), (np.zeros((2, 17)), "2 poses, but 3 photographs"),
    (np.zeros((3, 12)), "of another kind"), (np.zeros((3, 17), object), "of another kind"),
    (np.full((3, 17), np.nan), "NaN")])
def test_bad_poses_are_named(few, tmp_path, rows, message):
    np.save(write_llff(few, tmp_path / "c") / "poses_bounds.npy", rows)
    with pytest.raises(SceneError, match=message):
        read_llff(tmp_path / "c")


@pytest.mark.parametrize("text, message", [
    ("CONTOUR\n1 2 3", "3 numbers, or some not finite, need 12"),
    ("CONTOUR2\n" + "1 " * 12, "CONTOUR2.*export projection matrices"),
    ("1 " * 11 + "x", "could not convert"), ("1 " * 12, "singular"),
    ("extrinsic 1 2", "need 'extrinsic', 16 numbers"),
    ("1 0 0 5 0 1 0 5 0 0 1 5", "without K")])
def test_bad_matrices_are_named(few, tmp_path, text, message):
    folder = write_matrices(few, tmp_path / "c")
    (folder / "images" / "001.txt").write_text(text)
    with pytest.raises(SceneError, match=message):
        read_matrices(folder)


def test_photographs_without_a_matrix_are_listed_and_labels_are_no_matrices(few, tmp_path):
    folder = write_matrices(few, tmp_path / "c")
    (folder / "images" / "001.txt").unlink()
    assert read_matrices(folder).left_out == ("001.png: no file of its camera",)
    for path in (folder / "images").glob("*.txt"):
        path.write_text("0 0.5 0.5 0.1 0.1\n")                # boxes of a detector
    assert recognise(folder) == "photos"


@pytest.mark.parametrize("write, message", [
    (write_reality_capture, "RealityCapture's table.*export the registration as COLMAP"),
    (write_record3d, "Record3D's recording.*ns-process-data record3d")])
def test_formats_that_are_not_read_name_the_export_that_is(few, tmp_path, write, message):
    with pytest.raises(SceneError, match=message):
        recognise(write(few, tmp_path / "c"))


@pytest.mark.parametrize("name, message", [
    ("bundle.out", "Bundler"), ("cameras.sfm", "ExportColmap"), ("a.psx", "Export Cameras"),
    ("scan.zip", "unpack it"), ("scan.r3d", "Record3D"), ("a.rcproj", "as COLMAP")])
def test_other_files_of_tools_are_named(few, tmp_path, name, message):
    """--source photos still takes the photographs beside them."""
    write_pictures(few, tmp_path / "c", None)
    (tmp_path / "c" / name).write_bytes(b"\xff")
    with pytest.raises(SceneError, match=f"{message}.*--source photos"):
        recognise(tmp_path / "c")
