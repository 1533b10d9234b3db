"""Resized maps and convolutions of them against F.interpolate and the plain form."""
from __future__ import annotations

import pytest
import torch
from support.map_cases import SIZES, cut, regions_of
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from modules_unet import PartialConv2d
from utils.fast.image_networks.joined_convolution import (
    JoinedConvolution,
    convolve_resized,
    resized,
)
from utils.fast.image_networks.parts import Part
from utils.views.regions import Region


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size, size_read", SIZES)
def test_resized_is_a_window_of_the_whole_resized(size, size_read, dtype):
    """To rounding: weights about 1 at positions of some hundred pixels."""
    maps = torch.randn(2, 3, *size_read, dtype=dtype, requires_grad=True)
    full = F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
    for region in regions_of(size, 12):
        read = region.unresized(size_read)
        found = resized(Part(cut(maps, read), read), region)
        rounding = 100 * torch.finfo(dtype).eps * max(size)
        torch.testing.assert_close(found, cut(full, region), atol=rounding, rtol=0)
        upstream = torch.randn_like(found)
        ours, true = (torch.autograd.grad(x, maps, upstream, retain_graph=True)[0]
                      for x in (found, cut(full, region)))
        torch.testing.assert_close(ours, true, atol=rounding * 10, rtol=0)


def join(region, size_read, *, channels=(3, 2), kernel=3, dtype=torch.float64):
    """A convolution, what it reads of coarse maps, and a skip."""
    torch.manual_seed(0)
    read = region.unresized(size_read)
    convolution = nn.Conv2d(sum(channels), 4, kernel, padding=kernel // 2).to(dtype)
    coarse = torch.randn(2, channels[0], *read.shape, dtype=dtype, requires_grad=True)
    skip = torch.randn(2, channels[1], *region.shape, dtype=dtype, requires_grad=True)
    return convolution, Part(coarse, read), Part(skip, region)


def convolve_joined(convolution, coarse, skip):
    """Of one map; twice, as weights that are kept must not be used up."""
    joined = JoinedConvolution(convolution)
    joined(coarse, skip)
    return joined(coarse, skip)


def with_gradients(found, convolution, coarse, skip):
    """A result and the gradients of one and the same sum over it."""
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(found)
    wanted = [coarse.maps, skip.maps, *convolution.parameters()]
    return [found.detach(), *torch.autograd.grad((found * upstream).sum(), wanted)]


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size, size_read", SIZES[:-1])
def test_a_joined_convolution_is_the_one_of_resized_maps(size, size_read, kernel):
    """The plain form, with zeros beyond the region's ends, and its gradients, in float64."""
    for region in regions_of(size, 6, seed=2):
        given = join(region, size_read, kernel=kernel)
        ours, true = (with_gradients(convolve(*given), *given)
                      for convolve in (convolve_joined, convolve_resized))
        for one, other in zip(ours, true, strict=True):
            torch.testing.assert_close(one, other, atol=1e-11 * float(other.abs().max()), rtol=0)


def test_a_joined_convolution_of_whole_maps_is_that_of_interpolated_ones():
    convolution, coarse, skip = join(Region(0, 37, 0, 53, (37, 53)), (19, 27))
    above = F.interpolate(coarse.maps, size=(37, 53), mode="bilinear", align_corners=True)
    expected = convolution(torch.cat([above, skip.maps], 1))
    torch.testing.assert_close(convolve_joined(convolution, coarse, skip), expected)


def test_a_joined_convolution_takes_less_work():
    """Of D's first join: 256 coarse channels and 128 of the skip. The least possible is a half."""
    region, counts = Region(2, 47, 4, 60, (48, 64)), []
    given = join(region, (24, 32), channels=(256, 128), dtype=torch.float32)
    given[0].out_channels, given[0].weight = 128, nn.Parameter(torch.randn(128, 384, 3, 3))
    given[0].bias = nn.Parameter(torch.zeros(128))
    for convolve in (convolve_resized, lambda *given: JoinedConvolution(given[0])(*given[1:])):
        with FlopCounterMode(display=False) as counter:
            with_gradients(convolve(*given), *given)
        counts.append(counter.get_total_flops())
    assert counts[1] < 0.65 * counts[0]


def test_a_joined_convolution_in_bf16_is_as_exact_as_the_plain_one():
    """Result and gradients against float64. Products are rounded before they are summed, not only
    after; but maps are not resized and rounded before all."""
    convolution, *parts = join(Region(5, 70, 9, 88, (96, 128)), (48, 64), channels=(64, 32))
    low = [Part(part.maps.detach().bfloat16().requires_grad_(True), part.region) for part in parts]
    exact = [Part(part.maps.detach().double().requires_grad_(True), part.region) for part in low]
    true = with_gradients(convolve_resized(convolution, *exact), convolution, *exact)
    convolution.float()
    errors = []
    for convolve in (convolve_resized, convolve_joined):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = convolve(convolution, *low)
        pairs = zip(with_gradients(found, convolution, *low), true, strict=True)
        errors.append([float((one.double() - other).square().mean().sqrt())
                       for one, other in pairs])
    for plain, ours in zip(*errors, strict=True):
        assert 0 < ours < 1.5 * plain


def test_partial_convolutions_take_the_plain_form():
    _, coarse, skip = join(Region(2, 9, 3, 12, (16, 16)), (8, 8))
    convolution = PartialConv2d(5, 4, 3).double()
    assert torch.equal(convolve_joined(convolution, coarse, skip),
                       convolve_resized(convolution, coarse, skip))
