"""Wide and wild lenses: the ball comes out uncut, or one line names the lens."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from support.lens_captures import (
    FOLDED,
    WILD,
    Fisheye,
    ball_colours,
    of_field,
    poses,
    write_fisheye,
)

from data_processing.captures.capture import Lens
from data_processing.captures.importing import import_capture
from data_processing.captures.undistortion import MAX_HALF_ANGLE, undistortion
from utils.config.tool_sections import ImportConfig
from utils.errors import SceneError
from utils.geometry.cameras import intrinsics_from_projection
from utils.geometry.visual_hull import touches_border

LENSES = {"120": of_field(120, 2.5), "150": of_field(150, 2.0), "170": of_field(170, 1.8),
          "185": of_field(185, 1.6), "185_bent": of_field(185, 1.6, (0.05, -0.01, 0.002, 0.0)),
          "wild": WILD}


@pytest.mark.parametrize("name", list(LENSES))
def test_the_object_is_uncut_and_where_it_belongs(tmp_path, name):
    """Against the pinhole's rays with the ball: outlines to a pixel (of some 30 across: IoU 0.95),
    colours to the blur of pixels that are stretched up to twofold."""
    lens = LENSES[name]
    write_fisheye(lens, tmp_path / "c")
    found = import_capture(ImportConfig(input=str(tmp_path / "c"),
                                        output=str(tmp_path / "s"))).scene
    width, height = found.cameras.resolution
    k = intrinsics_from_projection(found.cameras.projection.double(), (width, height)).numpy()
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    for i, pose in enumerate(poses(lens)):
        dirs = np.stack([(x - k[i, 0, 2]) / k[i, 0, 0], (k[i, 1, 2] - y) / k[i, 1, 1],
                         -np.ones(x.shape)], -1)
        dirs /= np.linalg.norm(dirs, axis=-1, keepdims=True)
        colours, hit_mask = ball_colours(pose[:3, 3], dirs @ pose[:3, :3].T)
        mask = found.masks[i, 0].numpy()
        assert not touches_border(found.masks[i, 0]) and mask.sum() > 400
        assert (mask & hit_mask).sum() / (mask | hit_mask).sum() > 0.95
        error = np.abs(found.images[i].permute(1, 2, 0).numpy() - colours)[mask & hit_mask]
        assert error.mean() < 0.03


@pytest.mark.parametrize("degrees", [100, 160, 185, 220])
def test_the_frame_is_the_largest_up_to_its_bound(degrees):
    """From edge to edge up to 130 degrees; every pixel comes from inside the photograph."""
    focal = 80 / np.radians(degrees / 2)
    lens = Lens((160, 160), (focal, focal), (79.5, 79.5), 0.0, (0.0,) * 4, True)
    columns, rows, k = undistortion(lens)
    assert min(columns.min(), rows.min()) >= -0.5 and max(columns.max(), rows.max()) <= 159.5
    half = np.arctan(80 / k[0, 0])
    assert half == pytest.approx(min(np.radians(degrees / 2), MAX_HALF_ANGLE), rel=0.01)
    assert np.allclose(k[:2, 2], 79.5) and k[0, 0] == pytest.approx(k[1, 1])


@pytest.mark.parametrize("lens, message", [
    (FOLDED, "folds 12 degrees from the axis"),
    (Fisheye(100.0, (400.0, 60.0)), "principal point .* is outside")])
def test_a_lens_without_a_picture_is_named(tmp_path, lens, message):
    write_fisheye(lens, tmp_path / "c")
    named = f"000.png: a fisheye of 160x120.*{message}.*calibrate again"
    with pytest.raises(SceneError, match=named):
        import_capture(ImportConfig(input=str(tmp_path / "c"), output=str(tmp_path / "s")))


def test_the_cure_of_a_folded_lens_works(tmp_path):
    """Higher coefficients of 0 and a sound first one: the advice of the message."""
    write_fisheye(Fisheye(FOLDED.focal, FOLDED.center, (-0.02, 0.0, 0.0, 0.0)), tmp_path / "c")
    found = import_capture(ImportConfig(input=str(tmp_path / "c"), output=str(tmp_path / "s")))
    assert torch.isfinite(found.scene.images).all() and found.scene.masks.any((1, 2, 3)).all()
