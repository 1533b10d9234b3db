"""Regions of maps against whole maps, cut."""
from __future__ import annotations

import pytest
import torch
from support.map_cases import SIZES, cut, regions_of
from torch.nn import functional as F

from utils.fast.image_networks.parts import Part, whole
from utils.views.regions import Region, mask_regions, of_few_shapes, view_regions


@pytest.mark.parametrize("size, size_read", SIZES)
def test_resizing_reads_what_it_needs_and_little_more(size, size_read):
    """A change elsewhere changes nothing; at most two pixels of a side are read for nothing."""
    for region in regions_of(size, 12, seed=1):
        read = region.unresized(size_read)
        maps = torch.zeros(1, 1, *size_read, dtype=torch.float64, requires_grad=True)
        full = F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
        (needed,) = torch.autograd.grad(cut(full, region).sum(), maps)
        outside = torch.ones_like(needed)
        cut(outside, read).zero_()
        assert not (needed * outside).abs().max() > 1e-9
        (tight,) = mask_regions(needed[:, :1] > 1e-9)
        assert read.joined(tight) == read
        assert all(ours <= least + 2 for ours, least in zip(read.shape, tight.shape))


@pytest.mark.parametrize("size", [(8, 12), (7, 9), (1, 3)])
def test_unpooled_is_what_averaging_reads(size):
    maps = torch.rand(1, 2, *size, dtype=torch.float64)
    pooled = F.avg_pool2d(maps, 2, ceil_mode=True)
    for region in regions_of(tuple(pooled.shape[2:]), 8):
        part = cut(maps, region.unpooled(size))
        torch.testing.assert_close(F.avg_pool2d(part, 2, ceil_mode=True), cut(pooled, region))


def test_grown_and_rounded_are_moved_in_from_the_borders():
    region = Region(2, 4, 0, 3, (5, 9))
    assert region.grown(1) == Region(1, 5, 0, 5, (5, 9))
    assert region.grown(2) == Region(0, 5, 0, 7, (5, 9))           # no more than there is
    assert Region(1, 3, 6, 9, (5, 9)).rounded(4) == Region(1, 5, 5, 9, (5, 9))
    assert region.rounded(8) == Region(0, 5, 0, 8, (5, 9))
    assert region.joined(Region(3, 5, 7, 8, (5, 9))) == Region(2, 5, 0, 8, (5, 9))
    assert region.shape == (2, 3) and region.num_pixels == 6


def test_parts_are_cut_and_padded():
    maps = torch.rand(2, 3, 6, 8).contiguous(memory_format=torch.channels_last)
    maps.requires_grad_(True)
    outer, inner = Region(1, 6, 2, 8, (6, 8)), Region(2, 5, 4, 8, (6, 8))
    part = Part(whole(maps).cut(outer), outer)
    found = part.cut(inner)
    assert torch.equal(found, cut(maps, inner))
    assert whole(maps).cut(whole(maps).region) is maps
    padded = Part(found, inner).padded()
    expected = torch.zeros(2, 3, 6, 8)
    cut(expected, inner).copy_(found.detach())
    assert torch.equal(padded, expected)
    (grad,) = torch.autograd.grad(found, maps, torch.ones_like(found))
    assert torch.equal(grad, (expected != 0).float())
    assert grad.is_contiguous(memory_format=torch.channels_last)


def test_regions_of_masks_hold_every_pixel_and_nothing_more():
    masks = torch.zeros(3, 1, 6, 9, dtype=torch.bool)
    masks[0, 0, 2, 3] = masks[0, 0, 4, 1] = True
    masks[1] = True
    first, second, empty = mask_regions(masks)
    assert first == Region(2, 5, 1, 4, (6, 9))
    assert second == Region(0, 6, 0, 9, (6, 9))
    assert empty.shape == (1, 1)                       # a map without pixels cannot be convolved


def test_many_regions_get_few_shapes_and_few_stay_as_they_are():
    size = (96, 128)
    regions = [Region(k, 50 + 2 * k % 17, 3, 40 + 3 * k, size) for k in range(20)]
    assert of_few_shapes(regions, 20) == regions
    found = of_few_shapes(regions, 5)
    assert len({region.shape for region in found}) <= 5
    for tight, region in zip(regions, found, strict=True):
        assert region.joined(tight) == region
        assert all(side < least + 32 for side, least in zip(region.shape, tight.shape))


def test_regions_of_views_are_those_of_their_masks_and_one_pixel_more_of_sources():
    masks = torch.zeros(3, 1, 8, 9, dtype=torch.bool)
    masks[0, :, 2:4, 1:5], masks[1, :, :, 3], masks[2, :, 7, 8] = True, True, True
    found = view_regions(masks).of(torch.tensor([2, 0]), torch.tensor([1]))
    assert found.targets == [Region(7, 8, 8, 9, (8, 9)), Region(2, 4, 1, 5, (8, 9))]
    assert found.sources == [Region(0, 8, 2, 5, (8, 9))]
