"""Windows of maps against whole maps, cut."""
from __future__ import annotations

import pytest
import torch
from support.map_cases import SIZES, cut, windows_of
from torch.nn import functional as F

from utils.fast.image_networks.regions import (
    Part,
    Window,
    mask_windows,
    of_few_shapes,
    view_windows,
    whole,
)


@pytest.mark.parametrize("size, size_read", SIZES)
def test_resizing_reads_what_it_needs_and_little_more(size, size_read):
    """A change elsewhere changes nothing; at most two pixels of a side are read for nothing."""
    for window in windows_of(size, 12, seed=1):
        read = window.unresized(size_read)
        maps = torch.zeros(1, 1, *size_read, dtype=torch.float64, requires_grad=True)
        full = F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
        (needed,) = torch.autograd.grad(cut(full, window).sum(), maps)
        outside = torch.ones_like(needed)
        cut(outside, read).zero_()
        assert not (needed * outside).abs().max() > 1e-9
        (tight,) = mask_windows(needed[:, :1] > 1e-9)
        assert read.joined(tight) == read
        assert all(ours <= least + 2 for ours, least in zip(read.shape, tight.shape))


@pytest.mark.parametrize("size", [(8, 12), (7, 9), (1, 3)])
def test_unpooled_is_what_averaging_reads(size):
    maps = torch.rand(1, 2, *size, dtype=torch.float64)
    pooled = F.avg_pool2d(maps, 2, ceil_mode=True)
    for window in windows_of(tuple(pooled.shape[2:]), 8):
        part = cut(maps, window.unpooled(size))
        torch.testing.assert_close(F.avg_pool2d(part, 2, ceil_mode=True), cut(pooled, window))


def test_grown_and_rounded_are_moved_in_from_the_borders():
    window = Window(2, 4, 0, 3, (5, 9))
    assert window.grown(1) == Window(1, 5, 0, 5, (5, 9))
    assert window.grown(2) == Window(0, 5, 0, 7, (5, 9))           # no more than there is
    assert Window(1, 3, 6, 9, (5, 9)).rounded(4) == Window(1, 5, 5, 9, (5, 9))
    assert window.rounded(8) == Window(0, 5, 0, 8, (5, 9))
    assert window.joined(Window(3, 5, 7, 8, (5, 9))) == Window(2, 5, 0, 8, (5, 9))
    assert window.shape == (2, 3) and window.num_pixels == 6


def test_parts_are_cut_and_padded():
    maps = torch.rand(2, 3, 6, 8).contiguous(memory_format=torch.channels_last)
    maps.requires_grad_(True)
    outer, inner = Window(1, 6, 2, 8, (6, 8)), Window(2, 5, 4, 8, (6, 8))
    part = Part(whole(maps).cut(outer), outer)
    found = part.cut(inner)
    assert torch.equal(found, cut(maps, inner))
    assert whole(maps).cut(whole(maps).window) is maps
    padded = Part(found, inner).padded()
    expected = torch.zeros(2, 3, 6, 8)
    cut(expected, inner).copy_(found.detach())
    assert torch.equal(padded, expected)
    (grad,) = torch.autograd.grad(found, maps, torch.ones_like(found))
    assert torch.equal(grad, (expected != 0).float())
    assert grad.is_contiguous(memory_format=torch.channels_last)


def test_windows_of_masks_hold_every_pixel_and_nothing_more():
    masks = torch.zeros(3, 1, 6, 9, dtype=torch.bool)
    masks[0, 0, 2, 3] = masks[0, 0, 4, 1] = True
    masks[1] = True
    first, second, empty = mask_windows(masks)
    assert first == Window(2, 5, 1, 4, (6, 9))
    assert second == Window(0, 6, 0, 9, (6, 9))
    assert empty.shape == (1, 1)                       # a map without pixels cannot be convolved


def test_many_windows_get_few_shapes_and_few_stay_as_they_are():
    size = (96, 128)
    windows = [Window(k, 50 + 2 * k % 17, 3, 40 + 3 * k, size) for k in range(20)]
    assert of_few_shapes(windows, 20) == windows
    found = of_few_shapes(windows, 5)
    assert len({window.shape for window in found}) <= 5
    for tight, window in zip(windows, found, strict=True):
        assert window.joined(tight) == window
        assert all(side < least + 32 for side, least in zip(window.shape, tight.shape))


def test_windows_of_views_are_those_of_their_masks_and_one_pixel_more_of_sources():
    masks = torch.zeros(3, 1, 8, 9, dtype=torch.bool)
    masks[0, :, 2:4, 1:5], masks[1, :, :, 3], masks[2, :, 7, 8] = True, True, True
    found = view_windows(masks).of(torch.tensor([2, 0]), torch.tensor([1]))
    assert found.targets == [Window(7, 8, 8, 9, (8, 9)), Window(2, 4, 1, 5, (8, 9))]
    assert found.sources == [Window(0, 8, 2, 5, (8, 9))]
