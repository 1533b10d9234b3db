"""Tracing with few SDF evaluations: search on a grid of the SDF, settle with the SDF itself.

The SDF is stored at the nodes of a grid, exactly near the surface. Rays are marched on the grid's
trilinear interpolation, which costs a hundredth of an evaluation; only where they cross it is the
SDF evaluated, by secant steps down to the same threshold as the plain tracer's. The error of the
interpolation is measured each time; a ray that passes the surface within it, or that does not
settle, is handed to the plain tracer.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.chunked_autograd import chunk_size, map_in_chunks, total_in_chunks
from utils.derivatives import gradient
from utils.rays import Rays, TraceResult

Sdf = Callable[[Tensor], Tensor]

COARSE, FINE = 17, 65             # nodes along an edge of [-1, 1]^3
BAND = 0.14                       # |SDF| up to which fine nodes are exact: 1.3 times half a coarse
                                  # cell's diagonal, enough for slopes up to 1.3
MAX_GRID_STEPS = 48
NUM_PROBES = 512                  # points at which the grid's error is measured
SAFETY = 2.0                      # on that error
MAX_SECANT_STEPS = 5
ON_SURFACE = 5e-5                 # object units, the plain tracer's threshold


@dataclass(frozen=True)
class SdfGrid:
    """Samples of an SDF on the nodes of a cube over [-1, 1]^3.

    Attributes:
        values: (1, 1, FINE, FINE, FINE), x last.
        error: greatest difference to the SDF that was found near the surface, times SAFETY.
        num_evaluations: SDF evaluations that it took.
    """

    values: Tensor
    error: float
    num_evaluations: int

    @property
    def spacing(self) -> float:
        """Distance between nodes, object units."""
        return 2 / (self.values.shape[-1] - 1)

    def __call__(self, points_obj: Tensor) -> Tensor:
        """Interpolated SDF (N,) at points (N, 3)."""
        found = F.grid_sample(self.values, points_obj[None, None, None], align_corners=True,
                              padding_mode="border")
        return found.reshape(-1)


def build_grid(sdf: Sdf, like: Tensor) -> SdfGrid:
    """Sample an SDF: everywhere on a coarse grid, and on the fine one near the surface.

    Args:
        sdf: without gradient.
        like: a tensor of the device and dtype to use.
    """
    coarse = sdf(_nodes(COARSE, like)).reshape(1, 1, COARSE, COARSE, COARSE)
    values = F.interpolate(coarse, size=(FINE,) * 3, mode="trilinear", align_corners=True)
    flat = values.reshape(-1)
    nodes = _nodes(FINE, like)
    grid = SdfGrid(values, 0.0, 0)
    radius = nodes.norm(dim=-1)
    near = ((flat.abs() < BAND) & (radius < 1 + 2 * grid.spacing)).nonzero()[:, 0]
    flat[near] = sdf(nodes[near])
    surface = near[(flat[near].abs() < grid.spacing) & (radius[near] < 1)]
    spent = COARSE ** 3 + len(near)
    if not len(surface):
        return SdfGrid(values, 0.0, spent)
    chosen = surface[torch.linspace(0, len(surface) - 1, NUM_PROBES).long().to(surface.device)]
    probes = nodes[chosen] + grid.spacing * 0.5       # cell centres: where it is worst
    error = (grid(probes) - sdf(probes)).abs().max()
    return SdfGrid(values, SAFETY * float(error), spent + NUM_PROBES)


def _nodes(count: int, like: Tensor) -> Tensor:
    """(count^3, 3) node positions, x fastest."""
    axis = torch.linspace(-1, 1, count).to(like)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], -1).reshape(-1, 3)


@dataclass(frozen=True)
class GridMarch:
    """What marching R rays on the grid found.

    Attributes:
        low, high: (R,) distances of the last point outside and the first inside, where crossed.
        value_low, value_high: (R,) interpolated SDF there.
        crossed_mask: (R,) the interpolation changes sign.
        t_least: (R,) distance of the least interpolated SDF that was met.
        doubtful_mask: (R,) the ray passed the surface within the grid's error, or ran out of steps.
    """

    low: Tensor
    high: Tensor
    value_low: Tensor
    value_high: Tensor
    crossed_mask: Tensor
    t_least: Tensor
    doubtful_mask: Tensor


def march_grid(grid: SdfGrid, rays: Rays) -> GridMarch:
    """Sphere tracing on the interpolated SDF, to a change of sign or the sphere's far side."""
    t, low = rays.t_near.clone(), rays.t_near.clone()
    value, value_low = torch.zeros_like(t), torch.zeros_like(t)
    crossed, doubtful = torch.zeros_like(rays.sphere_mask), torch.zeros_like(rays.sphere_mask)
    t_least, least = rays.t_near.clone(), torch.full_like(t, torch.inf)
    index = rays.sphere_mask.nonzero()[:, 0]
    before = torch.full_like(t, torch.inf)[index]
    for _ in range(MAX_GRID_STEPS):
        at = t[index]
        now = grid(rays.origins_obj[index] + at[:, None] * rays.dirs_obj[index])
        inside = now <= 0
        value[index] = now
        lower = now < least[index]
        t_least[index] = torch.where(lower, at, t_least[index])
        least[index] = torch.where(lower, now, least[index])
        crossed[index] = inside
        # A least value above zero that the grid is not exact enough to tell from a crossing.
        doubtful[index] |= ~inside & (before < grid.error) & (now > before)
        going = (~inside & (at < rays.t_far[index])).nonzero()[:, 0]
        index, before, at = index[going], now[going], at[going]
        if not len(index):
            break
        low[index], value_low[index] = at, before
        t[index] = torch.minimum(at + before.clamp(min=0.5 * grid.spacing), rays.t_far[index])
    doubtful[index] = True                                   # out of steps
    doubtful |= crossed & (value_low <= 0)                   # begins inside
    return GridMarch(low, t, value_low, value, crossed, t_least, doubtful)


