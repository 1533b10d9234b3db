"""Losses against sums by hand: a few float32 terms round to 1e-7, which approx's 1e-6 covers."""
from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from data_processing.synthetic import analytic_sdf as solids
from loss_functions import (
    eikonal_loss,
    eikonal_terms,
    image_loss,
    masked_psnr,
    normal_loss,
    off_surface_loss,
    on_surface_loss,
    soft_mask_loss,
    soft_mask_terms,
)
from sdf_rendering import ReferenceTracer
from utils.errors import ConfigError
from utils.geometry.rays import Rays
from utils.geometry.sdf import gradient
from utils.results.metrics import psnr


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two 1x2 targets: prediction, photograph, and a mask with 1 and 2 pixels."""
    prediction, photograph = torch.zeros(2, 3, 1, 2), torch.zeros(2, 3, 1, 2)
    prediction[0, :, 0, 0] = torch.tensor([0.5, 0.2, 0.0])
    photograph[0, :, 0, 0] = torch.tensor([0.1, 0.2, 1.5])
    prediction[0, :, 0, 1] = 9.0                           # outside the mask: counts for nothing
    prediction[1, 0, 0] = torch.tensor([0.3, 0.6])
    mask = torch.tensor([[True, False], [True, True]])[:, None, None]
    return prediction, photograph, mask


def test_eikonal_loss_divides_by_all_points_that_were_drawn():
    """grad (2 x) = 2 everywhere: each term is 1."""
    points = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    tracer = ReferenceTracer(2)
    found = [eikonal_loss(tracer, lambda x: 2 * x[..., 0], points, num_drawn=count).item()
             for count in (None, 5, 20)]
    assert found == pytest.approx([1, 1, 0.25])
    assert eikonal_loss(tracer, lambda x: x[..., 0], points[:0], num_drawn=0) == 0


@pytest.mark.parametrize("metric, first, second", [
    ("l1", 0.4 + 1.5, 0.3 + 0.6), ("l2", 0.16 + 2.25, 0.09 + 0.36),
    ("smooth_l1", 0.08 + 1.0, 0.045 + 0.18)])
def test_image_loss_by_hand(images, metric, first, second):
    """Mean over 3 channels x 2 pixels of each target, summed over targets; per foreground pixel the
    first target's sum is divided by 3 x 1 instead."""
    assert image_loss(*images, metric).item() == pytest.approx((first + second) / 6)
    found = image_loss(*images, metric, region="foreground").item()
    assert found == pytest.approx(first / 3 + second / 6)


def test_image_loss_has_no_gradient_outside_the_mask(images):
    prediction, photograph, mask = images
    prediction.requires_grad_(True)
    image_loss(prediction, photograph, mask).backward()
    assert prediction.grad[0, :, 0, 1].abs().sum() == 0
    assert prediction.grad[0, :, 0, 0].tolist() == pytest.approx([1 / 6, 0, -1 / 6])


def test_image_loss_without_foreground_is_zero(images):
    prediction, photograph, mask = images
    for region in ("all", "foreground"):
        assert image_loss(prediction, photograph, mask & False, region=region).item() == 0


def test_unknown_metric_is_refused(images):
    with pytest.raises(ConfigError, match="color_loss is 'l3'.*l1, l2, smooth_l1"):
        image_loss(*images, "l3")


def test_soft_mask_terms_by_hand():
    """-log S inside the mask, -log(1 - S) outside, S = sigmoid(-alpha Phi)."""
    least, alpha = torch.tensor([0.0, 0.02, -0.04, 0.02]), 50.0
    mask = torch.tensor([True, True, False, False])
    s = [1 / (1 + math.exp(alpha * value)) for value in (0.0, 0.02, -0.04, 0.02)]
    expected = [-math.log(s[0]), -math.log(s[1]), -math.log(1 - s[2]), -math.log(1 - s[3])]
    assert soft_mask_terms(least, mask, alpha).tolist() == pytest.approx(expected)


def test_soft_mask_terms_stay_finite_with_their_gradient():
    """exp(400) overflows float32; the term is alpha |Phi| there and its slope -+ alpha."""
    least = torch.tensor([1.0, -1.0, 1.0, -1.0], requires_grad=True)
    terms = soft_mask_terms(least, torch.tensor([True, False, False, True]), 400.0)
    assert terms.tolist() == pytest.approx([400.0, 400.0, 0.0, 0.0])
    terms.sum().backward()
    assert least.grad.tolist() == pytest.approx([400.0, -400.0, 0.0, 0.0])


