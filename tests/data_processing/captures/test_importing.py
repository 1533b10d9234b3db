"""Captures of every format through the import: cameras, masks and object space come out right."""
from __future__ import annotations

import json
import shlex
from dataclasses import replace

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from support.ball_scene import ball_scene
from support.capture_files import (
    pictures,
    transforms,
    write_colmap,
    write_middlebury,
    write_pictures,
    write_transforms,
)
from support.foreign_captures import two_cameras

from data_processing.captures.importing import import_capture, import_scene
from data_processing.captures.recognising import recognise
from data_processing.scenes.scene import load_scene
from data_processing.scenes.writing import write_scene
from utils.config.parser import parse_config
from utils.config.tool_sections import ImportConfig
from utils.errors import ConfigError, SceneError, WriteError

CENTER, RADIUS = (2.0, -1.0, 0.5), 0.6


@pytest.fixture(scope="module")
def ball():
    return ball_scene(RADIUS, num_views=9, center=CENTER, resolution=(80, 60))


def settings(tmp_path, **more) -> ImportConfig:
    return ImportConfig(input=str(tmp_path / "capture"), output=str(tmp_path / "scene"), **more)


def check_cameras(found, ball, atol=2e-4):
    """The same world points are seen at the same NDC; 2e-4 is a hundredth of a pixel."""
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    world = points + torch.tensor(CENTER)
    model = found.cameras.model
    points_obj = (world - model[:3, 3]) @ torch.linalg.inv(model[:3, :3]).T
    for ours, theirs in zip(found.cameras.project(points_obj), ball.cameras.project(world)):
        torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-4)


WRITERS = {"transforms": write_transforms, "middlebury": write_middlebury,
           "colmap": lambda scene, folder: write_colmap(scene, folder, ".bin"),
           "colmap_text": lambda scene, folder: write_colmap(scene, folder, ".txt"),
           "idr": lambda scene, folder: write_scene(scene, folder, "idr"),
           "processed": lambda scene, folder: write_scene(scene, folder, "processed")}


@pytest.mark.parametrize("kind", list(WRITERS))
def test_round_trip_of_every_format(ball, tmp_path, kind):
    """Images and masks to the bit, cameras to rounding, and the ball in the unit sphere."""
    WRITERS[kind](ball, tmp_path / "capture")
    assert recognise(tmp_path / "capture") == kind.removesuffix("_text")
    found = import_capture(settings(tmp_path)).scene
    assert found.view_names == ball.view_names and found.has_masks
    torch.testing.assert_close(found.images, ball.images)
    assert torch.equal(found.masks, ball.masks)
    check_cameras(found, ball)
    if kind in ("idr", "processed"):                      # they state their object space
        torch.testing.assert_close(found.cameras.model, ball.cameras.model)
        return
    # Nine views leave the hull larger than the ball, by up to a quarter of its radius.
    torch.testing.assert_close(found.cameras.model[:3, 3], torch.tensor(CENTER), atol=0.1, rtol=0)
    assert 1.0 < found.cameras.model_scale / RADIUS < 1.4


def test_report_sheet_and_scene_are_written(ball, tmp_path):
    write_transforms(ball, tmp_path / "capture")
    report, has_errors = import_scene(settings(tmp_path))
    assert not has_errors and "no findings" in report
    assert (tmp_path / "scene" / "report.txt").read_text() in report
    assert imageio.imread(tmp_path / "scene" / "check.png").shape[2] == 3
    assert torch.equal(load_scene(tmp_path / "scene").masks, ball.masks)
    with pytest.raises(WriteError, match="--overwrite 1"):
        import_scene(settings(tmp_path))
    import_scene(settings(tmp_path, overwrite=1, scene_format="idr"))
    assert torch.equal(load_scene(tmp_path / "scene").masks, ball.masks)


def test_turned_images_of_the_processed_format_are_named(ball, tmp_path):
    folder = write_scene(ball, tmp_path / "capture", "processed")
    for path in folder.glob("*_rgb.png"):
        imageio.imwrite(path, np.rot90(imageio.imread(path)))
    with pytest.raises(SceneError, match="rotated by 90 degrees"):
        import_capture(settings(tmp_path))


