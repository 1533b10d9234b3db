"""Mask files of every kind give the same outline in all readers."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from support import mask_pictures
from support.ball_scene import ball_scene
from support.capture_files import pictures, write_transforms

from data_processing.captures.importing import import_capture
from data_processing.scenes.images import read_mask
from data_processing.scenes.scene import load_scene
from data_processing.scenes.writing import write_scene
from utils.config.tool_sections import ImportConfig
from utils.errors import SceneError


@pytest.fixture(scope="module")
def ball():
    return ball_scene(0.6, num_views=3, resolution=(32, 24))


def draw_masks(ball, folder, pattern: str, kind) -> None:
    """Write the masks of a kind in the place of those that are there."""
    for name, rgb, mask in zip(ball.view_names, pictures(ball), ball.masks):
        kind(mask[0].numpy(), rgb).save(folder / pattern.format(name))


@pytest.mark.parametrize("kind", mask_pictures.KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_in_all_readers(ball, tmp_path, kind):
    """Captures, IDR and the processed format: the outline to the bit."""
    capture = write_transforms(ball, tmp_path / "capture")
    draw_masks(ball, capture, "masks/{}.png", kind)
    found = import_capture(ImportConfig(input=str(capture), output=str(tmp_path / "scene")))
    assert torch.equal(found.scene.masks, ball.masks)
    for scene_format, pattern in (("idr", "mask/{}.png"), ("processed", "{}_mask.png")):
        folder = write_scene(ball, tmp_path / scene_format, scene_format)
        draw_masks(ball, folder, pattern, kind)
        assert torch.equal(load_scene(folder).masks, ball.masks)


def outline() -> np.ndarray:
    out = np.zeros((24, 32), bool)
    out[4:20, 8:24] = True
    return out


@pytest.mark.parametrize("kind", [mask_pictures.white, mask_pictures.green, mask_pictures.blue])
def test_jpeg_masks(tmp_path, kind):
    """Blocks of 8 pixels blur the edge by two pixels at most; noise off it does not count."""
    kind(outline(), None).convert("RGB").save(tmp_path / "m.jpg", quality=90, subsampling=0)
    found = read_mask(tmp_path / "m.jpg", least_foreground=128)
    assert (found & outline()).sum() / (found | outline()).sum() > 0.85
    assert not found[:2].any() and not found[:, :6].any()


def test_empty_masks_stay_empty(tmp_path):
    """Black, alpha 0 over black, and the noise of a dark JPEG are no object."""
    dark = np.random.default_rng(0).integers(0, 6, (24, 32), dtype=np.uint8)
    Image.fromarray(dark).save(tmp_path / "noise.jpg")
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(tmp_path / "black.png")
    Image.fromarray(np.zeros((24, 32, 4), np.uint8)).save(tmp_path / "clear.png")
    for name in ("noise.jpg", "black.png", "clear.png"):
        assert not read_mask(tmp_path / name, least_foreground=128).any()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_photograph_is_no_mask(tmp_path, suffix):
    """Cut out on black without alpha, dark parts of the object cannot be told: refused."""
    rgb = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(rgb * outline()[..., None]).save(tmp_path / f"m.{suffix}")
    with pytest.raises(SceneError, match="red 0 to .*export the mask, or the cutout as PNG with"):
        read_mask(tmp_path / f"m.{suffix}")


def test_two_idr_masks_of_one_number(ball, tmp_path):
    folder = write_scene(ball, tmp_path / "idr", "idr")
    (folder / "mask" / "00000.png").write_bytes((folder / "mask" / "000.png").read_bytes())
    with pytest.raises(SceneError, match="need one mask a view"):
        load_scene(folder)
