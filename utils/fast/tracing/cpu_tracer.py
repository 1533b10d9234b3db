"""Tracing with few SDF evaluations: search on a grid of the SDF, settle with the SDF itself.

Rays are marched on the grid's interpolation (`grid_march`). Only where they cross it is the SDF
evaluated, by Newton or secant steps down to the same threshold as the plain tracer's. Where a
ray passes the surface within the grid's error, or those steps do not settle, the SDF is sampled
around that place; what is doubtful even then goes to the plain tracer.
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from utils.fast.chunked_autograd import chunk_size, map_in_chunks, total_in_chunks
from utils.fast.siren.evaluator import ChunkedSiren, is_siren_chain
from utils.fast.siren.gradients import known_values, total_of_gradients, total_of_values
from utils.fast.threads import only_shares
from utils.fast.tracing.grid_march import least_on_rays
from utils.fast.tracing.grid_search import GridSearch
from utils.fast.tracing.sdf_grid import build_grid
from utils.geometry.rays import Rays, Tangents, TraceResult
from utils.geometry.sdf import Sdf, Terms, gradient


class FastTracer:
    """A tracer with few SDF evaluations; the plain one settles what is doubtful.

    Hits are those of the plain tracer to its threshold. Its losses differ in what is left out: soft
    mask terms under 4e-4, and eikonal points outside the unit sphere. The soft mask's point of
    least SDF is chosen among the plain search's samples by the grid's interpolation; the SDF is
    exact at the chosen point alone. Away from the surface (|SDF| above `sdf_grid.BAND`, then
    MIDDLE_BAND) the interpolation comes from coarser nodes, 33 and 17 along an edge, so that
    another sample than the plain search's may be chosen there.

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
        with torch.no_grad(), self.threads(sdf):
            is_new = self.prepare(sdf, rays.t_near)
            search = GridSearch(rays, self._grid, self._evaluate)
            doubtful = search.run()
            spent = search.num_evaluations + (self._grid.num_evaluations if is_new else 0)
            if len(doubtful):
                found = self.plain(self._evaluate, rays[doubtful])
                search.t[doubtful], search.hit_mask[doubtful] = found.t, found.hit_mask
                spent += found.num_evaluations
            return TraceResult(search.t, search.hit_mask, spent, Tangents(*search.tangents))

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
            chosen = rays[index]
            least, t_least = least_on_rays(self._grid, chosen, self.num_mask_samples)
            kept = (least <= ignore_above[index] + self._grid.error).nonzero()[:, 0]
            return index[kept], chosen[kept].points(t_least[kept])

    def threads(self, sdf: Sdf) -> AbstractContextManager:
        """Ours, where they evaluate the SDF: torch's rest."""
        return only_shares() if is_siren_chain(sdf) else nullcontext()

    def rows(self, mask: Tensor) -> Tensor:
        """Those that are True."""
        return mask.nonzero()[:, 0]

    def value_and_slope(self, sdf: Sdf, points_obj: Tensor,
                        dirs_obj: Tensor) -> tuple[Tensor, Tensor]:
        """In one pass forward, or by the gradient, in chunks."""
        evaluate = self.make_evaluator(sdf)
        with torch.no_grad():
            if hasattr(evaluate, "value_and_slope"):
                return evaluate.value_and_slope(points_obj, dirs_obj)
            pairs = zip(points_obj.split(chunk_size(points_obj)),
                        dirs_obj.split(chunk_size(dirs_obj)), strict=True)
            parts = [(value, (grad * dirs).sum(-1)) for part, dirs in pairs
                     for value, grad in [_value_and_gradient(sdf, part)]]
            return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    def tangents(self, sdf: Sdf, rays: Rays, t: Tensor, known: Tangents | None) -> Tangents:
        """Those that are known, the others at distances t."""
        if known is None:
            return Tangents(t, *self.value_and_slope(sdf, rays.points(t), rays.dirs_obj))
        rows = known.slope.isnan().nonzero()[:, 0]
        others = rays[rows]
        found = self.value_and_slope(sdf, others.points(t[rows]), others.dirs_obj)
        return Tangents(torch.where(known.slope.isnan(), t, known.t),
                        known.value.index_copy(0, rows, found[0]),
                        known.slope.index_copy(0, rows, found[1]))

    def values(self, sdf: Sdf, points_obj: Tensor, known: Tensor) -> Tensor:
        """Those that are known; the backward pass computes them anew, in chunks."""
        if is_written_out(sdf, points_obj):
            return known_values(sdf, ChunkedSiren(sdf), points_obj, known)
        return map_in_chunks(sdf, lambda points: known, points_obj, list(sdf.parameters()))

    def total_of_values(self, sdf: Sdf, terms: Terms, points_obj: Tensor,
                        *inputs: Tensor) -> Tensor:
        """In chunks, each with its gradient at once."""
        if is_written_out(sdf, points_obj):
            return total_of_values(sdf, ChunkedSiren(sdf), terms, points_obj, inputs)
        return total_in_chunks(lambda points, *rest: terms(sdf(points), *rest).sum(),
                               [points_obj, *inputs], list(sdf.parameters()))

    def total_of_gradients(self, sdf: Sdf, terms: Terms, points_obj: Tensor) -> Tensor:
        """In chunks, each with its gradient at once; differentiated once where the network has its
        gradient in closed form, not twice."""
        if is_written_out(sdf, points_obj):
            return total_of_gradients(sdf, ChunkedSiren(sdf), terms, points_obj)
        return total_in_chunks(lambda points: terms(_value_and_gradient(sdf, points)[1]).sum(),
                               [points_obj], list(sdf.parameters()))

    def eikonal_points(self, points_obj: Tensor) -> Tensor:
        """Those inside the unit sphere: nothing outside is ever traced."""
        return points_obj[points_obj.square().sum(-1) < 1]


def is_written_out(sdf: Sdf, points_obj: Tensor) -> bool:
    """Whether `utils.fast.siren.gradients` has the gradients of losses on this SDF."""
    return points_obj.device.type == "cpu" and is_siren_chain(sdf)


def _value_and_gradient(sdf: Sdf, points_obj: Tensor) -> tuple[Tensor, Tensor]:
    if hasattr(sdf, "value_and_gradient"):
        return sdf.value_and_gradient(points_obj)
    return gradient(sdf, points_obj, create_graph=torch.is_grad_enabled())
