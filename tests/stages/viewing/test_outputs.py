"""What of a picture is shown."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.viewing.outputs import OUTPUTS, draw_output, view_colours, weight_colours
from stages.viewing.subjects import Shown
from stages.viewing.windows import Pose, window_camera


def shown() -> Shown:
    """4x3 pixels: grey, hit on the left half, facing the camera, seen by the first source."""
    hit = torch.zeros(1, 3, 4, dtype=torch.bool)
    hit[..., :2] = True
    normals = torch.zeros(3, 3, 4)
    normals[2] = 1
    weights = torch.zeros(2, 3, 4)
    weights[0] = 1
    return Shown(torch.full((3, 3, 4), 0.5), hit, normals * hit, torch.ones(1, 3, 4) * hit, weights)


#: Far away, looking down -z: all rays are parallel to it, nearly.
CAMERA = window_camera(Pose(np.array([0.0, 0, 9]), np.array([0.0, 1, 0, 0]), 1e-3), (4, 3))


def test_every_output_is_a_picture_on_white():
    for output in OUTPUTS:
        image = draw_output(output, shown(), photograph=None, camera=CAMERA)
        assert image.shape == (3, 4, 3) and image.dtype == np.uint8
        if output in ("normals", "depth", "weights", "mesh"):
            assert (image[:, 2:] == 255).all() and (image[:, :2] != 255).any()


@pytest.mark.parametrize("output, expected", [
    ("picture", (128, 128, 128)), ("normals", (128, 128, 255)), ("mesh", (230, 230, 230))])
def test_values_are_those_of_the_surface(output, expected):
    image = draw_output(output, shown(), photograph=None, camera=CAMERA)
    assert np.abs(image[0, 0].astype(int) - expected).max() <= 1


def test_photograph_and_error_need_a_source_view():
    photograph = torch.full((3, 3, 4), 0.5)
    photograph[:, 0, 0] = 1
    image = draw_output("photograph", shown(), photograph=photograph, camera=CAMERA)
    assert image[0, 0].tolist() == [255] * 3 and image[1, 1].tolist() == [128] * 3
    error = draw_output("error", shown(), photograph=photograph, camera=CAMERA)
    assert error[0, 0].sum() > 300 > error[1, 1].sum()
    assert (error[:, 2:] == 255).all()                     # background is not compared
    without = draw_output("error", shown(), photograph=None, camera=CAMERA)
    assert (without == 128).all()


def test_weights_blend_the_colours_of_the_views():
    colours = view_colours(5)
    assert ((colours >= 0) & (colours <= 1)).all() and len(colours.unique(dim=0)) == 5
    weights = torch.zeros(5, 1, 2)
    weights[3, 0, 0] = 1
    weights[:2, 0, 1] = 0.5
    found = weight_colours(weights)
    torch.testing.assert_close(found[:, 0, 0], colours[3])
    torch.testing.assert_close(found[:, 0, 1], colours[:2].mean(0))
