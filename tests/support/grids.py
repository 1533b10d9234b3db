"""Signed distance grids of functions, for tests."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from utils.geometry.visual_hull import Hull


def grid_of(distance: Callable[[Tensor], Tensor], size: int = 64) -> Hull:
    """A function of points (..., 3) on a grid over [-1, 1]^3."""
    empty = Hull(torch.zeros(size, size, size), torch.zeros(3), 1.0)
    return replace(empty, distance=distance(empty.grid_points()))
