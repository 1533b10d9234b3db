"""Rays in object space, their interval inside the unit sphere, and what tracing them returns."""
from __future__ import annotations

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
        """Return the points (R, ..., 3) at distances t (R, ...)."""
        extra = (1,) * (t.ndim - 1)
        origins = self.origins_obj.reshape(-1, *extra, 3)
        return origins + t[..., None] * self.dirs_obj.reshape(-1, *extra, 3)

    def through(self, points_obj: Tensor) -> Tensor:
        """Return constant points (R, 3) on the rays as functions of the rays: t stays."""
        with torch.no_grad():
            t = ((points_obj - self.origins_obj) * self.dirs_obj).sum(-1)
        return self.points(t)


@dataclass(frozen=True)
class Tangents:
    """An SDF along R rays, next to where they hit: value + derivative (t' - t) at distance t'.

    Attributes:
        t: (R,) distance at which it was evaluated.
        value: (R,) Phi there; nan where it is not known.
        derivative: (R,) directional derivative <grad Phi, d> there; nan where it is not known.
    """

    t: Tensor
    value: Tensor
    derivative: Tensor

    def __getitem__(self, index: Tensor) -> Tangents:
        """Return the tangents of the rays of an index tensor."""
        return Tangents(self.t[index], self.value[index], self.derivative[index])


@dataclass(frozen=True)
class TraceResult:
    """Where rays meet the surface.

    Attributes:
        t: (R,) distance of the hit; where the ray misses, of the last or minimum SDF that was seen.
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
        points_obj: (V, 3, H, W) hit, or the point of minimum SDF where the ray misses, object
            space.
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
    """How the surface is found, and how the SDF is evaluated for losses on it.

    What `trace` and `minimum_sdf` return are constants: no gradient passes through them.
    """

    def trace(self, sdf: Sdf, rays: Rays) -> TraceResult:
        """Find where R rays meet the surface."""
        ...

    def hits(self, sdf: Sdf, rays: Rays, found: TraceResult) -> tuple[Tensor, Tensor]:
        """Return the points of R traced rays as functions of the network and of the rays.

        Args:
            found: what `trace` returned for these rays.
        Returns:
            points_obj (R, 3), differentiable where the rays hit, constant elsewhere; and the
            distances t (R,) of the same points, constants.
        """
        ...

    def minimum_sdf(self, sdf: Sdf, rays: Rays, counts_mask: Tensor,
                    ignore_above: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points of minimum SDF on rays, for the soft mask.

        Args:
            counts_mask: (R,) bool, rays whose loss is not zero anyway.
            ignore_above: (R,) object units; rays whose minimum SDF is greater may be left out.
        Returns:
            Indices (R',) of rays, among them all that matter, and their points (R', 3).
        """
        ...

    def sum_of_values(self, sdf: Sdf, terms: Terms, points_obj: Tensor,
                      *inputs: Tensor) -> Tensor:
        """Return the sum of terms(Phi(points), *inputs) over points (N, 3).

        Args:
            terms: values (n,) and rows of the inputs to terms (n,), each of its own point alone.
            inputs: tensors (N, ...), constants.
        Returns:
            Scalar, differentiable in the parameters, and in the points where they require it.
        """
        ...

    def sum_of_gradients(self, sdf: Sdf, terms: Terms, points_obj: Tensor) -> Tensor:
        """Return the sum of terms(grad Phi(points)), gradients (n, 3) to terms (n,).

        Returns:
            Scalar, differentiable in the parameters.
        """
        ...
