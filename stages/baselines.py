"""What image-based rendering reaches without any network: known surface, source colours.

The surface is the visual hull of the training masks, or stereo inside it; colours of the training
photographs are blended by the angle between their rays and the new view's (`--baseline`).
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from data_processing.stereo.blending import blend_colours, trace_grid
from data_processing.stereo.stereo_start import stereo_surface, why_no_stereo
from stages.evaluation import TrainedScene
from stages.shape_fitting import carve_start
from utils.errors import SceneError
from utils.geometry.visual_hull import Hull
from utils.results.evaluation import RenderedView, evaluate_views, summarise
from utils.results.lpips import LPIPS
from utils.views.training_views import Sources

log = logging.getLogger(__name__)

HULL, STEREO = "hull + colours", "stereo + colours"


def baseline_metrics(trained: TrainedScene, lpips: LPIPS | None = None) -> dict[str, Any]:
    """Return mean metrics of the baselines, on the views that a trained scene is scored on.

    Args:
        trained: its model does not take part.
        lpips: None leaves its metric empty.
    Returns:
        mean metrics by baseline. One that cannot be made is left out with a warning.
    """
    found = {}
    for name, grid in _surfaces(trained).items():
        views = evaluate_views(_rendered_on(trained, grid), trained.scene, trained.scored,
                               lpips=lpips)
        found[name] = summarise(views)["mean"]
    return found


def _surfaces(trained: TrainedScene) -> dict[str, Hull]:
    """Grids on the CPU, by baseline."""
    scene, train = trained.scene, list(trained.train)
    if not scene.has_masks:
        log.warning("--baseline: the scene has no masks, so that there is no hull to render on")
        return {}
    views = (scene.cameras[train], scene.images[train], scene.masks[train])
    try:
        hull = carve_start(views[0], views[2], str(scene.path or scene.name))
    except SceneError as error:
        log.warning("--baseline: %s", error)
        return {}
    reason = why_no_stereo(views[0], hull)
    if reason:
        log.warning("--baseline: no stereo, as %s", reason)
        return {HULL: hull}
    return {HULL: hull, STEREO: stereo_surface(*views, hull).grid}


def _rendered_on(trained: TrainedScene, grid: Hull) -> Callable[[int], RenderedView]:
    """Render views of the scene on a grid, in the colours of the training photographs."""
    scene, train = trained.scene, list(trained.train)
    cameras = scene.cameras[train]
    sources = Sources(cameras, scene.images[train], scene.masks[train],
                          trace_grid(grid, cameras)[0])

    @torch.no_grad()
    def rendered(view: int) -> RenderedView:
        """Return one view of the scene, kept from feeding itself."""
        surface, dirs = trace_grid(grid, scene.cameras[view])
        own = train.index(view) if view in train else None
        image = blend_colours(surface, dirs, sources, exclude=own)[0]
        nothing = torch.zeros_like(image)
        return RenderedView(image, surface.hit_mask[0], nothing, nothing[:1])

    return rendered
