"""Rays in object space, their interval inside the unit sphere, and what tracing them returns."""
from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from utils.geometry.cameras import Cameras
from utils.geometry.sdf import Sdf, Terms


@dataclass(frozen=True)
class Rays:
    """R rays and their interval inside the unit sphere.

    Attributes:
        origins_obj: (R, 3), object space.
        dirs_obj: (R, 3), unit length, object space.
        t_near, t_far: (R,) where the ray enters and leaves the unit sphere, t_near >= 0; both are
            the distance of closest approach (at least 0) where it misses.
        sphere_mask: (R,) bool, True where part of the ray lies inside the sphere.
    """

    origins_obj: Tensor
    dirs_obj: Tensor
    t_near: Tensor
    t_far: Tensor
    sphere_mask: Tensor

    def __len__(self) -> int:
        return len(self.t_near)

    def __getitem__(self, index: Tensor | slice) -> Rays:
        """The rays of a bool mask, an index tensor or a slice."""
        parts = (self.origins_obj, self.dirs_obj, self.t_near, self.t_far, self.sphere_mask)
        if isinstance(index, slice):
            return Rays(*(part[index] for part in parts))
        if index.dtype == torch.bool:
            index = index.nonzero()[:, 0]
        # index_select takes a third of the time of an index in brackets
        return Rays(*(part.index_select(0, index) for part in parts))

    def points(self, t: Tensor) -> Tensor:
        """(R, ..., 3) points at distances t (R, ...)."""
        extra = (1,) * (t.ndim - 1)
        origins = self.origins_obj.reshape(-1, *extra, 3)
        return origins + t[..., None] * self.dirs_obj.reshape(-1, *extra, 3)


@dataclass(frozen=True)
class Tangents:
    """An SDF along R rays, next to where they hit: value + slope (t' - t) at distance t'.

    Attributes:
        t: (R,) distance at which it was evaluated.
        value, slope: (R,) Phi and <grad Phi, d> there; nan: not known.
    """

    t: Tensor
    value: Tensor
    slope: Tensor

    def __getitem__(self, index: Tensor) -> Tangents:
        """Those of an index tensor."""
        return Tangents(self.t[index], self.value[index], self.slope[index])


@dataclass(frozen=True)
class TraceResult:
    """Where rays meet the surface.

    Attributes:
        t: (R,) distance of the hit; where the ray misses, of the last or least SDF that was seen.
        hit_mask: (R,) bool.
        num_evaluations: SDF evaluations that it took; a scalar tensor where the device counted.
        tangents: where the tracer took a Newton step to t, and where it did not, nan; None: it took
            none.
    """

    t: Tensor
    hit_mask: Tensor
    num_evaluations: int | Tensor = 0
    tangents: Tangents | None = None


@dataclass(frozen=True)
class Surface:
    """What V views see of the surface, a map each.

    Attributes:
        points_obj: (V, 3, H, W) hit, or the point of least SDF where the ray misses; object space.
        hit_mask: (V, 1, H, W) bool.
    """

    points_obj: Tensor
    hit_mask: Tensor


def make_rays(origins_obj: Tensor, dirs_obj: Tensor) -> Rays:
    """Cut rays to the unit sphere (closed form).

    Args:
        origins_obj: (R, 3).
        dirs_obj: (R, 3), unit length.
    Returns:
        Rays; t_near and t_far are detached, origins and directions keep their graph.
    """
    with torch.no_grad():
        closest = -(origins_obj * dirs_obj).sum(-1)                    # (R,)
        # distance to the axis by subtraction of vectors: |o|^2 - closest^2 would cancel far away
        axis_sq = (origins_obj + closest[:, None] * dirs_obj).square().sum(-1)
        half = (1 - axis_sq).clamp(min=0).sqrt()
        t_far = (closest + half).clamp(min=0)
        t_near = (closest - half).clamp(min=0)
        sphere_mask = (axis_sq < 1) & (t_far > t_near)
    return Rays(origins_obj, dirs_obj, t_near, t_far, sphere_mask)


def camera_rays(cameras: Cameras) -> Rays:
    """Rays through every pixel centre of V cameras, (R,) = (V * H * W,) in that order."""
    origins, dirs = cameras.pixel_rays()
    return make_rays(origins.reshape(-1, 3), dirs.reshape(-1, 3))


class Tracer(Protocol):
    """How the surface is found, and how the SDF is evaluated for losses.

    What `trace` and `least_sdf` give are constants: no gradient passes through them.
    """

    def trace(self, sdf: Sdf, rays: Rays) -> TraceResult:
        """Where R rays meet the surface."""

    def least_sdf(self, sdf: Sdf, rays: Rays, counts_mask: Tensor,
                  ignore_above: Tensor) -> tuple[Tensor, Tensor]:
        """Points of least SDF on rays, for the soft mask.

        Args:
            counts_mask: (R,) bool, rays whose loss is not zero anyway.
            ignore_above: (R,) rays whose least SDF is greater may be left out.
        Returns:
            index (R',) of rays that hold all that matter, and their points (R', 3).
        """

    def threads(self, sdf: Sdf) -> AbstractContextManager:
        """In which the shape is traced and its losses are taken: whose threads work."""

    def rows(self, mask: Tensor) -> Tensor:
        """Index of rows that hold all True ones of a mask (N,); others may be among them."""

    def value_and_slope(self, sdf: Sdf, points_obj: Tensor,
                        dirs_obj: Tensor) -> tuple[Tensor, Tensor]:
        """Phi (N,) and <grad Phi, d> (N,) at points (N, 3) along directions; no gradient."""

    def tangents(self, sdf: Sdf, rays: Rays, t: Tensor, known: Tangents | None) -> Tangents:
        """The SDF along R rays at hits t (R,); those that `trace` knows, where it does."""

    def values(self, sdf: Sdf, points_obj: Tensor, known: Tensor) -> Tensor:
        """(N,) SDF at points (N, 3), differentiable in both; `known` are the same numbers, from
        `value_and_slope` or `tangents`."""

    def total_of_values(self, sdf: Sdf, terms: Terms, points_obj: Tensor,
                        *inputs: Tensor) -> Tensor:
        """Sum of terms(Phi(points), *inputs) over points (N, 3), differentiable in the parameters.

        Args:
            terms: values (n,) and rows of the inputs to terms (n,), each of its own point alone.
            inputs: tensors (N, ...).
        """

    def total_of_gradients(self, sdf: Sdf, terms: Terms, points_obj: Tensor) -> Tensor:
        """Sum of terms(grad Phi(points)), gradients (n, 3) to terms (n,); as `total_of_values`."""

    def eikonal_points(self, points_obj: Tensor) -> Tensor:
        """Those of uniform points (N, 3) at which the eikonal term is taken; on the host."""
