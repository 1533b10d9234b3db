"""An SDF on a grid, and marching rays on its interpolation: where evaluations are needed at all.

The SDF is stored at the nodes of a grid, exactly near the surface. Marching on its trilinear
interpolation costs a hundredth of an evaluation; its error is measured, so that a march knows where
the grid alone cannot tell. Second differences taken into account, a third of the error is left.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.rays import Rays

Sdf = Callable[[Tensor], Tensor]

COARSE, MIDDLE, FINE = 17, 33, 65     # nodes along an edge of [-1, 1]^3
#: |SDF| up to which nodes of a level are exact, not interpolated from the level above. BAND holds
#: the cells at whose centres the error is measured, which reach a spacing and a diagonal, 0.085,
#: from the surface; MIDDLE_BAND twice 1.3 times half a coarse cell's diagonal, for slopes up to
#: 1.3: thin sheets and the soft mask, whose terms vanish about 0.16 away, need it.
MIDDLE_BAND, BAND = 0.3, 0.085
MANY = 4096                       # points from which on slices are sampled in pairs
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
        """Interpolated SDF (N,) at points (N, 3)."""
        if len(points_obj) < MANY:
            return _interpolated(self.values, points_obj)[0]
        return self._in_slices(*points_obj.unbind(1))

    def along(self, rays: Rays, t: Tensor) -> Tensor:
        """Interpolated SDF (R, S) at distances t (R, S) of R rays."""
        lines = zip(rays.origins_obj.unbind(1), rays.dirs_obj.unbind(1), strict=True)
        places = (torch.addcmul(start[:, None], t, step[:, None]) for start, step in lines)
        return self._in_slices(*(place.flatten() for place in places)).reshape(t.shape)

    def _in_slices(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Interpolated SDF at coordinates (N,) each, to 5e-4 of differences between nodes in float32,
        in half the time for many.

        torch samples images with wide instructions, volumes point by point: slices of z lie here
        one below the other in an image, the next slice in its second channel.
        """
        count = self.values.shape[-1]
        y, z = (((place + 1) / self.spacing).clamp(0, count - 1) for place in (y, z))
        below = z.floor()
        row = (y + count * below) * (2 / (count * count - 1)) - 1      # of the image, -1 to 1
        places = torch.stack([x, row], -1)[None, None]
        found = F.grid_sample(self._slice_pairs, places, align_corners=True,
                              padding_mode="border")[0, :, 0]          # (2, N)
        return torch.lerp(found[0], found[1], z - below)

    @cached_property
    def _slice_pairs(self) -> Tensor:
        """(1, 2, Z * Y, X): slices of z, and the next one of each."""
        slices = self.values[0, 0]                                     # (Z, Y, X)
        pairs = torch.stack([slices, torch.cat([slices[1:], slices[-1:]])])
        return pairs.reshape(1, 2, -1, slices.shape[-1])

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


@dataclass(frozen=True)
class GridMarch:
    """How marching R rays on the grid went.

    Attributes:
        crossed_mask: (R,) bool, the interpolation changed its sign, and the march ended there.
        low, high: (R,) distances of the last two points; a change of sign lies between.
        close: (R,) distance of the first of the last points that all lie within the grid's error.
        value_low, value_high: (R,) interpolated SDF at low and high.
        t_least: (R,) distance of the least interpolated SDF that was met.
        graze_rows: (G,) rays on their way past a surface: they came within the grid's error of
            zero and left again, so that only the SDF can tell. A ray may do so several times.
        graze_close, graze_high: (G,) distances of the first point that close and the one after the
            last.
    """

    crossed_mask: Tensor
    low: Tensor
    high: Tensor
    close: Tensor
    value_low: Tensor
    value_high: Tensor
    t_least: Tensor
    graze_rows: Tensor
    graze_close: Tensor
    graze_high: Tensor


def march_grid(grid: SdfGrid, rays: Rays, start: Tensor) -> GridMarch:
    """Sphere tracing on the interpolated SDF, from distances (R,) to the first change of sign."""
    zero, infinite = torch.zeros_like(start), torch.full_like(start, torch.inf)
    crossed_mask = torch.zeros_like(rays.sphere_mask)
    results = torch.stack([start, start, start, zero, zero, start])
    index = rays.sphere_mask.nonzero()[:, 0]
    grazes = [(index[:0], start[:0], start[:0])]
    lines = torch.cat([rays.origins_obj, rays.dirs_obj], 1).index_select(0, index)
    state = torch.stack([rays.t_far, start, start, infinite, start, start, infinite])
    state = state.index_select(1, index)
    while len(index):                      # every step is half a node's spacing or more: it ends
        far, at, low, value_low, since, t_least, least = state
        now = grid(lines[:, :3] + at[:, None] * lines[:, 3:])
        inside, was_near = now <= 0, value_low < grid.error
        grazed = ~inside & torch.where(now < grid.error, at >= far, was_near)
        grazed = grazed.nonzero()[:, 0]
        since = torch.where(was_near, since, at)
        t_least, least = torch.where(now < least, at, t_least), torch.minimum(now, least)
        if len(grazed):
            grazes.append((index[grazed], since[grazed], at[grazed]))
        goes_on = ~inside & (at < far)                     # False where the SDF is not a number
        over, going = (~goes_on).nonzero()[:, 0], goes_on.nonzero()[:, 0]
        rows = index.index_select(0, over)
        crossed_mask[rows] = inside.index_select(0, over)
        found = torch.stack([low, at, since, value_low, now, t_least])
        results[:, rows] = found.index_select(1, over)
        next_at = torch.minimum(at + now.clamp(min=0.5 * grid.spacing), far)
        state = torch.stack([far, next_at, at, now, since, t_least, least])
        state = state.index_select(1, going)
        index, lines = index.index_select(0, going), lines.index_select(0, going)
    results[3].nan_to_num_(nan=torch.nan, posinf=0.0)      # that crossed at their first point
    return GridMarch(crossed_mask, *results, *map(torch.cat, zip(*grazes, strict=True)))