class FastTracer:
    """A tracer with few SDF evaluations; the plain one settles what is doubtful.

    Hits are those of the plain tracer to its threshold. Its losses differ in what is left out: soft
    mask terms under 1e-5, and eikonal points outside the unit sphere.

    Args:
        plain: the plain tracer, `trace(sdf, rays)`.
        num_mask_samples: points of each ray among which the least SDF is searched.
        make_evaluator: SDF to its fastest evaluator without gradient.
    """

    def __init__(self, plain: Callable[[Sdf, Rays], TraceResult], num_mask_samples: int,
                 make_evaluator: Callable[[Sdf], Sdf]) -> None:
        self.plain, self.num_mask_samples = plain, num_mask_samples
        self.make_evaluator = make_evaluator
        self._sdf: Sdf | None = None
        self._key: tuple = ()

    def forget(self) -> None:
        """Sample the grid anew at the next call, for measurements."""
        self._sdf = None

    def prepare(self, sdf: Sdf, like: Tensor) -> bool:
        """Sample the grid, unless the SDF's weights are those of the last call.

        Weights written through `.data` go unnoticed: call `forget` after that.
        """
        versions = tuple(parameter._version for parameter in sdf.parameters()) \
            if hasattr(sdf, "parameters") else (object(),)
        key = (like.device, like.dtype, versions)
        if sdf is not self._sdf or key != self._key:
            self._evaluate = self.make_evaluator(sdf)
            self._grid = build_grid(self._evaluate, like)
            self._sdf, self._key = sdf, key
            return True
        return False

    def trace(self, sdf: Sdf, rays: Rays) -> TraceResult:
        """Where R rays meet the surface; see the module's text. No gradient."""
        with torch.no_grad():
            is_new = self.prepare(sdf, rays.t_near)
            spent = self._grid.num_evaluations if is_new else 0
            march = march_grid(self._grid, rays)
            t = torch.where(march.crossed_mask, march.high, march.t_least)
            hit_mask = march.crossed_mask.clone()
            doubtful = march.doubtful_mask.clone()
            index = (hit_mask & ~doubtful).nonzero()[:, 0]
            t[index], settled, used = self._settle(rays[index], march, index)
            doubtful[index[~settled]] = True
            index = doubtful.nonzero()[:, 0]
            if len(index):
                found = self.plain(self._evaluate, rays[index])
                t[index], hit_mask[index] = found.t, found.hit_mask
                used += found.num_evaluations
            return TraceResult(t, hit_mask, spent + used)

    def _settle(self, rays: Rays, march: GridMarch,
                index: Tensor) -> tuple[Tensor, Tensor, int]:
        """Secant steps with the SDF itself from the grid's crossing.

        Returns:
            t (R,), settled_mask (R,): |SDF| <= ON_SURFACE near the crossing; evaluations.
        """
        low, high = march.low[index], march.high[index]
        value_low, value_high = march.value_low[index], march.value_high[index]
        slope = (value_high - value_low) / (high - low).clamp(min=1e-6)     # negative
        crossing = low - value_low / slope.clamp(max=-1e-3)
        t, settled = crossing.clone(), torch.zeros_like(low, dtype=torch.bool)
        rows, spent = torch.arange(len(t), device=t.device), 0
        at, before, value_before = crossing, None, None
        for _ in range(MAX_SECANT_STEPS):
            if not len(rows):
                break
            value = self._evaluate(rays.origins_obj[rows] + at[:, None] * rays.dirs_obj[rows])
            spent += len(rows)
            done = value.abs() <= ON_SURFACE
            t[rows], settled[rows] = at, done
            if before is not None:
                slope = _secant_slope(at - before, value - value_before, slope)
            left = (~done).nonzero()[:, 0]
            rows, before, value_before, slope = rows[left], at[left], value[left], slope[left]
            at = before - value_before / slope
        reach = 2 * (high - low) + 4 * self._grid.error
        is_near = ((t - crossing).abs() <= reach) & (t >= rays.t_near)
        return t, settled & is_near, spent

    def least_sdf(self, sdf: Sdf, rays: Rays, counts_mask: Tensor,
                  ignore_above: Tensor) -> tuple[Tensor, Tensor]:
        """Rays that matter to the soft mask and the least SDF among uniform samples of their chord.

        The samples are those of the plain search, their SDF is the grid's: no evaluations. Rays
        whose least SDF lies above `ignore_above` by more than the grid's error at the surface are
        left out.
        """
        with torch.no_grad():
            self.prepare(sdf, rays.t_near)
            index = counts_mask.nonzero()[:, 0]
            fractions = torch.linspace(0, 1, self.num_mask_samples).to(rays.t_near)
            near, far = rays.t_near[index, None], rays.t_far[index, None]
            t = near + (far - near) * fractions                        # (R', S)
            values = self._grid(rays[index].points(t).reshape(-1, 3)).reshape(t.shape)
            least, sample = values.min(1)
            kept = (least <= ignore_above[index] + self._grid.error).nonzero()[:, 0]
            index = index[kept]
            return index, rays[index].points(t[kept, sample[kept]])

    def slopes(self, sdf: Sdf, points_obj: Tensor, dirs_obj: Tensor) -> Tensor:
        """<grad Phi, d> in chunks, in closed form where the network has one."""
        with torch.no_grad():
            pairs = zip(points_obj.split(chunk_size(points_obj)),
                        dirs_obj.split(chunk_size(dirs_obj)), strict=True)
            parts = [(_gradients(sdf, part) * dirs).sum(-1) for part, dirs in pairs]
            return torch.cat(parts) if parts else points_obj.new_zeros(0)

    def values(self, sdf: Sdf, points_obj: Tensor) -> Tensor:
        """In chunks; the backward pass recomputes them."""
        evaluate = self.make_evaluator(sdf)
        return map_in_chunks(sdf, evaluate, points_obj, list(sdf.parameters()))

    def total(self, sdf: Sdf, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """In chunks, each with its gradient at once."""
        return total_in_chunks(function, inputs, list(sdf.parameters()))

    def eikonal_points(self, points_obj: Tensor) -> Tensor:
        """Those inside the unit sphere: nothing outside is ever traced."""
        return points_obj[points_obj.square().sum(-1) < 1]

    def gradients(self, sdf: Sdf, points_obj: Tensor) -> Tensor:
        """In closed form where the network has one: differentiated once, not twice."""
        return _gradients(sdf, points_obj)


def _gradients(sdf: Sdf, points_obj: Tensor) -> Tensor:
    if hasattr(sdf, "value_and_gradient"):
        return sdf.value_and_gradient(points_obj)[1]
    return gradient(sdf, points_obj, create_graph=torch.is_grad_enabled())[1]


def _secant_slope(step: Tensor, change: Tensor, fallback: Tensor) -> Tensor:
    """change / step where that is a usable descent, else the slope so far."""
    slope = change / torch.where(step.abs() < 1e-9, torch.full_like(step, 1e-9), step)
    return torch.where((slope < -1e-2) & (step.abs() >= 1e-9), slope, fallback)
