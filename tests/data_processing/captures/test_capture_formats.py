"""The readers of captures against damaged and hostile files: one clear error each, no traceback."""
from __future__ import annotations

import json
import struct

import imageio.v3 as imageio
import numpy as np
import pytest
from support.ball_scene import ball_scene
from support.capture_files import transforms, write_colmap, write_middlebury, write_transforms

from data_processing.captures.capture import Lens, check_lens, file_names
from data_processing.captures.paths import inside_folder
from data_processing.captures.readers.colmap_format import lens_of
from data_processing.captures.readers.colmap_project import read_colmap
from data_processing.captures.readers.middlebury_format import read_middlebury
from data_processing.captures.readers.transforms_format import read_transforms
from utils.errors import SceneError


@pytest.fixture(scope="module")
def ball():
    return ball_scene(0.6, num_views=3, resolution=(16, 12))


def change(content: dict, key: str, value) -> dict:
    """The content with a key of the first frame set, or taken out (None)."""
    frame = {**content["frames"][0], key: value}
    if value is None:
        del frame[key]
    return {**content, "frames": [frame, *content["frames"][1:]]}


@pytest.mark.parametrize("key, value, message", [
    ("file_path", None, "need the path of a file"),
    ("file_path", "../outside.png", "leads out of"),
    ("file_path", "/etc/passwd", "leads out of"),
    ("file_path", 7, "need the path of a file"),
    ("transform_matrix", None, "no transform_matrix"),
    ("transform_matrix", [[1, 0], [0, 1]], r"of shape \(2, 2\)"),
    ("transform_matrix", (np.eye(4) * np.nan).tolist(), "NaN or infinity"),
    ("transform_matrix", np.diag([2.0, 2, 2, 1]).tolist(), "scales by"),
    ("fl_x", "far", "fl_x is 'far'"), ("fl_x", float("nan"), "NaN or infinity"),
    ("fl_x", -3, "need 1.6e-05 to 16000 pixels"), ("fl_x", 1e-300, "need 1.6e-05 to"),
    ("fl_y", 1e-300, "need 1.6e-05 to"), ("cx", 1e300, "NaN or infinity"),
    ("cy", 1e14, "principal point .* need pixels within"),
    ("k1", 1e9, "need OpenCV's coefficients"), ("k4", 0.1, "k4 is not 0"),
    ("w", 1e12, "need sides"), ("camera_model", "EQUIRECTANGULAR", "camera_model EQUIRECTANGULAR"),
    ("mask_path", "masks/none.png", "no such mask")])
def test_bad_frames_are_named(ball, tmp_path, key, value, message):
    content = change(transforms(ball), key, value)
    write_transforms(ball, tmp_path / "c", frames=content["frames"])
    with pytest.raises(SceneError, match=message):
        read_transforms(tmp_path / "c")


@pytest.mark.parametrize("text, message", [
    ("{", "not readable as JSON"), ("[]", "holds a list"), ('{"frames": []}', "0 of them"),
    ('{"frames": 3}', "frames is int"), ('{"frames": [4]}', "frame 0 is a int"),
    ("[" * 100_000, "not readable as JSON")])
def test_bad_json_is_named(ball, tmp_path, text, message):
    write_transforms(ball, tmp_path / "c")
    (tmp_path / "c" / "transforms.json").write_text(text)
    with pytest.raises(SceneError, match=message):
        read_transforms(tmp_path / "c")


