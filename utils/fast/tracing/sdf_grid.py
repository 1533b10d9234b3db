"""An SDF on a grid: its interpolation costs a hundredth of an evaluation.

The SDF is stored at the nodes, exactly near the surface. The error of the trilinear interpolation
is measured, so that a march on it knows where the grid alone cannot tell. Second differences taken
into account, a third of the error is left.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.fast.kernels.loading import loops_for
from utils.fast.threads import shares_of
from utils.geometry.sdf import Sdf

COARSE, MIDDLE, FINE = 17, 33, 65     # nodes along an edge of [-1, 1]^3
#: |SDF| up to which nodes of a level are exact, not interpolated from the level above. BAND holds
#: the cells at whose centres the error is measured, which reach a spacing and a diagonal, 0.085,
#: from the surface; MIDDLE_BAND twice 1.3 times half a coarse cell's diagonal, for slopes up to
#: 1.3: thin sheets and the soft mask, whose terms vanish about 0.16 away, need it.
MIDDLE_BAND, BAND = 0.3, 0.085
RAY_CHUNK = 4096                  # points or rays that a thread takes at once
NUM_PROBES = 512                  # points at which the grid's error is measured
SAFETY = 2.0                      # on that error


@dataclass(frozen=True)
class SdfGrid:
    """Samples of an SDF on the nodes of a cube over [-1, 1]^3.

    Attributes:
        values: (1, 1, FINE, FINE, FINE), x last.
        bends: (1, 3, FINE, FINE, FINE), second differences of the values along x, y and z.
        error: greatest difference to the SDF that was found near the surface, times SAFETY; that of
            `refined` is not measured.
        num_evaluations: SDF evaluations that it took.
    """

    values: Tensor
    bends: Tensor
    error: float = 0.0
    num_evaluations: int = 0

    @property
    def spacing(self) -> float:
        """Distance between nodes, object units."""
        return 2 / (self.values.shape[-1] - 1)

    def __call__(self, points_obj: Tensor) -> Tensor:
        """Interpolated SDF (N,) at points (N, 3), without gradient."""
        loops, points_obj = loops_for(self.values, "grid"), points_obj.detach().contiguous()
        if loops is None:
            return _interpolated(self.values, points_obj)[0]
        found = points_obj.new_empty(len(points_obj))

        def _work(share: list[slice]) -> None:
            for part in share:
                loops.interpolate(self.node_values(), points_obj[part].numpy(), found[part].numpy())

        shares_of(points_obj, _work, RAY_CHUNK)
        return found

    def node_values(self) -> np.ndarray:
        """Return the values at the nodes, (FINE, FINE, FINE), x last."""
        return self.values[0, 0].numpy()

    def refined(self, points_obj: Tensor) -> Tensor:
        """SDF (N,) at points (N, 3) near the surface, less what trilinear interpolation is wrong.

        Between two nodes, a share u from the first, it is too great by u (1 - u) / 2 of the second
        difference there, to the third order; along each axis.
        """
        shares = ((points_obj + 1) / self.spacing).frac()              # (N, 3)
        bends = _interpolated(self.bends, points_obj)                  # (3, N)
        return self(points_obj) - 0.5 * (shares * (1 - shares) * bends.T).sum(1)


def _interpolated(maps: Tensor, points_obj: Tensor) -> Tensor:
    """(C, N) of maps (1, C, Z, Y, X) over [-1, 1]^3 at points (N, 3)."""
    return F.grid_sample(maps, points_obj[None, None, None], align_corners=True,
                         padding_mode="border")[0, :, 0, 0]


def build_grid(sdf: Sdf, like: Tensor) -> SdfGrid:
    """Sample an SDF: everywhere on a coarse grid, on finer ones nearer and nearer to the surface.

    Args:
        sdf: without gradient.
        like: a tensor of the device and dtype to use.
    """
    nodes, radius = _nodes(COARSE, like.device, like.dtype)
    values = sdf(nodes).reshape(1, 1, COARSE, COARSE, COARSE)
    spent = COARSE ** 3
    for count, band in ((MIDDLE, MIDDLE_BAND), (FINE, BAND)):
        values = F.interpolate(values, size=(count,) * 3, mode="trilinear", align_corners=True)
        flat, spacing = values.reshape(-1), 2 / (count - 1)
        nodes, radius = _nodes(count, like.device, like.dtype)
        near = ((flat.abs() < band) & (radius < 1 + 2 * spacing)).nonzero()[:, 0]
        flat[near] = sdf(nodes[near])
        spent += len(near)
    grid = SdfGrid(values, second_differences(values), num_evaluations=spent)
    surface = near[(flat[near].abs() < spacing) & (radius[near] < 1)]
    if not len(surface):
        return grid
    chosen = surface[torch.linspace(0, len(surface) - 1, NUM_PROBES).long().to(surface.device)]
    probes = nodes[chosen] + 0.5 * spacing            # cell centres: where it is worst
    error = (grid(probes) - sdf(probes)).abs().max()
    return replace(grid, error=SAFETY * float(error), num_evaluations=spent + NUM_PROBES)


def second_differences(values: Tensor) -> Tensor:
    """(1, 3, Z, Y, X) of values (1, 1, Z, Y, X) along x, y and z; 0 at the ends."""
    bends = values.new_zeros(1, 3, *values.shape[2:])
    for axis in range(3):
        along, own = values[0, 0].movedim(-1 - axis, -1), bends[0, axis].movedim(-1 - axis, -1)
        own[..., 1:-1] = along[..., 2:] - 2 * along[..., 1:-1] + along[..., :-2]
    return bends


@lru_cache(maxsize=8)
def _nodes(count: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(count^3, 3) node positions, x fastest, and their distances (count^3,) from the centre."""
    axis = torch.linspace(-1, 1, count).to(device, dtype)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    nodes = torch.stack([x, y, z], -1).reshape(-1, 3)
    return nodes, nodes.norm(dim=-1)
