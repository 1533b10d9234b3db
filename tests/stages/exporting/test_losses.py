"""What a step of an export costs, in pictures whose error is known."""
from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stages.exporting.losses import StepScores


def trained(photograph: torch.Tensor, mask: torch.Tensor) -> Any:
    """A scene of one held-out view."""
    scene = SimpleNamespace(images=photograph[None], masks=mask[None], cameras=[None])
    return SimpleNamespace(scene=scene, scored=(0,), train=())


def test_a_cut_out_picture_is_compared_on_its_background():
    """Half of the mask is missed, and shows the background: 1 in place of 0.2 in 60 of 240 pixels.

    The same picture is perfect where only the mask counts, as the decoder paints beyond the edge.
    """
    photograph = torch.full((3, 12, 20), 0.2)
    mask = torch.zeros(1, 12, 20, dtype=torch.bool)
    mask[:, :, :10] = True
    covered = torch.zeros(1, 12, 20)
    covered[:, :, :5] = 1.0
    scores = StepScores(trained(photograph, mask), None, (1.0, 1.0, 1.0))
    score = scores.add("mesh", lambda camera, own: (photograph, covered, covered))
    assert score.cut_out == pytest.approx(-10 * math.log10(0.8 ** 2 / 4))
    assert score.to_photographs["psnr"] == 100                           # of the same picture
    assert "7.96" in scores.table()


def test_half_covered_pixels_are_mixed_with_the_background():
    """0.5 of 0.2 on black is 0.1: all of the picture is 0.1 off."""
    photograph = torch.full((3, 12, 20), 0.2)
    mask = torch.ones(1, 12, 20, dtype=torch.bool)
    scores = StepScores(trained(photograph, mask), None, (0.0, 0.0, 0.0))
    score = scores.add("mesh", lambda camera, own: (photograph, mask, mask * 0.5))
    assert score.cut_out == pytest.approx(20.0)
