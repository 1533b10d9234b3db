"""Windows of source views: they hold what is sampled, and E gives the same features there."""
from __future__ import annotations

import pytest
import torch

from modules_unet import ImageEncoder
from sdf_rendering import sample_maps
from utils.views.source_crops import MARGIN, STEP, STRIDE, source_windows

WHOLE = (640, 400)


def samples(low, high, *, count=60):
    """uv_grid (2, 1, 1, N, 2) of random pixels: source 0 between low and high, source 1 moved."""
    torch.manual_seed(0)
    share = torch.rand(2, 1, 1, count, 2)
    pixels = torch.tensor(low) + share * (torch.tensor(high) - torch.tensor(low)).float()
    pixels[1] += torch.tensor([200.0, -40.0])
    return pixels / (torch.tensor(WHOLE) - 1) * 2 - 1


def test_sampling_a_window_is_sampling_the_image():
    uv_grid = samples((100, 120), (180, 160)).requires_grad_(True)
    counts = torch.ones(2, 1, 1, 60, dtype=torch.bool)
    windows = source_windows(uv_grid, counts, WHOLE)
    images = torch.rand(2, 3, WHOLE[1], WHOLE[0])
    cut = windows.cut(images)
    assert cut.shape[2:] == windows.size[::-1]
    found = sample_maps(cut, windows.uv_grid(uv_grid))
    torch.testing.assert_close(found, sample_maps(images, uv_grid), atol=1e-4, rtol=1e-4)
    (slope,) = torch.autograd.grad(found.sum(), uv_grid)
    (wanted,) = torch.autograd.grad(sample_maps(images, uv_grid).sum(), uv_grid)
    torch.testing.assert_close(slope, wanted, atol=0.05, rtol=1e-2)    # 320 pixels a unit of uv


def test_windows_are_small_aligned_and_hold_the_margin():
    uv_grid = samples((300, 150), (340, 170))
    counts = torch.ones(2, 1, 1, 60, dtype=torch.bool)
    counts[0, ..., :30] = False
    uv_grid[0, ..., :30, :] = 5.0                          # what does not count may lie anywhere
    windows = source_windows(uv_grid, counts, WHOLE)
    assert windows.size == (192, 192)                      # 41 + 128 + 8, 21 + 128 + 8; by STEP
    assert all(side % STEP == 0 for side in windows.size)
    pixels = ((uv_grid + 1) / 2 * (torch.tensor(WHOLE) - 1)).flatten(1, 3)
    for k in range(2):
        inside = pixels[k][counts[k].flatten()]
        assert windows.left[k] % STRIDE == 0 and windows.top[k] % STRIDE == 0
        assert (inside[:, 0] >= windows.left[k] + MARGIN).all()
        assert (inside[:, 0] <= windows.left[k] + windows.size[0] - 1 - MARGIN).all()


@pytest.mark.parametrize("low, high", [((0, 0), (30, 30)), ((420, 380), (439, 399))])
def test_windows_stay_inside_the_image(low, high):
    uv_grid = samples(low, high)
    counts = torch.zeros(2, 1, 1, 60, dtype=torch.bool)
    counts[0] = True                                       # source 1 has no sample at all
    windows = source_windows(uv_grid, counts, WHOLE)
    assert (windows.left >= 0).all() and (windows.left + windows.size[0] <= WHOLE[0]).all()
    assert (windows.top >= 0).all() and (windows.top + windows.size[1] <= WHOLE[1]).all()
    images = torch.rand(2, 3, WHOLE[1], WHOLE[0])
    torch.testing.assert_close(sample_maps(windows.cut(images), windows.uv_grid(uv_grid))[0],
                               sample_maps(images, uv_grid)[0], atol=1e-4, rtol=1e-4)


def test_images_smaller_than_a_window_are_taken_whole():
    windows = source_windows(torch.zeros(2, 1, 1, 4, 2), torch.ones(2, 1, 1, 4, dtype=torch.bool),
                             (100, 60))
    assert windows.size == (100, 60) and not windows.left.any() and not windows.top.any()
    images = torch.rand(2, 3, 60, 100)
    assert torch.equal(windows.cut(images), images)
    uv_grid = torch.rand(2, 1, 1, 4, 2) * 2 - 1
    torch.testing.assert_close(windows.uv_grid(uv_grid), uv_grid)


def test_features_of_a_window_are_those_of_the_image():
    """With running statistics. What is left is E's resampling, whose phase depends on the size."""
    torch.manual_seed(0)
    encoder = ImageEncoder().eval()
    images = torch.nn.functional.interpolate(torch.rand(1, 3, 40, 64), size=(400, 640),
                                             mode="bilinear") * 2 - 1
    uv_grid = samples((300, 180), (360, 220))[:1]
    windows = source_windows(uv_grid, torch.ones(1, 1, 1, 60, dtype=torch.bool), WHOLE)
    with torch.no_grad():
        found = sample_maps(encoder(windows.cut(images)), windows.uv_grid(uv_grid))
        wanted = sample_maps(encoder(images), uv_grid)
    assert windows.size[0] < WHOLE[0] and windows.size[1] < WHOLE[1]
    assert (found - wanted).norm() < 0.05 * wanted.norm()
