"""A trained scene as it is scored and shown: renderings, metrics, image grids."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.view_rendering import make_renderer
from training import SceneTrainer
from utils.geometry.cameras import Cameras
from utils.results.evaluation import evaluate_views, summarise
from utils.results.pictures import source_sheet, view_pictures, view_sheet
from utils.results.plots import camera_plot, sdf_slices
from utils.views.pose_refinement import moved_along

MAX_SHEET_VIEWS = 6               # views of the picture sheet
SLICE_RESOLUTION = 128
#: Picture sheets by name, with their captions.
SHEETS = {"views": "Rendered views against their photographs",
          "sources": "Source views, their masks and their weight in the first view above",
          "slices": "The SDF in three planes of object space",
          "cameras": "Cameras round the unit sphere"}


@dataclass(frozen=True)
class Exhibit:
    """A model in front of its scene, all that results are made from.

    Attributes:
        scene: has images, masks, cameras, view_names, surface_points_world.
        train, scored: indices of the training views, and of those that are scored.
        render: cameras (T) and the index of a view that must not feed itself, or None, to a
            rendering with images, hit_mask, normals_obj, depth, weights.
        sdf: points (N, 3) to (N,).
        visible: points (N, 3) to (K, N) bool, which training views see them.
        device: of sdf.
    """

    scene: Any
    train: tuple[int, ...]
    scored: tuple[int, ...]
    render: Callable[[Cameras, int | None], Any]
    sdf: Callable[[Tensor], Tensor]
    visible: Callable[[Tensor], Tensor]
    device: torch.device


def mean_figures(exhibit: Exhibit) -> dict[str, float]:
    """Mean figures of the scored views, for curves; LPIPS and pictures are left out."""
    found = evaluate_views(exhibit.render, exhibit.scene, exhibit.scored, exclude_self=True)
    return {name: value for name, value in summarise(found)["mean"].items() if value is not None}


def picture_sheets(exhibit: Exhibit, names: Sequence[str] = tuple(SHEETS)) -> dict[str, np.ndarray]:
    """Sheets by name, those of SHEETS that are asked for."""
    sheets = _view_sheets(exhibit) if {"views", "sources"} & set(names) else {}
    if "slices" in names:
        sheets["slices"] = sdf_slices(exhibit.sdf, SLICE_RESOLUTION, device=exhibit.device)
    if "cameras" in names:
        sheets["cameras"] = camera_plot(exhibit.scene.cameras, exhibit.train, exhibit.scored)
    return {name: sheets[name] for name in names}


def _view_sheets(exhibit: Exhibit) -> dict[str, np.ndarray]:
    """Scored views, and the sources with their weights in the first of them."""
    scene, views = exhibit.scene, exhibit.scored[:MAX_SHEET_VIEWS]
    rows, weights = [], None
    for view in views:
        found = exhibit.render(scene.cameras[view], view)
        weights = found.weights[:, 0].cpu() if weights is None else weights
        rows.append(view_pictures(
            found.images[0].cpu().clamp(0, 1), scene.images[view], scene.masks[view],
            hit_mask=found.hit_mask[0].cpu(), normals=found.normals_obj[0].cpu(),
            depth=found.depth[0].cpu()))
    train = list(exhibit.train)
    names = [scene.view_names[view] for view in train]
    return {
        "views": view_sheet(rows, [f"view {scene.view_names[view]}" for view in views]),
        "sources": source_sheet(scene.images[train], scene.masks[train], weights[:, None], names,
                                f"source views of {scene.view_names[views[0]]}")}


def exhibit_of(trainer: SceneTrainer, scene: Any, split: Any, *, step: int,
               all_views: bool = False) -> Exhibit:
    """The model as it is after `step` steps, in front of its scene.

    Refined training cameras take the given ones' places. The others stay as they are given, but
    for the similarity by which the refined cameras as a whole differ (`moved_along`).

    Args:
        trainer: its training views are the scene's views `split.train`.
        scene, split: `data_processing`'s.
        step: tells the occlusion threshold, which is the one training ended with.
        all_views: score every view; else the withheld, or all training views if none is withheld.
    """
    occ_threshold = trainer.plan(max(step - 1, 0)).occ_threshold
    model, views = trainer.average.averaged_model(), trainer.current_views()
    renderer = make_renderer(model, views, occ_threshold=occ_threshold, tracer=trainer.tracer)
    if trainer.is_refined:
        scene = _with_refined(scene, list(split.train), views.cameras.to("cpu"))
    scored = tuple(range(len(scene))) if all_views else split.test or split.train

    def render(cameras: Cameras, view: int | None) -> Any:
        return renderer(cameras, split.train.index(view) if view in split.train else None)

    return Exhibit(scene, split.train, scored, render, trainer.model.sdf, renderer.visible,
                   trainer.views.images.device)


def _with_refined(scene: Any, train: list[int], refined: Cameras) -> Any:
    """The scene with refined training cameras (V,), the others in their frame."""
    view = moved_along(scene.cameras, scene.cameras[train], refined).view
    view[train] = refined.view
    return replace(scene, cameras=replace(scene.cameras, view=view))


class SceneEvaluation:
    """Scores a scene's held-out views and draws its image grids; an `Evaluation` of `training`.

    Args:
        scene, split: `data_processing`'s.
        all_views: score every view, not the held-out ones alone.
    """

    def __init__(self, scene: Any, split: Any, *, all_views: bool = False) -> None:
        self.scene, self.views, self.all_views = scene, split, all_views
        self.split = {"train": list(split.train), "test": list(split.test)}

    def score(self, trainer: SceneTrainer, step: int) -> dict[str, float]:
        """Return mean metrics of the held-out views after `step` steps."""
        return mean_figures(self.exhibit(trainer, step))

    def pictures(self, trainer: SceneTrainer, step: int) -> dict[str, np.ndarray]:
        """Return image grids by name after `step` steps."""
        return picture_sheets(self.exhibit(trainer, step))

    def exhibit(self, trainer: SceneTrainer, step: int) -> Exhibit:
        """Return the model as it is after `step` steps, in front of the scene."""
        return exhibit_of(trainer, self.scene, self.views, step=step, all_views=self.all_views)
