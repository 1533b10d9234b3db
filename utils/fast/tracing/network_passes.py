"""Passes through the SDF network that losses need, chunk by chunk, each with its gradient at once.

Both fast tracers share them. The twin is `sdf_rendering.ReferenceTracer`, which evaluates all
points in one batch and keeps their graph.
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

from utils.fast.chunked_autograd import chunk_size, map_in_chunks, total_in_chunks
from utils.fast.siren.evaluator import ChunkedSiren, is_siren_chain
from utils.fast.siren.gradients import known_values, total_of_gradients, total_of_values
from utils.fast.threads import only_shares
from utils.geometry.rays import Rays, Tangents, TraceResult
from utils.geometry.sdf import Sdf, Terms, gradient

#: (sdf, rays, t, derivative) to points: `sdf_rendering.differentiable_hits`.
DifferentiableHits = Callable[[Sdf, Rays, Tensor, Tensor], Tensor]


class NetworkPasses:
    """`hits`, `sum_of_values` and `sum_of_gradients` of a tracer.

    Args:
        differentiable_hits: the method's, of rays that hit.
        make_evaluator: SDF to its fastest evaluator without gradient.
    """

    def __init__(self, differentiable_hits: DifferentiableHits,
                 make_evaluator: Callable[[Sdf], Sdf]) -> None:
        self.differentiable_hits, self.make_evaluator = differentiable_hits, make_evaluator

    def hits(self, sdf: Sdf, rays: Rays, found: TraceResult) -> tuple[Tensor, Tensor]:
        """See `Tracer.hits`; Newton steps of the trace are not evaluated again."""
        with self._threads(sdf):
            index = self._indices(found.hit_mask)      # with others where they are not counted
            hit_rays, t = rays[index], found.t[index]
            at = self._tangents(sdf, hit_rays, t, found.tangents and found.tangents[index])
            hit_points = torch.where(
                found.hit_mask[index, None],
                self.differentiable_hits(partial(self._values, sdf, known=at.value), hit_rays,
                                         at.t, at.derivative),
                hit_rays.points(t))
            refined = ((hit_points.detach() - hit_rays.origins_obj) * hit_rays.dirs_obj).sum(-1)
            points = rays.points(found.t).index_copy(0, index, hit_points)
            return points, found.t.index_copy(0, index, refined.detach())

    def sum_of_values(self, sdf: Sdf, terms: Terms, points_obj: Tensor,
                      *inputs: Tensor) -> Tensor:
        """See `Tracer.sum_of_values`; no second derivatives."""
        with self._threads(sdf):
            if points_obj.requires_grad:
                known = self._values_without_gradient(sdf, points_obj.detach())
                return terms(self._values(sdf, points_obj, known), *inputs).sum()
            if has_analytic_gradients(sdf, points_obj):
                return total_of_values(sdf, ChunkedSiren(sdf), terms, points_obj, inputs)
            return total_in_chunks(lambda points, *rest: terms(sdf(points), *rest).sum(),
                                   [points_obj, *inputs], list(sdf.parameters()))

    def sum_of_gradients(self, sdf: Sdf, terms: Terms, points_obj: Tensor) -> Tensor:
        """See `Tracer.sum_of_gradients`; differentiated once, where the network has its gradient in
        closed form, not twice."""
        with self._threads(sdf):
            if has_analytic_gradients(sdf, points_obj):
                return total_of_gradients(sdf, ChunkedSiren(sdf), terms, points_obj)
            return total_in_chunks(lambda points: terms(_value_and_gradient(sdf, points)[1]).sum(),
                                   [points_obj], list(sdf.parameters()))

    def _threads(self, sdf: Sdf) -> AbstractContextManager:
        """Our threads where they evaluate the SDF, while torch's rest; torch's elsewhere."""
        return only_shares() if is_siren_chain(sdf) else nullcontext()

    def _indices(self, mask: Tensor) -> Tensor:
        """Indices that hold all True entries of a mask (N,); others may be among them."""
        return mask.nonzero()[:, 0]

    def _values_without_gradient(self, sdf: Sdf, points_obj: Tensor) -> Tensor:
        """Phi (N,) at points (N, 3), of the passes that also give directional derivatives."""
        return self._value_and_derivative(sdf, points_obj, torch.zeros_like(points_obj))[0]

    def _value_and_derivative(self, sdf: Sdf, points_obj: Tensor,
                              dirs_obj: Tensor) -> tuple[Tensor, Tensor]:
        """Phi (N,) and <grad Phi, d> (N,) at points (N, 3) along directions; no gradient."""
        evaluate = self.make_evaluator(sdf)
        with torch.no_grad():
            if hasattr(evaluate, "value_and_derivative"):
                return evaluate.value_and_derivative(points_obj, dirs_obj)
            pairs = zip(points_obj.split(chunk_size(points_obj)),
                        dirs_obj.split(chunk_size(dirs_obj)), strict=True)
            parts = [(value, (grad * dirs).sum(-1)) for part, dirs in pairs
                     for value, grad in [_value_and_gradient(sdf, part)]]
            values, derivatives = zip(*parts, strict=True)
            return torch.cat(values), torch.cat(derivatives)

    def _tangents(self, sdf: Sdf, rays: Rays, t: Tensor, known: Tangents | None) -> Tangents:
        """The tangents that the trace knows, and those of the other rays at distances t (R,)."""
        if known is None:
            return Tangents(t, *self._value_and_derivative(sdf, rays.points(t), rays.dirs_obj))
        index = known.derivative.isnan().nonzero()[:, 0]
        others = rays[index]
        value, derivative = self._value_and_derivative(sdf, others.points(t[index]),
                                                       others.dirs_obj)
        return Tangents(torch.where(known.derivative.isnan(), t, known.t),
                        known.value.index_copy(0, index, value),
                        known.derivative.index_copy(0, index, derivative))

    def _values(self, sdf: Sdf, points_obj: Tensor, known: Tensor) -> Tensor:
        """`known` (N,), differentiable; the backward pass computes them anew, in chunks."""
        if has_analytic_gradients(sdf, points_obj):
            return known_values(sdf, ChunkedSiren(sdf), points_obj, known)
        return map_in_chunks(sdf, lambda points: known, points_obj, list(sdf.parameters()))


class WeightsWatch:
    """Tells whether an SDF's weights are those of the last call, so that its grid can be kept.

    Weights written through `.data` go unnoticed: call `forget` after that.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Let the next call find other weights."""
        self._sdf: Sdf | None = None
        self._key: tuple = ()

    def are_the_same(self, sdf: Sdf, like: Tensor) -> bool:
        """Whether the SDF, its weights, device and dtype are those of the last call."""
        versions = tuple(parameter._version for parameter in sdf.parameters()) \
            if hasattr(sdf, "parameters") else (object(),)
        key = (like.device, like.dtype, versions)
        are_same = sdf is self._sdf and key == self._key
        self._sdf, self._key = sdf, key
        return are_same


def has_analytic_gradients(sdf: Sdf, points_obj: Tensor) -> bool:
    """Whether `utils.fast.siren.gradients` has the gradients of losses on this SDF."""
    return points_obj.device.type == "cpu" and is_siren_chain(sdf)


def _value_and_gradient(sdf: Sdf, points_obj: Tensor) -> tuple[Tensor, Tensor]:
    if hasattr(sdf, "value_and_gradient"):
        return sdf.value_and_gradient(points_obj)
    return gradient(sdf, points_obj, create_graph=torch.is_grad_enabled())
