"""Marching rays on the interpolation of an SDF: where evaluations are needed at all."""
from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.fast.kernels.loading import loops_for
from utils.fast.threads import shares_of
from utils.fast.tracing.sdf_grid import RAY_CHUNK, SdfGrid
from utils.geometry.rays import Rays


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


class Marched(NamedTuple):
    """How R lines (R, 8) were marched; see `GridMarch`.

    Attributes:
        ends: (R, 6) low, high, close, value_low (infinite at a line's first point), value_high and
            t_least.
        crossed_mask: (R,) bool.
        graze_rows: (G,) int64.
        grazes: (G, 2) graze_close and graze_high.
    """

    ends: Tensor
    crossed_mask: Tensor
    graze_rows: Tensor
    grazes: Tensor


def march_grid(grid: SdfGrid, rays: Rays, start: Tensor) -> GridMarch:
    """Sphere tracing on the interpolated SDF, from distances (R,) to the first change of sign.

    All rays meet the unit sphere: of others there is nothing to march.
    """
    loops, lines = loops_for(grid.values, "grid"), _lines(rays, start)
    if loops is None or not len(lines):
        found = march_together(grid, lines)
    else:
        found = _joined(shares_of(lines, partial(_march_each, loops, grid, lines), RAY_CHUNK))
    ends = found.ends.T.contiguous()                                   # (6, R)
    ends[3].nan_to_num_(nan=torch.nan, posinf=0.0)         # that crossed at their first point
    low, high, close, value_low, value_high, t_least = ends
    graze_close, graze_high = found.grazes.unbind(1)
    return GridMarch(found.crossed_mask, low, high, close, value_low, value_high, t_least,
                     found.graze_rows, graze_close, graze_high)


def least_on_rays(grid: SdfGrid, rays: Rays, num_samples: int) -> tuple[Tensor, Tensor]:
    """The least interpolated SDF (R,) among uniform samples of each ray's chord of the unit sphere,
    and its distance (R,)."""
    loops, lines = loops_for(grid.values, "grid"), _lines(rays, rays.t_near)
    fractions = torch.linspace(0, 1, num_samples).to(lines)
    found = lines.new_empty(len(lines), 2)

    def _work(share: list[slice]) -> None:
        for part in share:
            if loops is not None:
                loops.least_on_lines(grid.node_values(), lines[part].numpy(), fractions.numpy(),
                                     found[part].numpy())
                continue
            some = rays[part]
            t = some.t_near[:, None] + (some.t_far - some.t_near)[:, None] * fractions
            values = grid(some.points(t).reshape(-1, 3)).reshape(t.shape)
            least, sample = values.min(1)
            found[part] = torch.stack([least, t.gather(1, sample[:, None])[:, 0]], 1)

    shares_of(lines, _work, RAY_CHUNK)
    return found[:, 0], found[:, 1]


def march_together(grid: SdfGrid, lines: Tensor) -> Marched:
    """All lines at once, a step of each at a time; those that have arrived are left out."""
    ends = lines.new_empty(len(lines), 6)
    crossed_mask = lines.new_empty(len(lines), dtype=torch.bool)
    index = torch.arange(len(lines), device=lines.device)
    grazes = [(index[:0], lines[:0, :2])]
    start, far = lines[:, 6], lines[:, 7]
    infinite = torch.full_like(start, torch.inf)
    state = torch.stack([far, start, start, infinite, start, start, infinite])
    while len(index):                      # every step is half a node's spacing or more, or none
        far, at, low, value_low, since, t_least, least = state
        now = grid(lines[:, :3] + at[:, None] * lines[:, 3:6])
        inside, was_near = now <= 0, value_low < grid.error
        since = torch.where(was_near, since, at)
        t_least, least = torch.where(now < least, at, t_least), torch.minimum(now, least)
        grazed = ~inside & torch.where(now < grid.error, at >= far, was_near)
        grazed = grazed.nonzero()[:, 0]
        grazes.append((index[grazed], torch.stack([since[grazed], at[grazed]], 1)))
        next_at = torch.minimum(at + now.clamp(min=0.5 * grid.spacing), far)
        goes_on = ~inside & (next_at > at) & ~now.isnan()
        over, going = (~goes_on).nonzero()[:, 0], goes_on.nonzero()[:, 0]
        found = torch.stack([low, at, since, value_low, now, t_least], 1)
        ends[index[over]], crossed_mask[index[over]] = found[over], inside[over]
        state = torch.stack([far, next_at, at, now, since, t_least, least])[:, going]
        index, lines = index[going], lines[going]
    return Marched(ends, crossed_mask, *map(torch.cat, zip(*grazes, strict=True)))


def _march_each(loops: ModuleType, grid: SdfGrid, lines: Tensor,
                share: list[slice]) -> list[tuple[int, Marched]]:
    """As `march_together`, line by line; slices of them, each with its first row."""
    found = []
    for part in share:
        some, room, num_grazes = lines[part], 0, len(lines[part])
        ends = some.new_empty(len(some), 6)
        crossed_mask = some.new_empty(len(some), dtype=torch.bool)
        while num_grazes > room:                           # more than there was room for: again
            room = num_grazes
            rows, grazes = torch.empty(room, dtype=torch.int64), some.new_empty(room, 2)
            num_grazes = loops.march(grid.node_values(), np.float32(grid.error), some.numpy(),
                                     ends.numpy(), crossed_mask.numpy(), rows.numpy(),
                                     grazes.numpy())
        found.append((part.start, Marched(ends, crossed_mask, rows[:num_grazes] + part.start,
                                          grazes[:num_grazes])))
    return found


def _joined(shares: list[list[tuple[int, Marched]]]) -> Marched:
    """Slices in the order of their rows."""
    parts = sorted((slices for share in shares for slices in share), key=itemgetter(0))
    return Marched(*map(torch.cat, zip(*(marched for _, marched in parts), strict=True)))


def _lines(rays: Rays, start: Tensor) -> Tensor:
    """(R, 8): origin, direction, first and last distance of each ray."""
    return torch.cat([rays.origins_obj, rays.dirs_obj, start[:, None], rays.t_far[:, None]], 1)
