"""Large images a tile at a time: the same pixels, and the same networks' results within bounds."""
from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from modules_unet import FeatureDecoder, ImageEncoder
from utils.views.source_crops import MARGIN
from utils.views.tiles import in_tiles


@pytest.mark.parametrize("size", [(50, 70), (64, 64), (17, 129), (32, 32)])
@pytest.mark.parametrize("count", [1, 3])
def test_tiles_of_a_local_function_make_the_whole(size, count):
    """A 5x5 mean sees 2 pixels; the border is zero in tiles as in the whole."""
    maps, seen = torch.rand(count, 2, *size), []

    def mean(part):
        seen.append(part.shape[0] * part.shape[2] * part.shape[3])
        return F.avg_pool2d(part, 5, 1, 2)

    found = in_tiles(mean, maps, 8, most=40 * 40, tile=32)
    torch.testing.assert_close(found, F.avg_pool2d(maps, 5, 1, 2))
    assert max(seen) <= 48 * 48 and (len(seen) > 1) == (maps[:, 0].numel() > 1600)


def smooth(channels):
    torch.manual_seed(0)
    return F.interpolate(torch.rand(1, channels, 24, 40), size=(240, 400), mode="bilinear")


@pytest.mark.parametrize("network, channels, tolerance", [(ImageEncoder, 3, 0.05),
                                                          (FeatureDecoder, 16, 0.05)])
def test_networks_give_nearly_the_same_in_tiles(network, channels, tolerance):
    """What is left is the phase of their resampling: at most half a pixel of the coarsest stage."""
    maps = smooth(channels)
    net = network().eval()
    found = in_tiles(net, maps, MARGIN, most=1000, tile=128)
    with torch.no_grad():
        wanted = net(maps)
    assert found.shape == wanted.shape
    assert 0 < (found - wanted).norm() < tolerance * wanted.norm()
