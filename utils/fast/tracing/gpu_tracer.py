"""Tracing without stopping the host: tensors of fixed shape, no branch that reads a value.

On a GPU every question about a value (how many rays hit? is any not done?) makes the host wait
until all work before it is done. Here nothing is asked: all rays of all targets are one batch, and
what does not count is computed and masked.

The SDF is sampled on a grid each time its weights change. Rays cross empty space on the grid's
interpolation, without evaluations, until it is within its error of zero. From there
`masked_march` continues with the SDF itself: by the fused kernel of `triton_kernel`, which
ends for each block of rays by itself, or else in plain steps, first few of all rays, then many of
the few that are still going.
"""
from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.devices import to_device
from utils.fast.tracing.masked_march import March, begin_march, march_plain
from utils.fast.tracing.network_passes import DifferentiableHits, NetworkPasses, WeightsWatch
from utils.geometry.rays import Rays, TraceResult
from utils.geometry.sdf import Sdf

log = logging.getLogger(__name__)

INSTALL_COMMAND = "pip install triton"
NODES = 65                # along an edge of [-1, 1]^3: 1/32 apart, error some 1e-3 or less
SPACING = 2 / (NODES - 1)
NUM_PROBES = 1024         # points near the surface at which the grid's error is measured
SAFETY = 2.0              # on that error
SHORTEST = 0.5 * SPACING  # steps on the grid
TRUSTED = SPACING / 8     # error of a grid whose steps need no second look: smooth surfaces have
                          # less, edges and what is thinner than the spacing have more
NUM_GRID_STEPS = 32       # rays that need more go on with the SDF itself
#: Plain steps in turn, and the share of the rays that may take part: all of them, then 1 / share.
#: After 4, 12 and 28 steps some 3, 0.7 and 0.5 % of rays still go on smooth shapes, 45, 11 and 2 %
#: on a network so bumpy that the grid is wrong by 0.03.
TIERS = ((4, 1), (8, 2), (16, 8), (132, 32))
MIN_GOING = 1024          # rays that take part anyway, where there are so many


@dataclass(frozen=True)
class DeviceGrid:
    """Samples of an SDF on the nodes of a cube over [-1, 1]^3, in and next to the unit sphere.

    Attributes:
        values: (1, 1, NODES, NODES, NODES), x last; 0 at nodes that no point of the sphere reads.
        error: scalar, greatest difference to the SDF that was found near the surface, times SAFETY.
    """

    values: Tensor
    error: Tensor

    def __call__(self, points_obj: Tensor) -> Tensor:
        """Interpolated SDF (...,) at points (..., 3)."""
        found = F.grid_sample(self.values, points_obj.reshape(1, 1, 1, -1, 3), align_corners=True,
                              padding_mode="border")
        return found.reshape(points_obj.shape[:-1])


