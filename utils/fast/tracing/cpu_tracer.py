"""Tracing with few SDF evaluations: search on a grid of the SDF, settle with the SDF itself.

Rays are marched on the grid's interpolation (`grid_march`). Only where they cross it is the SDF
evaluated, by Newton or secant steps down to the same threshold as the reference's. Where a
ray passes the surface within the grid's error, or those steps do not settle, the SDF is sampled
around that place; what is doubtful even then goes to the reference tracer.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from utils.fast.tracing.grid_march import least_on_rays
from utils.fast.tracing.grid_search import GridSearch
from utils.fast.tracing.network_passes import DifferentiableHits, NetworkPasses, WeightsWatch
from utils.fast.tracing.sdf_grid import build_grid
from utils.geometry.rays import Rays, Tangents, TraceResult
from utils.geometry.sdf import Sdf


class FastTracer(NetworkPasses):
    """A tracer with few SDF evaluations; the reference traces the rays that stay doubtful.

    Hits are those of the reference to its threshold. The soft mask leaves out terms under 4e-4.
    Its point of minimum SDF is chosen among the reference's samples by the grid's interpolation;
    the SDF is exact at the chosen point alone. Away from the surface (|SDF| above `sdf_grid.BAND`,
    then MIDDLE_BAND) the interpolation comes from coarser nodes, 33 and 17 along an edge, so that
    another sample than the reference's may be chosen there.

    Args:
        differentiable_hits, make_evaluator: see `NetworkPasses`.
        num_mask_samples: points of each ray among which the minimum SDF is searched.
        reference: the reference tracer, `trace(sdf, rays)`.
    """

    def __init__(self, differentiable_hits: DifferentiableHits, num_mask_samples: int,
                 make_evaluator: Callable[[Sdf], Sdf], *,
                 reference: Callable[[Sdf, Rays], TraceResult]) -> None:
        super().__init__(differentiable_hits, make_evaluator)
        self.reference, self.num_mask_samples = reference, num_mask_samples
        self._weights = WeightsWatch()

    def forget(self) -> None:
        """Sample the grid anew at the next call, for measurements."""
        self._weights.forget()

    def trace(self, sdf: Sdf, rays: Rays) -> TraceResult:
        """Find where R rays meet the surface; see the module's text. No gradient."""
        with torch.no_grad(), self._threads(sdf):
            is_new = self._prepare(sdf, rays.t_near)
            search = GridSearch(rays, self._grid, self._evaluate)
            doubtful = search.run()
            spent = search.num_evaluations + (self._grid.num_evaluations if is_new else 0)
            if len(doubtful):
                found = self.reference(self._evaluate, rays[doubtful])
                search.t[doubtful], search.hit_mask[doubtful] = found.t, found.hit_mask
                spent += found.num_evaluations
            return TraceResult(search.t, search.hit_mask, spent, Tangents(*search.tangents))

    def minimum_sdf(self, sdf: Sdf, rays: Rays, counts_mask: Tensor,
                    ignore_above: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rays that matter to the soft mask, and the minimum SDF along their chord.

        The samples are those of the reference, their SDF is the grid's: no evaluations. Rays
        whose minimum SDF lies above `ignore_above` by more than the grid's error at the surface are
        left out.
        """
        with torch.no_grad(), self._threads(sdf):
            self._prepare(sdf, rays.t_near)
            index = counts_mask.nonzero()[:, 0]
            chosen = rays[index]
            least, t_least = least_on_rays(self._grid, chosen, self.num_mask_samples)
            kept = (least <= ignore_above[index] + self._grid.error).nonzero()[:, 0]
            return index[kept], chosen[kept].points(t_least[kept])

    def _prepare(self, sdf: Sdf, like: Tensor) -> bool:
        """Sample the grid, unless it is of these weights; whether it was sampled."""
        if self._weights.are_the_same(sdf, like):
            return False
        self._evaluate = self.make_evaluator(sdf)
        self._grid = build_grid(self._evaluate, like)
        return True
