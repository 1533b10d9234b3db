"""A textured ball's views, and image-based models of it, for tests of blending and rendering."""
from __future__ import annotations

import torch
from torch import nn

from data_processing.synthetic import analytic_sdf as solids
from modules_sdf import BlendSettings, ImageBasedModel
from sdf_rendering import ReferenceTracer
from stages.models import build_model
from stages.view_rendering import make_renderer, trace_views
from utils.config.sections import CnnConfig, RunConfig, SdfConfig, ViewsConfig
from utils.fast.image_networks.execution import FastExecution
from utils.geometry.cameras import Cameras
from utils.views.training_views import TrainingViews

SIZE = (20, 16)
EYES = [(0.0, 0.3, 3.0), (0.8, 0.0, 2.9), (-0.9, 0.2, 2.8), (0.2, -0.9, 2.8)]
RADIUS = 0.6
THRESHOLD = 1e-3


class Ball(nn.Module):
    """A sphere with its radius as parameter."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.radius = nn.Parameter(torch.tensor(RADIUS, dtype=dtype))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return solids.sphere(self.radius)(points)


class DirectionWeight(nn.Module):
    """In the place of G: a weight that shows which directions and features came in."""

    def forward(self, features: torch.Tensor, dirs: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(3 * dirs[..., 0] + features[..., 0] - 0.5 * features[..., 1])


def rgb_model(aggregation: str = "mean", occlusion: str = "raytrace", *,
              is_compact: bool = False) -> ImageBasedModel:
    """Plain RGB features: no networks but the surface, float64."""
    settings = BlendSettings("rgb", aggregation, occlusion)
    return ImageBasedModel(Ball(), nn.Identity(), DirectionWeight(), decoder=nn.Identity(),
                           settings=settings, execution=FastExecution(is_compact=is_compact))


def texture(points: torch.Tensor) -> torch.Tensor:
    """(V, 3, H, W) smooth colours of surface points (V, 3, H, W)."""
    return 0.5 + 0.4 * torch.sin(2 * points + torch.tensor([0.0, 1, 2]).view(3, 1, 1).to(points))


def views_of(cameras: Cameras) -> TrainingViews:
    """Photographs of the textured ball; the texture goes on past its outline."""
    surface, _ = trace_views(Ball(cameras.view.dtype), cameras, ReferenceTracer())
    return TrainingViews(texture(surface.points_obj).detach(), surface.hit_mask, cameras)


def rendered(model: ImageBasedModel, views: TrainingViews, cameras: Cameras, **kwargs):
    renderer = make_renderer(model, views, occ_threshold=THRESHOLD, tracer=ReferenceTracer())
    return renderer(cameras, **kwargs)


def built(**cnn) -> ImageBasedModel:
    """The model of the flags, small surface."""
    torch.manual_seed(0)
    return build_model(SdfConfig(model_hidden_dims_sdf=8), CnnConfig(**cnn), ViewsConfig(),
                       RunConfig(device="cpu"))
