"""Spatial derivatives of a signed distance function that comes in as a callable."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Points (N, 3) to signed distances (N,), object units, negative inside.
Sdf = Callable[[Tensor], Tensor]
#: Values or gradients of n points, and further rows of these points, to n terms of a sum.
Terms = Callable[..., Tensor]
#: Object units; where |SDF| is below it, a point is on the surface (IDR's tracer).
SDF_THRESHOLD = 5e-5


def gradient(sdf: Callable[[Tensor], Tensor], points: Tensor,
             create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """Value of an SDF and its gradient in the points, by automatic differentiation.

    grad Phi(x) = d Phi / d x; each value may depend on its own point only.

    Args:
        sdf: points (..., 3) to signed distances (...,), negative inside.
        points: (..., 3), the space of the SDF.
        create_graph: True keeps both results differentiable in the SDF's weights, and in the
            points where these already require a gradient. False detaches both results. Either
            way works inside `torch.no_grad()`.

    Returns:
        sdf (...,) and gradient (..., 3), in the units of the points.
    """
    if points.shape[-1] != 3:
        raise ValueError(f"points are {tuple(points.shape)}, need (..., 3)")
    with torch.enable_grad():
        in_graph = create_graph and points.requires_grad
        variable = points if in_graph else points.detach().requires_grad_(True)
        values = sdf(variable)
        (slopes,) = torch.autograd.grad(values.sum(), variable, create_graph=create_graph)
    if create_graph:
        return values, slopes
    return values.detach(), slopes
