"""Windows of source views: they hold what is sampled, and E gives the same features there."""
from __future__ import annotations

import pytest
import torch

from modules_unet import ImageEncoder
from sdf_rendering import sample_maps
from utils.views.source_crops import MARGIN, STEP, STRIDE, source_crops

WHOLE = (640, 400)


def samples(low, high, *, count=60):
    """uv_grid (2, 1, 1, N, 2) of random pixels: source 0 between low and high, source 1 moved."""
    torch.manual_seed(0)
    share = torch.rand(2, 1, 1, count, 2)
    pixels = torch.tensor(low) + share * (torch.tensor(high) - torch.tensor(low)).float()
    pixels[1] += torch.tensor([200.0, -40.0])
    return pixels / (torch.tensor(WHOLE) - 1) * 2 - 1


def test_sampling_a_crop_is_sampling_the_image():
    uv_grid = samples((100, 120), (180, 160)).requires_grad_(True)
    counts = torch.ones(2, 1, 1, 60, dtype=torch.bool)
    crops = source_crops(uv_grid, counts, WHOLE)
    images = torch.rand(2, 3, WHOLE[1], WHOLE[0])
    cut = crops.cut(images)
    assert cut.shape[2:] == crops.size[::-1]
    found = sample_maps(cut, crops.uv_grid(uv_grid))
    torch.testing.assert_close(found, sample_maps(images, uv_grid), atol=1e-4, rtol=1e-4)
    (slope,) = torch.autograd.grad(found.sum(), uv_grid)
    (wanted,) = torch.autograd.grad(sample_maps(images, uv_grid).sum(), uv_grid)
    torch.testing.assert_close(slope, wanted, atol=0.05, rtol=1e-2)    # 320 pixels a unit of uv


def test_crops_are_small_aligned_and_hold_the_margin():
    uv_grid = samples((300, 150), (340, 170))
    counts = torch.ones(2, 1, 1, 60, dtype=torch.bool)
    counts[0, ..., :30] = False
    uv_grid[0, ..., :30, :] = 5.0                          # what does not count may lie anywhere
    crops = source_crops(uv_grid, counts, WHOLE)
    assert crops.size == (192, 192)                      # 41 + 128 + 8, 21 + 128 + 8; by STEP
    assert all(side % STEP == 0 for side in crops.size)
    pixels = ((uv_grid + 1) / 2 * (torch.tensor(WHOLE) - 1)).flatten(1, 3)
    for k in range(2):
        inside = pixels[k][counts[k].flatten()]
        assert crops.left[k] % STRIDE == 0 and crops.top[k] % STRIDE == 0
        assert (inside[:, 0] >= crops.left[k] + MARGIN).all()
        assert (inside[:, 0] <= crops.left[k] + crops.size[0] - 1 - MARGIN).all()


@pytest.mark.parametrize("low, high", [((0, 0), (30, 30)), ((420, 380), (439, 399))])
def test_crops_stay_inside_the_image(low, high):
    uv_grid = samples(low, high)
    counts = torch.zeros(2, 1, 1, 60, dtype=torch.bool)
    counts[0] = True                                       # source 1 has no sample at all
    crops = source_crops(uv_grid, counts, WHOLE)
    assert (crops.left >= 0).all() and (crops.left + crops.size[0] <= WHOLE[0]).all()
    assert (crops.top >= 0).all() and (crops.top + crops.size[1] <= WHOLE[1]).all()
    images = torch.rand(2, 3, WHOLE[1], WHOLE[0])
    torch.testing.assert_close(sample_maps(crops.cut(images), crops.uv_grid(uv_grid))[0],
                               sample_maps(images, uv_grid)[0], atol=1e-4, rtol=1e-4)


def test_images_smaller_than_a_crop_are_taken_whole():
    crops = source_crops(torch.zeros(2, 1, 1, 4, 2), torch.ones(2, 1, 1, 4, dtype=torch.bool),
                             (100, 60))
    assert crops.size == (100, 60) and not crops.left.any() and not crops.top.any()
    images = torch.rand(2, 3, 60, 100)
    assert torch.equal(crops.cut(images), images)
    uv_grid = torch.rand(2, 1, 1, 4, 2) * 2 - 1
    torch.testing.assert_close(crops.uv_grid(uv_grid), uv_grid)


def test_features_of_a_crop_are_those_of_the_image():
    """With running statistics. What is left is E's resampling, whose phase depends on the size."""
    torch.manual_seed(0)
    encoder = ImageEncoder().eval()
    images = torch.nn.functional.interpolate(torch.rand(1, 3, 40, 64), size=(400, 640),
                                             mode="bilinear") * 2 - 1
    uv_grid = samples((300, 180), (360, 220))[:1]
    crops = source_crops(uv_grid, torch.ones(1, 1, 1, 60, dtype=torch.bool), WHOLE)
    with torch.no_grad():
        found = sample_maps(encoder(crops.cut(images)), crops.uv_grid(uv_grid))
        wanted = sample_maps(encoder(images), uv_grid)
    assert crops.size[0] < WHOLE[0] and crops.size[1] < WHOLE[1]
    assert (found - wanted).norm() < 0.05 * wanted.norm()
