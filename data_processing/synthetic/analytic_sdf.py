"""Solids as signed distance functions in closed form: negative inside, gradient at most 1 long.

An `Sdf` is a callable `points (..., 3) -> distance (...)`, differentiable in the points. Primitives
are exact outside their solid; the ways to join them keep |f(a) - f(b)| <= |a - b|, so that a step
of f along a unit ray never passes the surface and sphere tracing is exact.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from utils.geometry.sdf import Sdf, gradient

#: Keeps the gradient of a norm finite at zero; far below float32 rounding of the distances.
TINY = 1e-24


def length(*components: Tensor) -> Tensor:
    """Return the Euclidean norm of components of equal shape; its gradient is finite at zero."""
    total = components[0] * components[0]
    for part in components[1:]:
        total = total + part * part
    return torch.sqrt(total + TINY)


def sphere(radius: float, center: Sequence[float] = (0.0, 0.0, 0.0)) -> Sdf:
    """Return a ball: |p - center| - radius."""
    def _distance(points: Tensor) -> Tensor:
        offsets = (axis - at for axis, at in zip(points.unbind(-1), center))
        return length(*offsets) - radius
    return _distance


def ellipsoid(radii: Sequence[float], center: Sequence[float] = (0.0, 0.0, 0.0)) -> Sdf:
    """Return an ellipsoid: (|(p - center) / radii| - 1) min(radii), a lower bound."""
    def _distance(points: Tensor) -> Tensor:
        scaled = ((axis - at) / radius
                  for axis, at, radius in zip(points.unbind(-1), center, radii))
        return (length(*scaled) - 1) * min(radii)
    return _distance


def box(half_sizes: Sequence[float], rounding: float = 0.0) -> Sdf:
    """Return a box about the origin, its edges rounded inwards from `half_sizes`."""
    def _distance(points: Tensor) -> Tensor:
        over = [axis.abs() - (half - rounding)
                for axis, half in zip(points.unbind(-1), half_sizes)]
        outside = length(*(part.clamp_min(0) for part in over))
        inside = torch.maximum(over[0], torch.maximum(over[1], over[2])).clamp_max(0)
        return outside + inside - rounding
    return _distance


def cylinder(radius: float, half_height: float, rounding: float = 0.0) -> Sdf:
    """Return a solid cylinder about the y axis, edges rounded inwards."""
    def _distance(points: Tensor) -> Tensor:
        x, y, z = points.unbind(-1)
        side = length(x, z) - (radius - rounding)
        cap = y.abs() - (half_height - rounding)
        outside = length(side.clamp_min(0), cap.clamp_min(0))
        return outside + torch.maximum(side, cap).clamp_max(0) - rounding
    return _distance


def torus(major: float, minor: float) -> Sdf:
    """Return a ring about the y axis: circle of radius `major`, tube of radius `minor`."""
    def _distance(points: Tensor) -> Tensor:
        x, y, z = points.unbind(-1)
        return length(length(x, z) - major, y) - minor
    return _distance


def capsule(start: Sequence[float], end: Sequence[float], radius: float) -> Sdf:
    """Return all points within `radius` of the segment from `start` to `end`."""
    axis = [b - a for a, b in zip(start, end)]
    squared = sum(part * part for part in axis)

    def _distance(points: Tensor) -> Tensor:
        offset = [part - at for part, at in zip(points.unbind(-1), start)]
        product = offset[0] * axis[0] + offset[1] * axis[1] + offset[2] * axis[2]
        along = (product / squared).clamp(0, 1)
        return length(*(part - along * step for part, step in zip(offset, axis))) - radius
    return _distance


def lathe(profile: Sequence[tuple[float, float]], thickness: float) -> Sdf:
    """Return a shell: all within `thickness` of a polyline (radius, y) rotated about the y axis."""
    def _distance(points: Tensor) -> Tensor:
        x, y, z = points.unbind(-1)
        radial = length(x, z)
        nearest = torch.full_like(radial, torch.inf)
        for (r0, y0), (r1, y1) in zip(profile[:-1], profile[1:]):
            dr, dy = r1 - r0, y1 - y0
            along = ((radial - r0) * dr + (y - y0) * dy) / (dr * dr + dy * dy)
            along = along.clamp(0, 1)
            squared = (radial - r0 - along * dr).square() + (y - y0 - along * dy).square()
            nearest = torch.minimum(nearest, squared)
        return torch.sqrt(nearest + TINY) - thickness
    return _distance


def union(*solids: Sdf) -> Sdf:
    """Return the union, the least of the distances; exact outside where the solids are."""
    def _distance(points: Tensor) -> Tensor:
        out = solids[0](points)
        for solid in solids[1:]:
            out = torch.minimum(out, solid(points))
        return out
    return _distance


def smooth_union(width: float, *solids: Sdf) -> Sdf:
    """Return a union whose seams are filleted over distances of `width`.

    min(a, b) - h (1 - h) width with h = clamp(1/2 + (b - a) / (2 width)) and the minimum softened
    alike; its gradient is a convex combination of both gradients, so never longer than 1.
    """
    def _distance(points: Tensor) -> Tensor:
        out = solids[0](points)
        for solid in solids[1:]:
            other = solid(points)
            weight = (0.5 + (other - out) / (2 * width)).clamp(0, 1)
            out = torch.lerp(other, out, weight) - width * weight * (1 - weight)
        return out
    return _distance


def subtract(solid: Sdf, *holes: Sdf) -> Sdf:
    """Return the solid without the holes: max(a, -b), a lower bound of the distance."""
    def _distance(points: Tensor) -> Tensor:
        out = solid(points)
        for hole in holes:
            out = torch.maximum(out, -hole(points))
        return out
    return _distance


def moved(solid: Sdf, rotation: Tensor | None = None,
          translation: Sequence[float] = (0.0, 0.0, 0.0), scale: float = 1.0) -> Sdf:
    """Return the solid scaled, then rotated, then translated: f'(p) = scale f(R^T (p - t) / scale).

    Args:
        solid: in its own space.
        rotation: (3, 3), own space to the new one; None for none.
        translation: 3 numbers, new space.
        scale: new units in one own unit.
    """
    def _distance(points: Tensor) -> Tensor:
        planes = torch.stack([axis - at for axis, at in zip(points.unbind(-1), translation)])
        if rotation is not None:
            planes = torch.tensordot(rotation.to(points).T, planes, dims=1)
        if scale != 1.0:
            return solid((planes / scale).movedim(0, -1)) * scale
        return solid(planes.movedim(0, -1))
    return _distance


def bumpy(solid: Sdf, amplitude: float, frequency: float,
          phases: Sequence[float] = (0.0, 0.0, 0.0)) -> Sdf:
    """Return the solid with its surface displaced by amplitude sin(f x) sin(f y) sin(f z).

    Divided by 1 + amplitude f, so that the result is a lower bound of the distance.
    """
    steepest = 1.0 + amplitude * frequency

    def _distance(points: Tensor) -> Tensor:
        x, y, z = (torch.sin(axis * frequency + at) for axis, at in zip(points.unbind(-1), phases))
        return (solid(points) + amplitude * (x * y * z)) / steepest
    return _distance


def normals(sdf: Sdf, points: Tensor) -> Tensor:
    """Return outward unit normals (N, 3) at points (N, 3) of the surface, detached."""
    return torch.nn.functional.normalize(gradient(sdf, points)[1], dim=-1)