def test_field_of_view_and_split_files(ball, tmp_path):
    """NeRF's synthetic scenes: camera_angle_x, names without suffix, frames over three files."""
    write_transforms(ball, tmp_path / "c")
    content = transforms(ball)
    (tmp_path / "c" / "transforms.json").unlink()
    for name, frame in zip(("train", "val", "test"), content["frames"]):
        plain = {"file_path": frame["file_path"].removesuffix(".png"),
                 "transform_matrix": frame["transform_matrix"]}
        (tmp_path / "c" / f"transforms_{name}.json").write_text(json.dumps(
            {"camera_angle_x": np.pi / 2, "frames": [plain]}))
    found = read_transforms(tmp_path / "c")
    assert [view.name for view in found.views] == ["000", "001", "002"]
    lens = found.views[0].lens
    assert lens.focal == pytest.approx((8, 8)) and lens.center == (7.5, 5.5)


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
@pytest.mark.parametrize("keep", [0, 7, 8, 0.5, -1])
def test_truncated_binaries_are_named(ball, tmp_path, name, keep):
    folder = write_colmap(ball, tmp_path / "c", ".bin", np.zeros((4, 3)))
    path = folder / "sparse" / "0" / f"{name}.bin"
    content = path.read_bytes()
    path.write_bytes(content[:keep if keep != 0.5 else len(content) // 2])
    with pytest.raises(SceneError, match=f"{name}.bin.*(truncated|damaged)"):
        read_colmap(folder)


def test_counts_that_lie_take_no_memory(ball, tmp_path):
    folder = write_colmap(ball, tmp_path / "c", ".bin")
    for name in ("cameras", "images", "points3D"):
        path = folder / "sparse" / "0" / f"{name}.bin"
        good = path.read_bytes()
        path.write_bytes(struct.pack("<Q", 2**60) + good[8:])
        with pytest.raises(SceneError, match="truncated"):
            read_colmap(folder)
        path.write_bytes(good)


def test_unknown_and_unfit_camera_models(ball, tmp_path):
    folder = write_colmap(ball, tmp_path / "c", ".bin")
    path = folder / "sparse" / "0" / "cameras.bin"
    good = path.read_bytes()
    for number, message in ((99, "model number 99"), (7, "truncated|FOV")):
        path.write_bytes(good[:12] + struct.pack("<i", number) + good[16:])
        with pytest.raises(SceneError, match=message):
            read_colmap(folder)
    with pytest.raises(SceneError, match="image_undistorter"):
        lens_of("FOV", (16, 12), [10, 10, 8, 6, 0.1], "here")
    with pytest.raises(SceneError, match="3 parameters of PINHOLE, need 4"):
        lens_of("PINHOLE", (16, 12), [10, 8, 6], "here")


@pytest.mark.parametrize("model, values, focal, distortion, is_fisheye", [
    ("SIMPLE_PINHOLE", [9, 8, 6], (9, 9), (), False),
    ("PINHOLE", [9, 10, 8, 6], (9, 10), (), False),
    ("SIMPLE_RADIAL", [9, 8, 6, .1], (9, 9), (.1, 0, 0, 0), False),
    ("RADIAL", [9, 8, 6, .1, .2], (9, 9), (.1, .2, 0, 0), False),
    ("OPENCV", [9, 10, 8, 6, .1, .2, .3, .4], (9, 10), (.1, .2, .3, .4), False),
    ("FULL_OPENCV", [9, 10, 8, 6, *[.1] * 8], (9, 10), (.1,) * 8, False),
    ("OPENCV_FISHEYE", [9, 10, 8, 6, .1, .2, .3, .4], (9, 10), (.1, .2, .3, .4), True),
    ("SIMPLE_RADIAL_FISHEYE", [9, 8, 6, .1], (9, 9), (.1, 0, 0, 0), True),
    ("RADIAL_FISHEYE", [9, 8, 6, .1, .2], (9, 9), (.1, .2, 0, 0), True)])
def test_camera_models(model, values, focal, distortion, is_fisheye):
    """COLMAP counts pixels from the corner, we from the centre of the first."""
    lens = lens_of(model, (16, 12), values, "here")
    assert lens == Lens((16, 12), focal, (7.5, 5.5), 0.0, distortion, is_fisheye)


@pytest.mark.parametrize("name, old, new, message", [
    ("cameras", "PINHOLE", "CUBE", "camera model CUBE"),
    ("cameras", "PINHOLE 16", "PINHOLE x", "need 3 numbers"),
    ("images", "000.png", "../000.png", "leads out of"),
    ("images", " 1 000.png", " 9 000.png", "camera 9"),
    ("images", " 1 000.png", "", "words, need ID"),
    ("images", " 1 000.png", " nan 000.png", "not finite"),
    ("cameras", "PINHOLE 16 12 ", "PINHOLE 16 12 1e-300 ", "need 5 parameters|need 4")])
def test_bad_text_models_are_named(ball, tmp_path, name, old, new, message):
    folder = write_colmap(ball, tmp_path / "c", ".txt")
    path = folder / "sparse" / "0" / f"{name}.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(SceneError, match=message):
        read_colmap(folder)


def test_missing_photographs_of_a_model(ball, tmp_path):
    folder = write_colmap(ball, tmp_path / "c", ".txt")
    (folder / "images" / "001.png").unlink()
    found = read_colmap(folder)
    assert len(found.views) == 2 and "001.png: no such file" in found.left_out[0]
    (folder / "images" / "000.png").unlink()
    with pytest.raises(SceneError, match="1 views found"):
        read_colmap(folder)
    (folder / "images" / "002.png").unlink()
    with pytest.raises(SceneError, match="none of the model's 3 images"):
        read_colmap(folder)


@pytest.mark.parametrize("change, message", [
    (lambda line: line.rsplit(" ", 1)[0], "20 numbers, or some not finite, need 21"),
    (lambda line: line.replace(line.split()[1], "nan", 1), "not finite"),
    (lambda line: line.replace(line.split()[1], "wide", 1), "could not convert"),
    (lambda line: "../" + line, "leads out of"),
    (lambda line: " ".join([*line.split()[:4], "5", *line.split()[5:]]), "an upper triangular"),
    (lambda line: " ".join([*line.split()[:10], *["0"] * 12]), "singular")])
def test_bad_middlebury_lines_are_named(ball, tmp_path, change, message):
    folder = write_middlebury(ball, tmp_path / "c")
    path = folder / "ball_par.txt"
    first, second, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, change(second), *rest]))
    with pytest.raises(SceneError, match=message):
        read_middlebury(folder)