def test_missing_and_double_frames_are_listed(ball, tmp_path):
    content = transforms(ball)
    content["frames"].append({**content["frames"][0], "file_path": "images/none.png"})
    content["frames"].append(dict(content["frames"][1]))
    write_transforms(ball, tmp_path / "capture", frames=content["frames"])
    found = import_capture(settings(tmp_path))
    assert len(found.scene) == len(ball)
    listed = next(note for note in found.notes if "left out" in note)
    assert "images/none.png: no such file" in listed and "listed twice" in listed


def test_intrinsics_follow_the_size_of_the_images(ball, tmp_path):
    """Calibrated at 320x240, given at 80x60: edges of the frame stay edges, so NDC is the same."""
    content = transforms(ball)
    content |= {"w": 320, "h": 240}
    for frame in content["frames"]:
        for key in ("fl_x", "fl_y", "cx", "cy"):
            frame[key] *= 4
    write_transforms(ball, tmp_path / "capture", **content)
    check_cameras(import_capture(settings(tmp_path)).scene, ball)
    small = import_capture(settings(tmp_path, max_size=40)).scene
    assert small.cameras.resolution == (40, 30)
    check_cameras(small, ball)


@pytest.mark.parametrize("layout", ["mask/{}.png", "masks/{}.png.png", "images/{}_mask.png",
                                    "masks/{}_mask.png", None])
def test_mask_layouts(ball, tmp_path, layout):
    write_transforms(ball, tmp_path / "other")
    write_pictures(ball, tmp_path / "capture", layout)
    (tmp_path / "other" / "transforms.json").rename(tmp_path / "capture" / "transforms.json")
    found = import_capture(settings(tmp_path))
    assert found.scene.has_masks == (layout is not None)
    if layout is None:
        assert any("no masks" in note for note in found.notes)
        assert any("cameras alone" in note for note in found.notes)
    else:
        assert torch.equal(found.scene.masks, ball.masks)


def test_alpha_and_mask_path(ball, tmp_path):
    """Alpha counts, and what mask_path names goes over it; colours are put before black."""
    folder = tmp_path / "capture"
    content = transforms(ball)
    write_pictures(ball, folder, None)
    for name, picture, mask in zip(ball.view_names, pictures(ball), ball.masks):
        alpha = mask[0].numpy().astype(np.uint8)[..., None] * 255
        imageio.imwrite(folder / "images" / f"{name}.png", np.concatenate([picture, alpha], -1))
    (folder / "transforms.json").write_text(json.dumps(content))
    found = import_capture(settings(tmp_path)).scene
    assert torch.equal(found.masks, ball.masks)
    torch.testing.assert_close(found.images, ball.images * ball.masks)
    smaller = ball.masks & ball.masks.roll(6, 3)
    for frame, mask in zip(content["frames"], smaller):
        frame["mask_path"] = frame["file_path"].replace("images/", "m_")
        imageio.imwrite(folder / frame["mask_path"], mask[0].numpy().astype(np.uint8))
    (folder / "transforms.json").write_text(json.dumps(content))
    assert torch.equal(import_capture(settings(tmp_path)).scene.masks, smaller)


def test_views_without_a_mask_are_left_out(ball, tmp_path):
    write_transforms(ball, tmp_path / "capture")
    (tmp_path / "capture" / "masks" / "003.png").unlink()
    found = import_capture(settings(tmp_path))
    assert "003" not in found.scene.view_names and len(found.scene) == len(ball) - 1
    assert any("003: it has no mask" in note for note in found.notes)


@pytest.mark.parametrize("photos", ["{cam}/{name}.png", "images/{cam}/{name}.png"])
@pytest.mark.parametrize("masks", ["masks/{cam}/{name}.png", "mask/images/{cam}/{name}.png",
                                   "{cam}/masks/{name}.png", "images/{cam}/masks/{name}.png",
                                   "images/masks/{cam}/{name}.png"])
