"""All losses, unweighted (docs/method.md, section 6). Weights are configuration.

`image_loss` compares images. The shape's losses take an evaluator of the SDF (a `Tracer`), the SDF
and what it is compared with; each is one scalar.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.config.sections import LossConfig
from utils.devices import to_device
from utils.errors import ConfigError
from utils.geometry.rays import Rays, Tracer
from utils.geometry.sdf import Sdf, gradient

#: Weights of the losses at known surface points (docs/method.md, section 6); others are flags. Half
#: of 60, 2 and 2, which the released code gives to means over a batch that is half of such points
#: and half of free ones, so that a term counts at every other point only.
CLOUD_WEIGHTS = {"on_surface": 30.0, "off_surface": 1.0, "normal": 1.0}
#: Photo-consistency: side of a window in pixels, sources that count, the part of a window that
#: both photographs must show, and the variance (squared grey values) that noise and compression
#: give a window without texture.
WINDOW, NUM_BEST, MIN_FRACTION, NOISE_VARIANCE = 7, 3, 0.5, 1e-4
OFF_SURFACE_SHARPNESS = 100.0      # exp(-100 |Phi|): pushes Phi away from 0 off the surface
LEAST_SQUARED_ERROR = 1e-10        # PSNR is at most 100 dB
#: alpha * SDF above which the soft-mask term (under 4e-4) of a ray off the mask may be left out: a
#: third of the points, for 0.1 % of the gradient.
NEGLIGIBLE = 8.0
#: Distance from the silhouette, times alpha, at which a ray's slope is 2 % of its greatest.
SILHOUETTE_REACH = 4.0
#: Matched points, object units: |Phi| below which the pull falls off, as they are no more exact,
#: and above which they no longer pull, as they are mistaken.
MATCH_NOISE, MATCH_REACH = 0.005, 0.03


@dataclass(frozen=True)
class ShapeSupervision:
    """What the losses on the shape compare the SDF with.

    Attributes:
        loss: which losses count, their metrics and weights.
        num_points: uniform points of [-1, 1]^3 a shape step, and points of the cloud.
        in_sphere_only: the eikonal term counts inside the unit sphere alone, and is 0 outside.
        cloud: points_obj (N, 3) and normals_obj (N, 3) or None; None: no cloud supervises it.
        matches: its `points` are `MatchedPoints` of the training views; None: none supervise it.
    """

    loss: LossConfig
    num_points: int = 32768
    in_sphere_only: bool = False
    cloud: Any = None
    matches: Any = None

    def uniform_points(self, generator: torch.Generator) -> Tensor:
        """Draw points (N, 3) of [-1, 1]^3, on the CPU."""
        return torch.rand(self.num_points, 3, generator=generator) * 2 - 1

    def cloud_losses(self, sdf: Sdf, generator: torch.Generator,
                     device: torch.device) -> dict[str, Tensor]:
        """Losses at drawn points of the cloud and at uniform points; those that count, by name."""
        cloud, loss = self.cloud, self.loss
        chosen = torch.randint(len(cloud.points_obj), (self.num_points,), generator=generator)
        normals = cloud.normals_obj if loss.opt_sdf_normal else None
        if normals is not None:
            normals = to_device(normals[chosen], device)
        found = surface_point_losses(sdf, to_device(cloud.points_obj[chosen], device), normals)
        if loss.opt_sdf_offsurface:
            free = to_device(self.uniform_points(generator), device)
            found["off_surface"] = off_surface_loss(sdf(free))
        wanted = {"on_surface": loss.opt_sdf_onsurface, "off_surface": True, "normal": True}
        return {name: found[name] for name in wanted if wanted[name] and name in found}


def masked_psnr(prediction: Tensor, photograph: Tensor, mask: Tensor) -> Tensor:
    """Return the paper's PSNR in dB, mean over T targets; no gradient, and no host waits.

    Args:
        prediction: (T, 3, H, W), not clamped.
        photograph: (T, 3, H, W).
        mask: (T, 1, H, W) bool; both are 0 outside, and all pixels count.
    """
    difference = (prediction.detach().clamp(0, 1) - photograph) * mask
    error = difference.float().square().mean((1, 2, 3)).clamp(min=LEAST_SQUARED_ERROR)
    return (-10 * torch.log10(error)).mean()


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


def soft_mask_loss(evaluator: Tracer, sdf: Sdf, rays: Rays, masks: Tensor, *,
                   hit_mask: Tensor, alpha: float, rim_mask: Tensor | None = None,
                   weight: Tensor | None = None) -> Tensor:
    """Silhouette loss: mean over R rays of BCE(sigmoid(-alpha min Phi), mask).

    The mean runs over all rays, also over those whose term is zero by definition: rays that hit
    inside the mask, and rays that miss the unit sphere. Rays off the mask push the surface inwards
    also from a little distance; unless the rays of the rim pull as much, it settles inside the
    mask.

    Args:
        evaluator: finds the minimum SDF and evaluates Phi there.
        rays: R rays; where they are differentiable, so is the loss in them.
        masks: (R,) bool, object in the photograph.
        hit_mask: (R,) bool, the ray meets the surface.
        alpha: sharpness, 1 / object unit.
        rim_mask: (R,) bool, rays that count also where they hit inside the mask; None: no ray.
        weight: (R,) of the rays in the mean; None: all 1.
    Returns:
        Scalar, differentiable in the SDF's parameters.
    """
    counts = ~(hit_mask & masks) if rim_mask is None else ~(hit_mask & masks) | rim_mask
    counts = counts & rays.sphere_mask
    # off the mask a far ray's term vanishes; on it, it is the greatest of all
    limits = torch.where(masks, torch.inf, NEGLIGIBLE / alpha)
    index, points = evaluator.minimum_sdf(sdf, rays, counts, limits)
    weights = counts[index] if weight is None else counts[index] * weight[index]

    def terms(values: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        return soft_mask_terms(values, mask, alpha) * weight

    if rays.dirs_obj.requires_grad:
        points = rays[index].through(points)
    return evaluator.sum_of_values(sdf, terms, points, masks[index], weights) / len(rays)


def soft_mask_terms(minimum_sdf: Tensor, mask: Tensor, alpha: float) -> Tensor:
    """Silhouette loss of each ray: BCE(sigmoid(-alpha Phi_min), mask).

    Args:
        minimum_sdf: (R,) minimum SDF along each ray, object units.
        mask: (R,) bool, object in the photograph.
        alpha: sharpness, 1 / object unit.
    Returns:
        (R,). Differentiable in minimum_sdf.
    """
    return F.binary_cross_entropy_with_logits(-alpha * minimum_sdf, mask.to(minimum_sdf.dtype),
                                              reduction="none")


def eikonal_loss(evaluator: Tracer, sdf: Sdf, points_obj: Tensor, metric: str = "l2", *,
                 num_drawn: int | None = None) -> Tensor:
    """Eikonal term: mean over the drawn points of how far |grad Phi| is from 1.

    Args:
        points_obj: (N, 3), those of the drawn points that count.
        num_drawn: how many were drawn; those that are left out count as 0. None: N.
    Returns:
        Scalar, 0 without points; differentiable in the SDF's parameters.
    """
    terms = partial(eikonal_terms, metric=metric)
    count = len(points_obj) if num_drawn is None else num_drawn
    return evaluator.sum_of_gradients(sdf, terms, points_obj) / max(count, 1)


def eikonal_terms(gradient: Tensor, metric: str = "l2") -> Tensor:
    """How far |grad Phi| is from 1 at each point: squared (l2) or absolute (l1).

    Args:
        gradient: (N, 3) gradients of the SDF.
    Returns:
        (N,).
    """
    deviation = gradient.norm(dim=-1) - 1
    return deviation.square() if metric == "l2" else deviation.abs()


def photo_consistency_loss(ours: Tensor, theirs: Tensor, counts_mask: Tensor, *,
                           window: int = WINDOW, num_best: int = NUM_BEST) -> Tensor:
    """Mean over pixels of 1 - NCC with the best few of the sources that see their windows.

    A source that is occluded, or in which the surface shines, does not fit and drops out.

    Args:
        ours: (T, h, w) grey values of the targets.
        theirs: (K, T, h, w) of the sources, at the targets' points of the surface.
        counts_mask: (K, T, h, w) bool, target and source both show the object there.
        window: side, pixels, odd.
        num_best: how many sources count at most.
    Returns:
        Scalar in [0, 2], 0 where no source sees any window. Differentiable in ours and theirs.
    """
    ncc, fraction = windowed_correlation(ours, theirs, counts_mask, window)
    seen = counts_mask & (fraction >= MIN_FRACTION)
    best = torch.where(seen, ncc, -2.0).topk(min(num_best, len(ncc)), 0).values    # (M, T, h, w)
    used = best > -1.5
    per_pixel = ((1 - best) * used).sum(0) / used.sum(0).clamp(min=1)
    return per_pixel.sum() / used.any(0).sum().clamp(min=1)


def windowed_correlation(ours: Tensor, theirs: Tensor, counts_mask: Tensor,
                         window: int) -> tuple[Tensor, Tensor]:
    """NCC of the windows about all pixels: the correlation of grey values about their means.

    cov(a, b) / sqrt((var(a) + v) (var(b) + v)) over the pixels that count; v, the variance of
    noise, damps windows without texture towards 0.

    Args:
        ours, theirs, counts_mask, window: as in `photo_consistency_loss`.
    Returns:
        NCC (K, T, h, w) in [-1, 1], and the fraction of each window that counts.
    """
    def mean(maps: Tensor) -> Tensor:
        """Mean over the windows of (K, T, h, w), 0 beyond the border."""
        flat = F.avg_pool2d(maps.flatten(0, 1)[:, None], window, 1, window // 2)
        return flat.reshape(maps.shape)

    weight = counts_mask.to(theirs.dtype)
    a, b = ours * weight, theirs * weight
    fraction = mean(weight)
    share = fraction.clamp(min=1 / window ** 2)
    mean_a, mean_b = mean(a) / share, mean(b) / share
    covariance = mean(a * b) / share - mean_a * mean_b
    variances = [(mean(x * x) / share - mean_x * mean_x).clamp(min=0) + NOISE_VARIANCE
                 for x, mean_x in ((a, mean_a), (b, mean_b))]
    return covariance / (variances[0] * variances[1]).sqrt(), fraction


def match_points_loss(evaluator: Tracer, sdf: Sdf, points_obj: Tensor,
                      counts_mask: Tensor) -> Tensor:
    """Mean over the matched points that count of how far Phi is from 0 there; Huber's, truncated.

    With p = min(|Phi|, MATCH_REACH): p^2 / (2 MATCH_NOISE) up to MATCH_NOISE, p - MATCH_NOISE / 2
    from there on.

    Args:
        evaluator: evaluates Phi.
        points_obj: (N, 3) on the surface, but for mistaken ones; constants.
        counts_mask: (N,) bool, the views that the point was matched in still see it.
    Returns:
        Scalar, 0 where no point counts. Differentiable in the SDF's parameters.
    """
    weight = counts_mask.to(points_obj.dtype)
    return evaluator.sum_of_values(sdf, match_terms, points_obj, weight) / weight.sum().clamp(min=1)


def match_terms(values: Tensor, weight: Tensor) -> Tensor:
    """Terms (N,) of `match_points_loss`, from Phi (N,) and weights (N,)."""
    away = values.abs().clamp(max=MATCH_REACH)
    near = away.clamp(max=MATCH_NOISE)
    return weight * (near.square() / (2 * MATCH_NOISE) + away - near)


def surface_point_losses(sdf: Sdf, points_obj: Tensor,
                         normals_obj: Tensor | None) -> dict[str, Tensor]:
    """Losses at known points of the surface: "on_surface", and "normal" where normals are known.

    Args:
        points_obj: (N, 3) on the surface.
        normals_obj: (N, 3) unit, outward; None: not known.
    Returns:
        Scalars, differentiable in the SDF's parameters.
    """
    values, gradients = gradient(sdf, points_obj, create_graph=True)
    losses = {"on_surface": on_surface_loss(values)}
    if normals_obj is not None:
        losses["normal"] = normal_loss(gradients, normals_obj)
    return losses


def on_surface_loss(sdf: Tensor) -> Tensor:
    """Mean |Phi| at points (N,) of the surface."""
    return sdf.abs().mean()


def off_surface_loss(sdf: Tensor) -> Tensor:
    """Mean exp(-100 |Phi|) at points (N,) away from the surface."""
    return torch.exp(-OFF_SURFACE_SHARPNESS * sdf.abs()).mean()


def normal_loss(gradient: Tensor, normals: Tensor) -> Tensor:
    """Mean 1 - cos between gradients (N, 3) and true normals (N, 3)."""
    return (1 - F.cosine_similarity(gradient, normals, dim=-1)).mean()
