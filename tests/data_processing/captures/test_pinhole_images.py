"""Photographs through lens, turn and scale: against closed forms and round trips."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from support.ball_scene import ball_cameras
from support.mask_pictures import temple

from data_processing.captures.capture import CapturedView, Lens
from data_processing.captures.masks import (
    background_colour,
    border_colour,
    clean_mask,
    find_masks,
    mask_from_background,
)
from data_processing.captures.pinhole_images import Photo, pinhole_view, read_photo, turn_for
from data_processing.scenes.object_space import (
    choose_object_space,
    nearest_point,
    sphere_from_points,
)
from utils.errors import SceneError

SIZE = (96, 72)


def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A smooth picture of the directions (x, y, 1), (..., 3) in [0, 1]."""
    return 0.5 + 0.4 * np.stack([np.sin(9 * x), np.cos(8 * y), np.sin(7 * x + 6 * y)], -1)


@pytest.mark.parametrize("distortion, is_fisheye", [
    ((0.2, -0.1, 0.01, -0.008), False), ((-0.25, 0.08, 0, 0, 0.01), False),
    ((0.1, 0.02, 0, 0), True)])
def test_distortion_round_trip(distortion, is_fisheye):
    """A photograph made through the lens, undistorted, is the pinhole's picture of the same
    directions; cubic interpolation of the smooth pattern leaves less than 1/255."""
    lens = Lens(SIZE, (80.0, 82.0), (46.0, 37.0), 0.0, distortion, is_fisheye)
    columns, rows = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    pixels = np.stack([columns, rows], -1).reshape(-1, 1, 2).astype(np.float64)
    model = cv2.fisheye if is_fisheye else cv2
    directions = model.undistortPoints(pixels, lens.matrix, np.array(distortion)).reshape(-1, 2)
    photo = pattern(*directions.T).reshape(SIZE[1], SIZE[0], 3).astype(np.float32)
    found = pinhole_view(Photo(photo, np.ones(SIZE[::-1], np.float32), lens), SIZE)
    k = found.intrinsics
    x, y = (columns - k[0, 2]) / k[0, 0], (rows - k[1, 2]) / k[1, 1]
    inner = (slice(3, -3), slice(3, -3))
    assert np.abs(found.rgb - pattern(x, y))[inner].max() < 0.01
    assert found.mask[inner].all()
    assert np.abs(found.rgb - photo).max() > 0.05                     # there was something to undo


def test_a_pinhole_is_left_alone():
    lens = Lens(SIZE, (80.0, 82.0), (46.0, 37.0))
    rgb = np.random.default_rng(0).random((*SIZE[::-1], 3), np.float32)
    found = pinhole_view(Photo(rgb, None, lens), SIZE)
    assert found.rgb is rgb and found.mask is None
    half = pinhole_view(Photo(rgb, None, lens), (48, 36))
    np.testing.assert_allclose(half.rgb, rgb.reshape(36, 2, 48, 2, 3).mean((1, 3)), atol=1e-6)
    np.testing.assert_allclose(half.intrinsics[:2, 2], [22.75, 18.25])


def save_turned(path: Path, upright: np.ndarray, orientation: int) -> None:
    """The photograph as a camera stores it that was held another way."""
    stored = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright), 8: np.rot90(upright, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored[orientation])).save(path, exif=exif)


@pytest.mark.parametrize("orientation", [6, 8])
def test_exif_orientation_follows_the_calibration(tmp_path, orientation):
    upright = np.random.default_rng(0).integers(0, 256, (20, 12, 3), dtype=np.uint8)
    save_turned(tmp_path / "a.png", upright, orientation)
    tall, wide = (Lens(size, (20, 20), (5.5, 9.5)) for size in ((12, 20), (20, 12)))
    view = CapturedView("a", tmp_path / "a.png", np.eye(4), tall)
    assert turn_for(view.image, tall.size) == orientation
    np.testing.assert_allclose(read_photo(view).rgb * 255, upright, atol=1e-3)
    stored = read_photo(CapturedView("a", tmp_path / "a.png", np.eye(4), wide)).rgb
    assert stored.shape == (12, 20, 3)


def test_masks_of_a_turned_photograph_turn_with_it(tmp_path):
    upright = np.zeros((20, 12, 3), np.uint8)
    save_turned(tmp_path / "a.png", upright, 6)
    mask = np.zeros((20, 12), np.uint8)
    mask[2:5, 1:4] = 255
    for name, content in (("up.png", mask), ("stored.png", np.rot90(mask))):
        Image.fromarray(np.ascontiguousarray(content)).save(tmp_path / name)
        view = CapturedView("a", tmp_path / "a.png", np.eye(4),
                            Lens((12, 20), (20, 20), (5.5, 9.5)), tmp_path / name)
        np.testing.assert_array_equal(read_photo(view).coverage > 0.5, mask > 0)