def test_two_parameter_files_are_refused(ball, tmp_path):
    folder = write_middlebury(ball, tmp_path / "c")
    (folder / "other_par.txt").write_text("0\n")
    with pytest.raises(SceneError, match="2 files"):
        read_middlebury(folder)


def test_paths_stay_inside(tmp_path):
    inner = tmp_path / "c"
    inner.mkdir()
    assert inside_folder(inner, "./images/a.png", "x") == inner / "images" / "a.png"
    assert inside_folder(inner, "images\\a.png", "x") == inner / "images" / "a.png"
    (tmp_path / "secret.png").write_bytes(b"x")
    (inner / "link.png").symlink_to(tmp_path / "secret.png")
    for text in ("link.png", "a/../../secret.png", "a\0b", ""):
        with pytest.raises(SceneError, match="leads out of|need the path"):
            inside_folder(inner, text, "x")


def test_names_sort_as_they_did():
    assert file_names(["images/a 1.jpg", "images/b.jpg"]) == ["a_1", "b"]
    assert file_names(["2.jpg", "10.jpg"]) == ["000_2", "001_10"]
    assert file_names(["x/1.jpg", "y/1.jpg"]) == ["000_1", "001_1"]


def test_long_names_leave_room_for_the_ends_of_files():
    """Of 251 letters, the most that a photograph's name has, 100 stay."""
    assert file_names(["a" * 251 + ".jpg"]) == ["a" * 100]
    assert file_names(["a" * 250 + "1.jpg", "a" * 250 + "2.jpg"]) == ["000_" + "a" * 100,
                                                                    "001_" + "a" * 100]


def test_lens_checks():
    with pytest.raises(SceneError, match="need sides"):
        check_lens(Lens((0, 4), (1, 1), (0, 0)), "here")
    with pytest.raises(SceneError, match="need 8e-06 to 8000 pixels"):
        check_lens(Lens((8, 4), (1e-300, 1), (0, 0)), "here")
    with pytest.raises(SceneError, match="skew 1e"):
        check_lens(Lens((8, 4), (1, 1), (0, 0), skew=1e300), "here")
    lens = Lens((8, 4), (10, 12), (3.5, 1.5), skew=0.2).resized((16, 8))
    assert lens.focal == (20, 24) and lens.center == (7.5, 3.5) and lens.skew == 0.4


def test_images_of_another_shape(ball, tmp_path):
    """A single odd one is left out; one that does not fit its own calibration is an error."""
    from data_processing.captures.pinhole_images import fitting_views
    content = transforms(ball)
    content["frames"][2] |= {"w": 12, "h": 16}
    folder = write_transforms(ball, tmp_path / "c", frames=content["frames"])
    with pytest.raises(SceneError, match="16x12, but its camera was calibrated for 12x16"):
        fitting_views(read_transforms(folder).views, 0)
    imageio.imwrite(folder / "images" / "002.png", np.zeros((16, 12, 3), np.uint8))
    views, size, left_out = fitting_views(read_transforms(folder).views, 8)
    assert len(views) == 2 and size == (8, 6) and "differs in shape" in left_out[0]