class GridNodes:
    """The nodes of a `DeviceGrid` that count; the same for every SDF.

    Args:
        like: a tensor of the device and dtype to use.
    """

    def __init__(self, like: Tensor) -> None:
        axis = torch.linspace(-1, 1, NODES)
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        nodes = torch.stack([x, y, z], -1).reshape(-1, 3)
        radius = nodes.norm(dim=-1)
        index = (radius < 1 + 2 * SPACING).nonzero()[:, 0]         # of all cells in the sphere
        near_center = radius[index] < 1 - SPACING
        self.index = to_device(index, like.device)
        self.points = to_device(nodes[index].to(like.dtype), like.device)           # (M, 3)
        self.is_probed = to_device(near_center, like.device)                        # (M,)
        # towards the centres of all eight cells about a node in turn: on one side alone a sheet
        # between two layers of nodes would go unseen
        corners = torch.cartesian_prod(*3 * [torch.tensor([-0.5, 0.5])]) * SPACING
        aside = corners.repeat(NUM_PROBES // 8, 1)
        self.aside = to_device(aside.to(like.dtype), like.device)                   # (P, 3)

    def sample(self, sdf: Sdf) -> DeviceGrid:
        """The grid of an SDF, without gradient."""
        values = sdf(self.points)
        flat = values.new_zeros(NODES ** 3).index_copy(0, self.index, values)
        grid = DeviceGrid(flat.reshape(1, 1, NODES, NODES, NODES), values.new_zeros(()))
        away = values.abs().masked_fill(~self.is_probed, torch.inf)
        nearest = away.topk(NUM_PROBES, largest=False).indices
        probes = self.points[nearest] + self.aside         # cell centres: where it is worst
        return DeviceGrid(grid.values, SAFETY * (grid(probes) - sdf(probes)).abs().max())


def skip_empty_space(grid: DeviceGrid, rays: Rays) -> March:
    """March on the grid while its value is above its error; where the SDF itself takes over.

    Where the grid errs by more than TRUSTED there may be thin parts, and a step may be longer than
    what is surely free: by that error, or as the shortest step is. The SDF then takes over where
    the step stops being surely free.

    Returns:
        The state of R rays: t where the surface may begin by the grid and its error; the last
        point above, which is outside. Rays that leave the sphere before that miss.
    """
    t, low = rays.t_near, torch.zeros_like(rays.t_near)
    value_low, start = torch.zeros_like(t), rays.t_near
    skipping, left_mask = rays.sphere_mask, ~rays.sphere_mask
    least, t_least = torch.full_like(t, torch.inf), rays.t_near
    for _ in range(NUM_GRID_STEPS):
        value = grid(rays.points(t))
        lower = skipping & (value < least)
        least, t_least = torch.where(lower, value, least), torch.where(lower, t, t_least)
        free_until = low + value_low - grid.error
        is_doubtful = (value_low > 0) & (grid.error > TRUSTED)
        may_hide = is_doubtful & (value_low < SHORTEST) & (free_until < t - value)
        is_clear = skipping & (value > grid.error) & ~may_hide
        # a step that went through the surface goes back to where the straight line is zero
        drop = (value_low - value).clamp(min=1e-12)
        taken = torch.where((value < 0) & (value_low > 0),
                            low + (t - low) * (value_low / drop), t)
        taken = torch.where(is_doubtful, torch.minimum(taken, free_until), taken)
        start = torch.where(skipping & ~is_clear, taken, start)
        low, value_low = torch.where(is_clear, t, low), torch.where(is_clear, value, value_low)
        left_mask = left_mask | (is_clear & (t >= rays.t_far))
        skipping = is_clear & (t < rays.t_far)
        t = torch.where(skipping, torch.minimum(t + value.clamp(min=SHORTEST), rays.t_far), t)
    start = torch.where(skipping, torch.minimum(t, low + value_low), start)   # out of steps
    start = torch.where(left_mask, t_least, start)
    return begin_march(start, low, value_low, ~left_mask)


def first_rows(mask: Tensor, count: int) -> Tensor:
    """(count,) indices that hold the first `count` True rows of a mask; 0 where there are fewer."""
    place = mask.cumsum(0) - 1
    place = torch.where(mask, place, count).clamp(max=count)
    rows = torch.arange(len(mask), device=mask.device)
    return rows.new_zeros(count + 1).scatter(0, place, rows)[:count]


class DeviceTracer(NetworkPasses):
    """A tracer for GPUs: the host never waits. See the module's text.

    Hits are those of the reference tracer to its threshold. All soft mask terms count, and the grid
    has fine nodes everywhere.

    Args:
        differentiable_hits, make_evaluator: see `NetworkPasses`.
        num_mask_samples: points of each ray among which the minimum SDF is searched.

    Attributes:
        uses_kernel: whether rays on CUDA are marched by the fused kernel, where it fits.
    """

    def __init__(self, differentiable_hits: DifferentiableHits, num_mask_samples: int,
                 make_evaluator: Callable[[Sdf], Sdf]) -> None:
        super().__init__(differentiable_hits, make_evaluator)
        self.num_mask_samples = num_mask_samples
        self._weights = WeightsWatch()
        self._nodes: dict[tuple, GridNodes] = {}
        self.uses_kernel = has_triton()

    def forget(self) -> None:
        """Sample the grid anew at the next call, for measurements."""
        self._weights.forget()

    def trace(self, sdf: Sdf, rays: Rays) -> TraceResult:
        """Where R rays meet the surface; num_evaluations may be a scalar tensor. No gradient."""
        with torch.no_grad():
            is_new = self._prepare(sdf, rays.t_near)
            spent = len(self._nodes_like(rays.t_near).points) + NUM_PROBES if is_new else 0
            state = skip_empty_space(self._grid, rays)
            if self._is_fused(sdf, rays):
                state, used = _march_by_kernel(sdf, rays, state)
            else:
                state, used = march_masked(self._evaluate, rays, state)
            state = state.ended()
            return TraceResult(state.t, state.hit_mask, spent + used)

    def _is_fused(self, sdf: Sdf, rays: Rays) -> bool:
        t = rays.t_near
        if not (self.uses_kernel and t.is_cuda and t.dtype == torch.float32):
            return False
        from utils.fast.tracing.triton_kernel import can_march
        return can_march(sdf, t.device)

    def minimum_sdf(self, sdf: Sdf, rays: Rays, counts_mask: Tensor,
                    ignore_above: Tensor) -> tuple[Tensor, Tensor]:
        """Return all rays, and the minimum SDF among uniform samples of their chord by the grid."""
        with torch.no_grad():
            self._prepare(sdf, rays.t_near)
            t, least = rays.t_near, torch.full_like(rays.t_near, torch.inf)
            for sample in range(self.num_mask_samples):
                share = sample / max(self.num_mask_samples - 1, 1)
                at = rays.t_near + (rays.t_far - rays.t_near) * share
                value = self._grid(rays.points(at))
                t, least = torch.where(value < least, at, t), torch.minimum(value, least)
            return self._indices(counts_mask), rays.points(t)

    def _prepare(self, sdf: Sdf, like: Tensor) -> bool:
        """Sample the grid, unless it is of these weights; whether it was sampled."""
        if self._weights.are_the_same(sdf, like):
            return False
        self._evaluate = self.make_evaluator(sdf)
        self._grid = self._nodes_like(like).sample(self._evaluate)
        return True

    def _nodes_like(self, like: Tensor) -> GridNodes:
        """The grid's nodes on a tensor's device, in its dtype; made once."""
        place = (like.device, like.dtype)
        if place not in self._nodes:
            self._nodes[place] = GridNodes(like)
        return self._nodes[place]

    def _threads(self, sdf: Sdf) -> AbstractContextManager:
        """Leave threads as they are: the device does the work."""
        return nullcontext()

    def _indices(self, mask: Tensor) -> Tensor:
        """All of them: how many are True is not asked."""
        return torch.arange(len(mask), device=mask.device)


def march_masked(sdf: Sdf, rays: Rays, state: March) -> tuple[March, int]:
    """Few steps of all rays, then more of those that still go, of numbers fixed beforehand.

    Rays past those numbers stay where they are: a bracket is a hit, others miss.

    Returns:
        The state after the march, and the number of evaluations.
    """
    spent = 0
    for num_steps, share in TIERS:
        count = min(len(rays), max(len(rays) // share, MIN_GOING))
        index = first_rows(state.going_mask, count)
        state = state.replaced(index, march_plain(sdf, rays[index], state[index], num_steps))
        spent += num_steps * count
    return state, spent


def _march_by_kernel(sdf: Sdf, rays: Rays, state: March) -> tuple[March, Tensor]:
    from utils.fast.tracing.triton_kernel import (  # imports triton, which is optional
        march_fused,
        pack,
    )
    return march_fused(pack(sdf), rays, state)


def has_triton() -> bool:
    """Whether the fused kernel's package is installed; says so in the log where not."""
    if importlib.util.find_spec("triton") is None:
        log.info("triton is not installed: rays are traced without the fused kernel, which takes "
                 "longer; `%s` brings it", INSTALL_COMMAND)
        return False
    return True
