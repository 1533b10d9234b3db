"""Small things that other programs do: capitals, nulls, other formats, litter, other folders."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from support.ball_scene import ball_scene
from support.capture_files import pictures, transforms, write_pictures, write_transforms

from data_processing.captures.readers.transforms_format import read_transforms
from data_processing.captures.recognising import recognise
from data_processing.scenes.images import image_size, read_rgb8
from data_processing.scenes.scene import load_scene
from data_processing.scenes.writing import check_target, write_scene
from utils.errors import SceneError, WriteError


@pytest.fixture(scope="module")
def ball():
    return ball_scene(0.6, num_views=3, resolution=(16, 12))


@pytest.mark.parametrize("stated", ["images/{}", "images/{}.png", "Images/{}.Png"])
def test_suffixes_and_capitals(ball, tmp_path, stated):
    """Files 000.PNG that are listed without a suffix, or in other capitals."""
    content = transforms(ball)
    for name, frame in zip(ball.view_names, content["frames"]):
        frame["file_path"] = stated.format(name)
    folder = write_transforms(ball, tmp_path / "c", **content)
    for path in sorted((folder / "images").iterdir()):
        path.rename(path.with_suffix(".PNG"))
    found = read_transforms(folder)
    assert len(found.views) == 3 and not found.left_out


@pytest.mark.parametrize("stated", ["C:\\Users\\me\\capture\\images\\{}.png", "/home/me/images/{}",
                                    "d:/images/{}", "/data/capture/images/{}.png"])
def test_absolute_paths_of_another_computer(ball, tmp_path, stated):
    """Of photographs and masks: the end that is in the folder counts; others lead out of it."""
    content = transforms(ball)
    for name, frame in zip(ball.view_names, content["frames"]):
        frame |= {"file_path": stated.format(name), "mask_path": f"/home/me/masks/{name}.png"}
    folder = write_transforms(ball, tmp_path / "c", **content)
    found = read_transforms(folder)
    assert [view.image.relative_to(folder).as_posix() for view in found.views] == [
        f"images/{name}.png" for name in ball.view_names]
    assert all(view.mask.is_relative_to(folder) for view in found.views) and not found.left_out
    (tmp_path / "other.png").write_bytes(b"x")
    content["frames"][0]["file_path"] = str(tmp_path / "other.png")
    with pytest.raises(SceneError, match="leads out of"):
        read_transforms(write_transforms(ball, tmp_path / "d", **content))


@pytest.mark.parametrize("flat", [lambda m: m.ravel().tolist(), lambda m: m.T.ravel().tolist(),
                                  lambda m: m[:3].tolist()], ids=["rows", "columns", "three"])
def test_matrices_in_other_forms(ball, tmp_path, flat):
    """16 numbers row by row or column by column, and three rows."""
    plain = read_transforms(write_transforms(ball, tmp_path / "a"))
    content = transforms(ball)
    for frame in content["frames"]:
        frame["transform_matrix"] = flat(np.array(frame["transform_matrix"]))
    found = read_transforms(write_transforms(ball, tmp_path / "b", **content))
    for ours, theirs in zip(found.views, plain.views, strict=True):
        np.testing.assert_array_equal(ours.view, theirs.view)


def test_null_is_not_given(ball, tmp_path):
    """A frame's null leaves the value for all frames; without one it is the default."""
    plain = read_transforms(write_transforms(ball, tmp_path / "a"))
    content = transforms(ball)
    for frame in content["frames"]:
        frame |= dict.fromkeys(("k1", "k2", "k3", "p1", "camera_model", "mask_path", "w", "h",
                                "is_fisheye"))
    found = read_transforms(write_transforms(ball, tmp_path / "b", **content, ply_file_path=None))
    assert [view.lens for view in found.views] == [view.lens for view in plain.views]


@pytest.mark.parametrize("kind, name", [("WEBP", "WEBP"), ("TIFF", "TIFF"), ("BMP", "BMP"),
                                        ("GIF", "GIF"), ("PPM", "PPM")])
def test_other_formats_are_named(tmp_path, kind, name):
    """Whatever the suffix says; a damaged PNG is still a damaged PNG."""
    for path in (tmp_path / "a.png", tmp_path / "a.webp"):
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path, kind)
        with pytest.raises(SceneError, match=f"in the format {name}, need PNG.*magick"):
            image_size(path)
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(SceneError, match="unreadable or truncated"):
        read_rgb8(tmp_path / "b.png")


@pytest.mark.parametrize("suffix", [".bmp", ".PPM", ".pgm", ".tif"])
def test_photographs_in_other_formats_are_named(tmp_path, suffix):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / f"a{suffix}").write_bytes(b"x")
    with pytest.raises(SceneError, match="need PNG or JPEG; convert them: magick mogrify"):
        recognise(tmp_path)


def test_litter_of_file_browsers_is_replaced(ball, tmp_path):
    """It does not block --overwrite 1; anything else does."""
    folder = write_scene(ball, tmp_path / "s", "idr")
    for name in (".DS_Store", "Thumbs.db", "image/._000.png", "image/.DS_Store"):
        (folder / name).write_bytes(b"x")
    write_scene(ball, folder, "processed", overwrite=True)
    assert not (folder / ".DS_Store").exists()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(WriteError, match="notes.txt"):
        check_target(folder, "idr", overwrite=True)


def test_photographs_of_an_idr_folder_in_images(ball, tmp_path):
    folder = write_scene(ball, tmp_path / "s", "idr")
    (folder / "image").rename(folder / "images")
    (folder / "mask").rename(folder / "masks")
    found = load_scene(folder)
    assert torch.equal(found.masks, ball.masks) and len(found) == 3


def test_cameras_without_intrinsics_are_named(ball, tmp_path):
    """DVR and UNISURF: world_mat is [R|t], K is in camera_mat."""
    folder = write_scene(ball, tmp_path / "s", "idr")
    flip = np.diag([1.0, -1, -1, 1])
    arrays = {f"world_mat_{i}": flip @ view.double().numpy()
              for i, view in enumerate(ball.cameras.view)}
    arrays |= {f"camera_mat_{i}": np.eye(4) for i in range(3)}
    np.savez(folder / "cameras_sphere.npz", **arrays)
    with pytest.raises(SceneError, match="without K .DVR and UNISURF.*need K.R.t. in pixels"):
        load_scene(folder)


def test_linked_images_are_read_alike(ball, tmp_path):
    """transforms.json with images/ on another disk; a link out of that folder is refused."""
    folder = write_transforms(ball, tmp_path / "c")
    (folder / "images").rename(tmp_path / "elsewhere")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    assert len(read_transforms(folder).views) == 3
    Image.fromarray(pictures(ball)[0]).save(tmp_path / "secret.png")
    (tmp_path / "elsewhere" / "000.png").unlink()
    (tmp_path / "elsewhere" / "000.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(SceneError, match="leads out of"):
        read_transforms(folder)
    write_pictures(ball, tmp_path / "d")
    content = transforms(ball)
    content["frames"][0]["file_path"] = "images/../../secret.png"
    (tmp_path / "d" / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(SceneError, match="leads out of"):
        read_transforms(tmp_path / "d")
