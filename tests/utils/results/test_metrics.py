"""Measures against closed forms and slow twins."""
import math

import numpy as np
import pytest
import torch

from utils.results.metrics import chamfer, mask_iou, psnr, psnr_foreground, ssim


def half_mask(height=16, width=20):
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, :, :width // 2] = True
    return mask


def test_psnr_of_a_constant_offset_is_its_closed_form():
    photograph = torch.full((3, 16, 20), 0.5)
    prediction = photograph + 0.1
    # float32: 0.6 - 0.5 is right to 1e-7, which is 1e-5 dB
    full = torch.ones(1, 16, 20, dtype=torch.bool)
    assert psnr(prediction, photograph, full) == pytest.approx(20.0, abs=1e-4)
    assert psnr_foreground(prediction, photograph, full) == pytest.approx(20.0, abs=1e-4)
    # over half the pixels the paper's mean is 10 log10(2) = 3.01 dB higher
    gain = 10 * math.log10(2)
    assert psnr(prediction, photograph, half_mask()) == pytest.approx(20 + gain, abs=1e-4)
    assert psnr_foreground(prediction, photograph, half_mask()) == pytest.approx(20, abs=1e-4)


def test_psnr_ignores_what_lies_outside_the_mask_and_clamps_the_prediction():
    photograph = torch.rand(3, 16, 20, generator=torch.Generator().manual_seed(0))
    prediction = photograph.clone()
    prediction[:, :, 10:] = 7.0
    assert psnr(prediction, photograph, half_mask()) == pytest.approx(100.0, abs=1e-4)
    white = torch.ones(3, 16, 20)
    assert psnr(white * 3, white, half_mask()) == pytest.approx(100.0, abs=1e-4)


def test_empty_mask_has_no_foreground_psnr():
    image = torch.zeros(3, 16, 20)
    assert psnr_foreground(image, image, torch.zeros(1, 16, 20, dtype=torch.bool)) is None


def test_measures_refuse_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        psnr(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), torch.zeros(1, 8, 9))
    with pytest.raises(ValueError, match="cannot be compared"):
        mask_iou(torch.zeros(1, 8, 8), torch.zeros(1, 8, 9))


def slow_ssim(a, b):
    """Wang et al. 2004, window by window, for (H, W) arrays; none leaves the image."""
    offset = np.arange(-5, 6)
    weights = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5 ** 2))
    weights /= weights.sum()
    values = []
    for i in range(5, a.shape[0] - 5):
        for j in range(5, a.shape[1] - 5):
            p, q = (x[i - 5:i + 6, j - 5:j + 6] for x in (a, b))
            mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
            var_p = (weights * p * p).sum() - mean_p ** 2
            var_q = (weights * q * q).sum() - mean_q ** 2
            both = (weights * p * q).sum() - mean_p * mean_q
            values.append((2 * mean_p * mean_q + 1e-4) * (2 * both + 9e-4)
                          / ((mean_p ** 2 + mean_q ** 2 + 1e-4) * (var_p + var_q + 9e-4)))
    return np.mean(values)


def test_ssim_equals_a_slow_twin():
    generator = torch.Generator().manual_seed(1)
    photograph = torch.rand(3, 15, 18, generator=generator)
    prediction = (photograph + 0.2 * torch.randn(3, 15, 18, generator=generator)).clamp(0, 1)
    full = torch.ones(1, 15, 18, dtype=torch.bool)
    expected = np.mean([slow_ssim(prediction[c].double().numpy(), photograph[c].double().numpy())
                        for c in range(3)])
    # both in float64; only the order of sums differs
    assert ssim(prediction, photograph, full) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("side", [3, 4, 10])
def test_ssim_works_on_images_below_its_window(side):
    image = torch.rand(3, side, 20, generator=torch.Generator().manual_seed(2))
    full = torch.ones(1, side, 20, dtype=torch.bool)
    assert ssim(image, image, full) == pytest.approx(1.0)
    assert ssim(1 - image, image, full) < 0.5


def test_ssim_of_a_two_pixel_row_is_not_available():
    assert ssim(torch.zeros(3, 2, 9), torch.zeros(3, 2, 9), torch.ones(1, 2, 9).bool()) is None


def test_mask_iou_counts_pixels():
    left, top = half_mask(10, 10), torch.zeros(1, 10, 10, dtype=torch.bool)
    top[:, :5] = True
    assert mask_iou(left, top) == pytest.approx(25 / 75)
    assert mask_iou(left, ~left) == 0
    assert mask_iou(left & ~left, left & ~left) == 1


def test_chamfer_of_shifted_points_both_ways():
    grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3), -1).reshape(-1, 3)
    found = chamfer(grid + [0.1, 0, 0], grid)
    assert (found.accuracy, found.completeness) == pytest.approx((0.1, 0.1))
    one = chamfer(np.zeros((1, 3)), np.array([[1.0, 0, 0], [0, 3.0, 0]]))
    assert (one.accuracy, one.completeness, one.mean) == pytest.approx((1.0, 2.0, 1.5))


def test_chamfer_refuses_empty_sets():
    with pytest.raises(ValueError, match="predicted points"):
        chamfer(np.zeros((0, 3)), np.zeros((1, 3)))
