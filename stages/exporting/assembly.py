"""What an exported scene holds, collected from a trained model; its small networks not yet taught.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from realtime.maps import quantise_depths, quantise_features
from realtime.scene import ExportedScene, TriangleMesh, straight_cameras
from realtime.students import StudentAggregation, StudentDecoder
from stages.view_rendering import ViewRenderer
from utils.geometry.cameras import Cameras

#: Pixels about the mask whose features, colours and depths are kept: a sample at its border reads
#: one pixel beyond.
MARGIN = 2
#: How much a source view counts by its direction, for each --feature_aggregation_method.
PRIOR_OF = {"lumigraph": "cosine", "lumigraph_epipolar": "angle", "learned_prior": "angle"}


@dataclass(frozen=True)
class Facts:
    """What the exported scene says of itself.

    Attributes:
        name, made_by: any text.
        view_names: of the source views.
        background: RGB in [0, 1].
    """

    name: str
    made_by: str
    view_names: tuple[str, ...]
    background: tuple[float, float, float]


def assemble(renderer: ViewRenderer, mesh: TriangleMesh, facts: Facts) -> ExportedScene:
    """Return the exported scene of a trained model, its small networks with random weights.

    Args:
        renderer: of the trained model; its sources are all training views.
        mesh: the surface.
        facts: see there.
    """
    sources, model = renderer.sources, renderer.model
    cameras = straight_cameras(sources.cameras.to("cpu", torch.float32))
    masks = sources.masks.cpu()
    kept = grown(masks, MARGIN)
    features = model.without_residuals(renderer.features).float().cpu()
    background = torch.tensor(facts.background)[:, None, None]
    photographs = torch.where(kept, sources.images.float().cpu(), background)
    depth = depths_of(cameras, sources.surface.points_obj.float().cpu())
    near_mask = grown(sources.surface.hit_mask.cpu(), MARGIN) & kept
    picture = (photographs[len(photographs) // 2] * 255).round().to(torch.uint8)
    num_features = features.shape[1]
    prior = PRIOR_OF.get(model.settings.aggregation, "none")
    return ExportedScene(
        facts.name, facts.made_by, facts.view_names, cameras,
        (photographs * 255).round().to(torch.uint8), masks, quantise_features(features, kept),
        quantise_depths(depth, near_mask), mesh, StudentAggregation(num_features, prior=prior),
        StudentDecoder(num_features), renderer.occ_threshold ** 0.5, facts.background,
        upright(cameras), picture.permute(1, 2, 0).contiguous().numpy())


def grown(masks: Tensor, by: int) -> Tensor:
    """Return masks (V, 1, H, W) widened by some pixels."""
    return F.max_pool2d(masks.float(), 2 * by + 1, 1, by) > 0


def depths_of(cameras: Cameras, points_obj: Tensor) -> Tensor:
    """Return how far points (V, 3, H, W) are along their own cameras' axes, (V, 1, H, W)."""
    row = cameras.object_to_camera[:, 2]
    return -(torch.einsum("vc,vchw->vhw", row[:, :3], points_obj) + row[:, 3, None, None])[:, None]


def upright(cameras: Cameras) -> tuple[float, float, float]:
    """Return the unit vector that cameras hold upright on average, object space."""
    up = cameras.object_to_camera[:, 1, :3].double().mean(0)
    up = up if up.norm() > 0.1 else torch.tensor([0.0, 1.0, 0.0]).double()
    x, y, z = F.normalize(up, dim=0).tolist()
    return x, y, z


def as_picture(image: Tensor) -> np.ndarray:
    """Return an image (3, H, W) in [0, 1] as (H, W, 3) uint8."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
