"""Unweighted losses (METHOD 6). Each returns one scalar; weights are configuration."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.errors import ConfigError

#: Weights of the losses at known surface points (METHOD 6); those of the others are flags.
CLOUD_WEIGHTS = {"on_surface": 60.0, "off_surface": 2.0, "normal": 2.0}
OFF_SURFACE_SHARPNESS = 100.0      # exp(-100 |Phi|): pushes Phi away from 0 off the surface


def image_loss(prediction: Tensor, photograph: Tensor, mask: Tensor, metric: str = "l1",
               *, region: str = "all", weight: Tensor | None = None) -> Tensor:
    """Difference of the masked images, summed over targets.

    Args:
        prediction, photograph: (T, 3, H, W), RGB in [0, 1].
        mask: (T, 1, H, W) bool, object.
        metric: l1, l2 or smooth_l1.
        region: "all" divides by all pixels and channels (the released code), "foreground" by those
            of the mask (the paper's equation).
        weight: (T, 1, H, W) of the pixels in the mean; None: all 1.
    Returns:
        Scalar. Differentiable in prediction.
    """
    inside = mask.to(prediction.dtype)
    functions = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}
    if metric not in functions:
        raise ConfigError(f"color_loss is {metric!r}, need one of {', '.join(functions)}")
    error = functions[metric](prediction * inside, photograph * inside, reduction="none")
    if weight is not None:
        error = error * weight
    per_target = error.mean((1, 2, 3))
    if region == "foreground":
        per_target = per_target / inside.mean((1, 2, 3)).clamp(min=1e-6)
    return per_target.sum()


def soft_mask_terms(least_sdf: Tensor, mask: Tensor, alpha: float) -> Tensor:
    """Silhouette loss of each ray: BCE(sigmoid(-alpha Phi_min), mask).

    Its mean runs over all rays of the image, also over those whose term is zero by definition:
    rays that hit inside the mask, and rays that miss the unit sphere.

    Args:
        least_sdf: (R,) least SDF along each ray.
        mask: (R,) bool, object in the photograph.
        alpha: sharpness, 1 / object unit.
    Returns:
        (R,). Differentiable in least_sdf.
    """
    return F.binary_cross_entropy_with_logits(-alpha * least_sdf, mask.to(least_sdf.dtype),
                                              reduction="none")


def eikonal_terms(gradient: Tensor, metric: str = "l2") -> Tensor:
    """How far |grad Phi| is from 1 at each point: squared (l2) or absolute (l1).

    Args:
        gradient: (N, 3) gradients of the SDF.
    Returns:
        (N,).
    """
    deviation = gradient.norm(dim=-1) - 1
    return deviation.square() if metric == "l2" else deviation.abs()


def on_surface_loss(sdf: Tensor) -> Tensor:
    """Mean |Phi| at points (N,) of the surface."""
    return sdf.abs().mean()


def off_surface_loss(sdf: Tensor) -> Tensor:
    """Mean exp(-100 |Phi|) at points (N,) away from the surface."""
    return torch.exp(-OFF_SURFACE_SHARPNESS * sdf.abs()).mean()


def normal_loss(gradient: Tensor, normals: Tensor) -> Tensor:
    """Mean 1 - cos between gradients (N, 3) and true normals (N, 3)."""
    return (1 - F.cosine_similarity(gradient, normals, dim=-1)).mean()
