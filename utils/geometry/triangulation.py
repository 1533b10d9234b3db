"""Points of space from where several cameras see them, in closed form."""
from __future__ import annotations

import torch
from torch import Tensor

from utils.geometry.cameras import Cameras


def triangulate(cameras: Cameras, xy_ndc: Tensor, seen_mask: Tensor) -> Tensor:
    """Points whose squared distances from the rays of the views that see them have the least sum.

    x = (sum_v P_v)^-1 sum_v P_v o_v with P_v = I - d_v d_v^T, the projection across ray v.

    Args:
        cameras: V cameras.
        xy_ndc: (N, V, 2) where each view shows each point.
        seen_mask: (N, V) bool, the view shows the point.
    Returns:
        (N, 3) object space, the dtype of `xy_ndc`. No meaning where fewer than two views that see
        the point have different rays, but no error either; no gradient, and no host waits.
    """
    with torch.no_grad():
        origins, dirs = rays_at(cameras, xy_ndc)                       # (N, V, 3)
        across = torch.eye(3, dtype=torch.float64, device=dirs.device) - \
            dirs[..., :, None] * dirs[..., None, :]                    # (N, V, 3, 3)
        across = across * seen_mask[..., None, None]
        right = (across @ origins[..., None]).sum(1)                   # (N, 3, 1)
        inverse = torch.linalg.inv_ex(across.sum(1)).inverse
        return (inverse @ right)[..., 0].to(xy_ndc.dtype)


def rays_at(cameras: Cameras, xy_ndc: Tensor) -> tuple[Tensor, Tensor]:
    """The rays of V views through a place of each one's own.

    Args:
        cameras: V cameras.
        xy_ndc: (N, V, 2).
    Returns:
        Origins (N, V, 3) and unit directions (N, V, 3), object space, float64.
    """
    cameras, xy_ndc = cameras.to(torch.float64), xy_ndc.to(torch.float64)
    rays = [cameras[view].rays_through(xy_ndc[:, view]) for view in range(len(cameras))]
    origins, dirs = (torch.cat(part).transpose(0, 1) for part in zip(*rays, strict=True))
    return origins, dirs


def largest_angles(cameras: Cameras, xy_ndc: Tensor, seen_mask: Tensor) -> Tensor:
    """The largest angle (N,), degrees, between two rays of the views that see each point; 0 with
    fewer than two views. Arguments as in `triangulate`."""
    _, dirs = rays_at(cameras, xy_ndc)
    cosine = dirs @ dirs.transpose(1, 2)                               # (N, V, V)
    both = seen_mask[:, :, None] & seen_mask[:, None]
    least = torch.where(both, cosine, 1.0).amin((1, 2))
    return torch.rad2deg(torch.acos(least.clamp(-1, 1)))


def reprojection_errors(cameras: Cameras, points_obj: Tensor, xy_ndc: Tensor) -> Tensor:
    """How far each view shows points (N, 3) from where it should: (N, V) pixels.

    Infinite behind a camera. Other arguments as in `triangulate`.
    """
    projected, depth = cameras.to(points_obj.dtype).project(points_obj)          # (V, N, 2), (V, N)
    half = torch.tensor(cameras.resolution, dtype=projected.dtype, device=projected.device) / 2
    errors = ((projected.transpose(0, 1) - xy_ndc) * half).norm(dim=-1)
    return torch.where(depth.T > 0, errors, torch.inf)