def test_a_mask_of_another_shape_is_refused(tmp_path):
    Image.fromarray(np.zeros((12, 20, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((12, 12), np.uint8)).save(tmp_path / "m.png")
    view = CapturedView("a", tmp_path / "a.png", np.eye(4), Lens((20, 12), (20, 20), (9, 5)),
                        tmp_path / "m.png")
    with pytest.raises(SceneError, match="12x12, but a.png is 20x12"):
        read_photo(view)


def test_mask_files_are_found(tmp_path):
    """A mask that the capture names is kept; names of other photographs do not count."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for name in ("images/a.jpg", "images/ab.jpg", "masks/a.jpg.png", "images/b_mask.PNG"):
        (tmp_path / name).write_bytes(b"")
    views = tuple(CapturedView(name, tmp_path / "images" / f"{name}.jpg", np.eye(4),
                               Lens((4, 4), (4, 4), (1, 1)), mask)
                  for name, mask in (("a", None), ("ab", None), ("b", None),
                                     ("c", tmp_path / "own.png")))
    assert find_masks(tmp_path, views) == [tmp_path / "masks" / "a.jpg.png", None,
                                           tmp_path / "images" / "b_mask.PNG",
                                           tmp_path / "own.png"]


def test_clean_mask_removes_specks_and_fills_holes():
    disk = np.hypot(*np.mgrid[-40:40, -40:40]) < 30
    dirty = disk.copy()
    dirty[38:41, 38:41] = False
    dirty[2:4, 2:4] = True
    ring = disk & (np.hypot(*np.mgrid[-40:40, -40:40]) > 10)
    np.testing.assert_array_equal(clean_mask(dirty), disk)
    np.testing.assert_array_equal(clean_mask(ring), ring)            # a true hole stays
    assert not clean_mask(np.zeros((5, 5), bool)).any()


@pytest.mark.parametrize("level", [0.0, 1.0, 0.4])
def test_background_masks(level):
    """A shaded disk whose dark side comes near a black ground; noise of 1 %."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-60:60, -80:80]
    disk = np.hypot(x, y) < 40
    shade = 0.55 + 0.3 * x / 40 if level != 0.4 else np.full(x.shape, 0.8)
    image = np.where(disk, shade, level)[..., None].repeat(3, -1)
    image = (image + rng.normal(0, 0.01, image.shape)).clip(0, 1).astype(np.float32)
    colour = background_colour([image] * 3, "auto")
    np.testing.assert_allclose(colour, level, atol=0.02)
    found = mask_from_background(image, colour)
    assert (found & disk).sum() / (found | disk).sum() > 0.96


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_gaps_between_columns_are_background(level):
    """Six gaps, enclosed or open; the outline is a pixel wide of some 20, so that 0.9 is all."""
    picture, outline = temple(level)
    found = mask_from_background(picture, np.full(3, level, np.float32))
    assert (found & outline).sum() / (found | outline).sum() > 0.9
    gap = np.zeros_like(outline)
    gap[70:125, 66:78] = True                                  # the middle of the first gap
    assert not (found & gap).any() and not (outline & gap).any()


def test_shadows_within_the_object_are_not_gaps():
    """A shadow at 5 % before black, of a sixth of the object; and a black patch of 0.2 %."""
    rng = np.random.default_rng(2)
    rows, columns = np.mgrid[:160, :160]
    disk = np.hypot(rows - 80, columns - 80) < 50
    image = np.where(disk, 0.6, 0.0)
    image[70:100, 60:100] = 0.05
    image[60:64, 60:64] = 0.0
    image = (image[..., None].repeat(3, -1) + rng.normal(0, 0.005, (160, 160, 3))).clip(0, 1)
    found = mask_from_background(image.astype(np.float32), np.zeros(3, np.float32))
    assert found[disk].mean() > 0.99 and found[~disk].mean() < 0.03


def test_no_plain_background_is_said():
    noise = ndimage.zoom(np.random.default_rng(0).random((8, 8, 3), np.float32), (8, 8, 1), order=0)
    assert border_colour(noise) is None
    with pytest.raises(SceneError, match="only 0 of 2"):
        background_colour([noise, noise], "auto")


def test_nearest_point_and_points_in_closed_form():
    origins, dirs = np.array([[1.0, 0, 0], [0, 2, 1]]), np.array([[1.0, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(nearest_point(origins, dirs), [0, 0, 0.5])
    assert nearest_point(origins, dirs[[0, 0]]) is None
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(800, 3))
    ball *= 0.4 / np.linalg.norm(ball, axis=1, keepdims=True)
    room = rng.normal(size=(400, 3)) * 5 + 8
    cameras = ball_cameras(8, center=(1.0, 2.0, 3.0))
    found = sphere_from_points(cameras, np.concatenate([ball + [1, 2, 3], room]))
    np.testing.assert_allclose(found.center, [1, 2, 3], atol=0.03)
    assert 0.39 < found.radius < 0.46
    assert sphere_from_points(cameras, ball[:5]) is None


def test_object_space_takes_the_first_there_is():
    cameras, given = ball_cameras(8), 2 * np.eye(4)
    assert choose_object_space(cameras, None, None, given=given).model is given
    found = choose_object_space(cameras, None, np.zeros((3, 3)))
    assert "cameras alone" in found.reason
    np.testing.assert_allclose(found.model[:3, 3], 0, atol=1e-9)
    none = torch.zeros(8, 1, 120, 160, dtype=torch.bool)
    assert "cameras alone" in choose_object_space(cameras, none, None).reason
    with pytest.raises(SceneError, match="--normalization masks"):
        choose_object_space(cameras, none, None, word="masks")