@pytest.mark.parametrize(("has_rim", "settles_inside"), [(False, math.log(2)), (True, 0.0)])
def test_where_the_silhouette_loss_holds_a_surface(has_rim, settles_inside):
    """A ball behind a disc as mask, seen along z: without the rim, ln 2 / alpha inside it.

    Rays off the mask push by the integral of sigmoid(-alpha (s - r)) over their distance s, those
    on it that miss pull by that of sigmoid(alpha (s - r)): equal where alpha (R - r) = ln 2.
    """
    alpha, edge = 200.0, 0.5
    side = torch.arange(0.4, 0.6, 2e-4)                                # distances s of the rays
    rays = Rays(F.pad(side[:, None], (0, 2)) - torch.tensor([0.0, 0, 2]),
                torch.tensor([0.0, 0, 1]).expand(len(side), 3), torch.full_like(side, 1.0),
                torch.full_like(side, 3.0), torch.ones_like(side, dtype=torch.bool))
    mask = side < edge
    slopes = {}
    for inside in torch.arange(-2.0, 4.0, 0.05).tolist():
        radius = torch.tensor(edge - inside / alpha, requires_grad=True)
        loss = soft_mask_loss(ReferenceTracer(101), solids.sphere(radius), rays, mask,
                              hit_mask=side < radius, alpha=alpha,
                              rim_mask=mask if has_rim else None)
        slopes[inside] = abs(torch.autograd.grad(loss, radius)[0].item())
    # of rays 2e-4 apart, 0.04 / alpha, in steps of 0.05 / alpha
    assert min(slopes, key=slopes.__getitem__) == pytest.approx(settles_inside, abs=0.08)


def test_eikonal_terms_by_hand():
    gradients = torch.tensor([[3.0, 4, 0], [0, 0, 0.5], [0, 1, 0], [0, 0, 0]])
    assert eikonal_terms(gradients).tolist() == pytest.approx([16, 0.25, 0, 1])
    assert eikonal_terms(gradients, "l1").tolist() == pytest.approx([4, 0.5, 0, 1])


@pytest.mark.parametrize("sdf", [solids.sphere(0.5, (0.1, 0.2, 0.0)), solids.torus(0.5, 0.2),
                                 solids.capsule((-0.3, 0, 0), (0.4, 0.2, 0), 0.2)])
@pytest.mark.parametrize("metric", ["l1", "l2"])
def test_eikonal_terms_of_an_exact_distance_are_zero(sdf, metric):
    """Away from where two points of the surface are equally near; float64 rounding."""
    points = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    _, slopes = gradient(sdf, points)
    assert eikonal_terms(slopes, metric).max() < 1e-9
    # twice as steep: |2 - 1| everywhere
    assert eikonal_terms(2 * slopes, metric).tolist() == pytest.approx([1.0] * 2000)


def test_losses_at_known_points_by_hand():
    sdf = torch.tensor([0.02, -0.01, 0.0])
    assert on_surface_loss(sdf).item() == pytest.approx(0.01)
    expected = (math.exp(-2) + math.exp(-1) + 1) / 3
    assert off_surface_loss(sdf).item() == pytest.approx(expected)
    slopes = torch.tensor([[2.0, 0, 0], [0, 0, 3], [0, 1, 1]])
    normals = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert normal_loss(slopes, normals).item() == pytest.approx((0 + 2 + 1 - math.sqrt(0.5)) / 3)


def test_psnr_of_targets_is_the_papers():
    """0.1 off on half of the pixels is 23.01 dB, as the other half counts as right; out of range
    counts as 1; and the mean is over the decibels."""
    photograph = torch.full((2, 3, 4, 4), 0.9)
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[:, :, :2] = True
    prediction = torch.stack([photograph[0] - 0.1, torch.full((3, 4, 4), 7.0)])
    prediction[0, :, 2:] = 3.0                             # off the mask
    expected = psnr(prediction[0], photograph[0], mask[0]), psnr(prediction[1], photograph[1],
                                                                  mask[1])
    assert expected[0] == pytest.approx(20 + 10 * math.log10(2), abs=1e-3)
    found = float(masked_psnr(prediction, photograph, mask))
    assert found == pytest.approx(sum(expected) / 2, abs=1e-4)        # float32
