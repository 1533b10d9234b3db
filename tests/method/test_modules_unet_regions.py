"""Tests of modules_unet.py: regions of E and D against whole maps."""
from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from modules_unet import FeatureDecoder, ImageEncoder
from utils.views.regions import Region


@pytest.fixture(autouse=True)
def seed():
    """Same random weights in every run."""
    torch.manual_seed(0)


def regions_and_mask(size):
    """One region in the middle, one at a corner, the first again, and where they are."""
    height, width = size
    regions = [Region(height // 4, height // 2, width // 3, width // 3 + 5, size),
               Region(height - height // 3, height, 0, width // 2, size)]
    regions.append(regions[0])
    mask = torch.zeros(3, 1, *size)
    for inside, region in zip(mask, regions):
        inside[:, region.top:region.bottom, region.left:region.right] = 1
    return regions, mask


@pytest.mark.parametrize("size", [(48, 64), (37, 53)])
@pytest.mark.parametrize("network", [
    lambda: ImageEncoder(kind="plain"), lambda: ImageEncoder(depth=1),
    lambda: ImageEncoder(depth=4, convolution="partial"), FeatureDecoder,
    lambda: FeatureDecoder(convolution="partial")],
    ids=["plain E", "shallow E", "deep partial E", "D", "partial D"])
def test_regions_are_those_of_whole_maps_with_the_same_gradients(network, size):
    """Float64, batch statistics included; zeros in the input, as unseen samples have them."""
    network = network().double().train()
    channels = 3 if isinstance(network, ImageEncoder) else 16
    seen = torch.rand(3, 1, *size) > 0.3
    inputs = (torch.rand(3, channels, *size).double() * seen).requires_grad_(True)
    regions, mask = regions_and_mask(size)
    whole, found = network(inputs), network.in_regions(inputs, regions)
    torch.testing.assert_close(found, whole * mask, atol=1e-12, rtol=0)
    upstream = torch.randn_like(whole)
    wanted = [inputs, *network.parameters()]
    pairs = zip(torch.autograd.grad((found * upstream).sum(), wanted),
                torch.autograd.grad((whole * mask * upstream).sum(), wanted), strict=True)
    for ours, true in pairs:
        torch.testing.assert_close(ours, true, atol=1e-11 * float(true.abs().max()) + 1e-14, rtol=0)


def test_a_region_in_bf16_is_as_exact_as_the_whole():
    """Resizing has weights of bf16 too; twice the error of the whole map would be too much."""
    decoder, maps = FeatureDecoder(), torch.rand(1, 16, 64, 80)
    region = Region(10, 50, 20, 60, (64, 80))
    with torch.no_grad():
        exact = decoder(maps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = [decoder(maps), decoder.in_regions(maps, [region])]
    whole, ours = ((x - exact)[:, :, 10:50, 20:60].square().mean().sqrt() for x in found)
    assert 0 < ours < 1.5 * whole


class ShapesSeen(TorchDispatchMode):
    """Notes the shapes that convolutions are given."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket == torch.ops.aten.convolution:
            self.shapes.append([x.shape for x in args[:2]])
        return func(*args, **(kwargs or {}))


def test_shapes_of_all_convolutions_follow_from_the_shape_of_the_region():
    """Wherever it lies, at borders too: oneDNN prepares itself for each shape anew."""
    decoder, maps, seen = FeatureDecoder(), torch.rand(1, 16, 96, 128), []
    for top, left in ((0, 0), (30, 41), (56, 87), (3, 85)):
        with torch.no_grad(), ShapesSeen() as mode:
            decoder.in_regions(maps, [Region(top, top + 40, left, left + 40, (96, 128))])
        seen.append(mode.shapes)
    assert len(seen[0]) == 16 and all(shapes == seen[0] for shapes in seen)


def test_stages_of_maps_of_which_the_same_is_read_run_at_once():
    """Of three maps two: six convolutions of D's stages on both, six on the other."""
    decoder, size = FeatureDecoder(), (64, 64)
    regions = [Region(0, 8, 0, 8, size), Region(8, 30, 9, 40, size)]
    with torch.no_grad(), ShapesSeen() as mode:
        decoder.in_regions(torch.rand(3, 16, 64, 64), [regions[0], regions[1], regions[0]])
    stages = {tuple(layer.weight.shape) for layer in decoder.down.modules()
              if isinstance(layer, torch.nn.Conv2d)}
    batches = [inputs[0] for inputs, weight in mode.shapes[:12] if tuple(weight) in stages]
    assert sorted(batches) == [1] * 6 + [2] * 6


def test_a_small_region_takes_a_small_part_of_the_work():
    decoder, maps = FeatureDecoder(), torch.rand(1, 16, 256, 256)
    counts = []
    for run in (lambda: decoder(maps),
                lambda: decoder.in_regions(maps, [Region(100, 140, 100, 140, (256, 256))])):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run()
        counts.append(counter.get_total_flops())
    assert counts[1] < 0.1 * counts[0]                 # the region is 2.4 %, with margins 12 %
