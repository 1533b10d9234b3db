"""Solids, cameras and rays for the tests of tracing, and the slow obvious tracer."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from data_processing.synthetic import analytic_sdf as solids
from utils.geometry.cameras import Cameras, look_at, projection_from_intrinsics
from utils.geometry.rays import Rays, make_rays

Sdf = Callable[[Tensor], Tensor]

SOLIDS: dict[str, Sdf] = {
    "sphere": solids.sphere(0.5, (0.1, -0.1, 0.2)),
    "box": solids.box((0.3, 0.5, 0.4)),
    "torus": solids.torus(0.5, 0.15),
    "two spheres": solids.union(solids.sphere(0.25, (0.4, 0.0, 0.1)),
                                solids.sphere(0.3, (-0.4, 0.1, 0.0))),
    "thin plate": solids.box((0.6, 0.5, 0.01)),
}
#: A plate 0.004 thick and a rod of radius 0.004, off the grids' nodes: SDF, centre, and half its
#: extent along each of its long axes.
THIN: dict[str, tuple[Sdf, tuple[float, ...], tuple[tuple[float, ...], ...]]] = {
    "plate": (solids.moved(solids.box((0.6, 0.5, 0.002)), None, (0.05, -0.08, 0.02)),
              (0.05, -0.08, 0.02), ((0.6, 0.0, 0.0), (0.0, 0.5, 0.0))),
    "rod": (solids.capsule((-0.5, -0.2, 0.1), (0.5, 0.4, -0.3), 0.004),
            (0.0, 0.1, -0.1), ((0.5, 0.3, -0.2),)),
}


def unit(vectors: Tensor) -> Tensor:
    """Vectors (..., 3) at length 1."""
    return F.normalize(vectors, dim=-1)


def rays_inwards(count: int, *, seed: int = 0, spread: float = 0.6,
                 dtype: torch.dtype = torch.float32) -> Rays:
    """Rays from 2.5 object units away, towards normally distributed points about the centre."""
    generator = torch.Generator().manual_seed(seed)
    origins = 2.5 * unit(torch.randn(count, 3, generator=generator))
    aim = spread * torch.randn(count, 3, generator=generator)
    origins, aim = origins.to(dtype), aim.to(dtype)
    return make_rays(origins, unit(aim - origins))


def rays_at_thin(name: str, count: int, *, seed: int = 0) -> Rays:
    """Rays from 2.5 object units away, towards uniform points within 0.006 of a solid of THIN."""
    _, center, halves = THIN[name]
    generator = torch.Generator().manual_seed(seed)
    origins = 2.5 * unit(torch.randn(count, 3, generator=generator))
    share = 2 * torch.rand(count, len(halves), generator=generator) - 1
    aside = 0.006 * (2 * torch.rand(count, 1, generator=generator) - 1)
    aim = torch.tensor(center) + share @ torch.tensor(halves)
    aim = aim + aside * unit(torch.randn(count, 3, generator=generator))
    return make_rays(origins, unit(aim - origins))


def cameras_at(eyes: list[tuple[float, float, float]], resolution: tuple[int, int] = (24, 20), *,
               focal: float = 1.6, dtype: torch.dtype = torch.float64) -> Cameras:
    """Cameras that look at the origin; object space is world space; off-centre, with skew.

    Args:
        focal: focal length in image widths.
    """
    width, height = resolution
    intrinsics = torch.tensor([[focal * width, 0.3, width * 0.52],
                               [0, focal * width, height * 0.46], [0, 0, 1]], dtype=dtype)
    eye = torch.tensor(eyes, dtype=dtype)
    view = look_at(eye, torch.zeros(3, dtype=dtype), torch.tensor([0.05, 1.0, 0.1], dtype=dtype))
    projection = projection_from_intrinsics(intrinsics, resolution).expand(len(eyes), 4, 4)
    return Cameras(view, projection, torch.eye(4, dtype=dtype), resolution)


def slow_first_hit(sdf: Sdf, origin: Tensor, direction: Tensor, ends: tuple[float, float], *,
                   step: float = 2e-3) -> float | None:
    """First zero of the SDF on one ray: tiny steps until the sign changes, then bisection.

    Returns:
        Distance to 1e-9, None where no step ends inside. What is thinner than `step` along the ray
        is stepped over.
    """
    def value(t: float) -> float:
        return float(sdf((origin + t * direction)[None]))

    start, end = ends
    t = start
    while value(t) >= 0:
        t += step
        if t >= end:
            return None
    low, high = t - step, t
    while high - low > 1e-9:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if value(middle) >= 0 else (low, middle)
    return high