def test_masks_in_the_sub_folders_of_their_photographs(ball, tmp_path, photos, masks):
    """With and without the leading folder; a flat mask of that name beside does not matter."""
    if masks.startswith("{cam}") != photos.startswith("{cam}") and "images/{cam}" not in masks:
        masks = masks.replace("{cam}/masks", "masks/{cam}")
    if photos.startswith("{cam}"):
        masks = masks.replace("images/", "")
    two_cameras(ball, tmp_path / "capture", photos, masks)
    (tmp_path / "capture" / "masks").mkdir(exist_ok=True)
    imageio.imwrite(tmp_path / "capture" / "masks" / "0000.png", np.zeros((60, 80), np.uint8))
    found = import_capture(settings(tmp_path)).scene
    order = sorted(range(len(ball)), key=lambda i: (i % 2, i // 2))
    assert torch.equal(found.masks, ball.masks[order])


def test_one_mask_for_two_photographs_is_refused(ball, tmp_path):
    two_cameras(ball, tmp_path / "capture", "{cam}/{name}.png", "masks/{name}.png")
    with pytest.raises(SceneError, match=r"two photographs, \S*cam0/0000.png and \S*cam1/0000.png"):
        import_capture(settings(tmp_path))


def test_background_of_one_colour(ball, tmp_path):
    """Before pure white the ball's outline comes back, but for the blur of a pixel."""
    white = replace(ball, images=torch.where(ball.masks, 0.8 * ball.images, 1.0))
    write_pictures(white, tmp_path / "capture", None)
    (tmp_path / "capture" / "transforms.json").write_text(json.dumps(transforms(white)))
    for word in ("white", "auto"):
        found = import_capture(settings(tmp_path, background=word)).scene
        assert (found.masks == ball.masks).float().mean() > 0.97


@pytest.mark.parametrize("level, word", [(0.0, "black"), (1.0, "white"), (0.4, "auto")])
def test_a_plain_background_without_masks_names_the_command(ball, tmp_path, level, word):
    """The command that the report names is understood, and makes the masks."""
    plain = replace(ball, images=torch.where(ball.masks, 0.3 + 0.5 * ball.images, level))
    write_pictures(plain, tmp_path / "capture", None)
    (tmp_path / "capture" / "transforms.json").write_text(json.dumps(transforms(plain)))
    found = import_capture(settings(tmp_path, max_size=32, clean_masks=1))
    assert not found.scene.has_masks
    advice = [note for note in found.notes if "background is plain" in note]
    words = shlex.split(advice[0].partition("import_scene.py")[2])
    asked = parse_config([ImportConfig], words).importing
    assert asked == settings(tmp_path, max_size=32, clean_masks=1, background=word, overwrite=1)
    again = import_capture(asked)
    assert again.scene.has_masks
    assert not any("background is plain" in note for note in again.notes)


def test_a_background_that_varies_is_no_plain_one(ball, tmp_path):
    noise = torch.rand(ball.images.shape, generator=torch.Generator().manual_seed(0))
    varied = replace(ball, images=torch.where(ball.masks, ball.images, noise))
    write_pictures(varied, tmp_path / "capture", None)
    (tmp_path / "capture" / "transforms.json").write_text(json.dumps(transforms(varied)))
    assert not any("background is plain" in note for note in import_capture(
        settings(tmp_path)).notes)


def test_points_and_words_of_normalization(ball, tmp_path):
    """Points on the ball give its centre and radius (5 % of room, 2 % of outliers left out)."""
    points = torch.nn.functional.normalize(
        torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), dim=-1).numpy()
    write_colmap(ball, tmp_path / "capture", ".bin", points * RADIUS + CENTER)
    found = import_capture(settings(tmp_path, normalization="points"))
    torch.testing.assert_close(found.scene.cameras.model[:3, 3], torch.tensor(CENTER), atol=0.03,
                               rtol=0)
    assert 1.0 < found.scene.cameras.model_scale / RADIUS < 1.12
    with pytest.raises(SceneError, match="--normalization given"):
        import_capture(settings(tmp_path, normalization="given"))


def test_nothing_to_read_is_said(tmp_path):
    with pytest.raises(SceneError, match="no such folder"):
        recognise(tmp_path / "capture")
    (tmp_path / "capture").mkdir()
    with pytest.raises(SceneError, match="found no transforms.json"):
        recognise(tmp_path / "capture")
    (tmp_path / "capture" / "a.HEIC").write_bytes(b"x")
    with pytest.raises(SceneError, match="magick mogrify"):
        recognise(tmp_path / "capture")
    with pytest.raises(ConfigError, match="--input"):
        import_capture(ImportConfig(output="x"))


def test_photographs_without_the_package_name_it(ball, tmp_path, monkeypatch):
    import sys

    from utils.errors import MissingExtraError
    write_pictures(ball, tmp_path / "capture", None)
    assert recognise(tmp_path / "capture") == "photos"
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(MissingExtraError, match="pip install pycolmap"):
        import_capture(settings(tmp_path))
