"""Regions for the tests of maps in regions."""
from __future__ import annotations

import torch

from utils.views.regions import Region

#: Of the whole, of the map that is resized to it.
SIZES = [((96, 128), (48, 64)), ((37, 53), (19, 27)), ((5, 4), (3, 2)), ((1, 7), (1, 4)),
         ((2, 1), (1, 1)), ((600, 800), (300, 400))]


def regions_of(size, count, seed=0):
    """Random ones, and the whole."""
    generator = torch.Generator().manual_seed(seed)
    found = [Region(0, size[0], 0, size[1], size)]
    for _ in range(count):
        spans = []
        for length in size:
            first, last = sorted(torch.randint(length, (2,), generator=generator).tolist())
            spans += [first, last + 1]
        found.append(Region(*spans, size))
    return found


def cut(maps, region):
    """A slice."""
    return maps[:, :, region.top:region.bottom, region.left:region.right]
