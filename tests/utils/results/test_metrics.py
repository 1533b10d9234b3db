"""Measures against closed forms and slow twins."""
import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from utils.results.metrics import (
    chamfer,
    mask_iou,
    psnr,
    psnr_foreground,
    ssim,
    ssim_gaussian,
)


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


def uniform_window():
    """Weights of 7x7 pixels, and the factor of an unbiased variance."""
    return np.full((7, 7), 1 / 49), 49 / 48


def gaussian_window():
    """Weights of 11x11 pixels, sigma 1.5; variances are those of the window's pixels."""
    offset = np.arange(-5, 6)
    weights = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5 ** 2))
    return weights / weights.sum(), 1.0


def slow_ssim(a, b, weights, factor):
    """SSIM of (H, W) arrays, window by window; none leaves the image."""
    values, half = [], len(weights) // 2
    for i in range(half, a.shape[0] - half):
        for j in range(half, a.shape[1] - half):
            p, q = (x[i - half:i + half + 1, j - half:j + half + 1] for x in (a, b))
            mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
            var_p = factor * ((weights * p * p).sum() - mean_p ** 2)
            var_q = factor * ((weights * q * q).sum() - mean_q ** 2)
            both = factor * ((weights * p * q).sum() - mean_p * mean_q)
            values.append((2 * mean_p * mean_q + 1e-4) * (2 * both + 9e-4)
                          / ((mean_p ** 2 + mean_q ** 2 + 1e-4) * (var_p + var_q + 9e-4)))
    return np.mean(values)


def noisy_pair():
    """A prediction and a photograph (3, 15, 18) that differ by noise."""
    generator = torch.Generator().manual_seed(1)
    photograph = torch.rand(3, 15, 18, generator=generator)
    return (photograph + 0.2 * torch.randn(3, 15, 18, generator=generator)).clamp(0, 1), photograph


@pytest.mark.parametrize("measure, window", [(ssim, uniform_window),
                                             (ssim_gaussian, gaussian_window)])
def test_ssim_equals_a_slow_twin(measure, window):
    prediction, photograph = noisy_pair()
    full = torch.ones(1, 15, 18, dtype=torch.bool)
    expected = np.mean([slow_ssim(prediction[c].double().numpy(), photograph[c].double().numpy(),
                                  *window()) for c in range(3)])
    # both in float64; only the order of sums differs
    assert measure(prediction, photograph, full) == pytest.approx(expected, abs=1e-9)


def test_ssim_is_the_default_of_scikit_image_on_masked_images():
    prediction, photograph = noisy_pair()
    mask = half_mask(15, 18)
    images = [(image * mask).permute(1, 2, 0).double().numpy()
              for image in (prediction, photograph)]
    expected = structural_similarity(*images, channel_axis=-1, data_range=1)
    assert ssim(prediction, photograph, mask) == pytest.approx(expected, abs=1e-12)
    assert ssim_gaussian(prediction, photograph, mask) != pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("side", [3, 4, 6])
def test_ssim_works_on_images_below_its_window(side):
    image = torch.rand(3, side, 20, generator=torch.Generator().manual_seed(2))
    full = torch.ones(1, side, 20, dtype=torch.bool)
    assert ssim(image, image, full) == pytest.approx(1.0)
    assert ssim(1 - image, image, full) < 0.5


@pytest.mark.parametrize("measure, side", [(ssim, 2), (ssim_gaussian, 10)])
def test_ssim_below_its_least_size_is_not_available(measure, side):
    image = torch.zeros(3, side, 19)
    assert measure(image, image, torch.ones(1, side, 19).bool()) is None


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


def test_angles_of_normals_by_hand():
    """Two true points, each at a predicted one of its own: 90 and 45 degrees, whatever lengths."""
    points = np.array([[0.0, 0, 0], [5.0, 0, 0]])
    predicted, true = np.array([[2.0, 0, 0], [0, 0, 1.0]]), np.array([[0, 3.0, 0], [0, 1.0, 1.0]])
    found = chamfer(points[::-1], points, normals_predicted=predicted[::-1], normals_true=true)
    assert found.normal_degrees == pytest.approx(67.5) and found.mean == 0
    assert chamfer(points, points, normals_predicted=predicted).normal_degrees is None
