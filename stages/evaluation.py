"""A trained scene as it is scored and shown: each view rendered once, then metrics and image grids.

Scores during training, the image grids of TensorBoard and the results at the end all look at the
same renderings, as long as the weights are the same.
"""
from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdf_meshing import Mesh, extract_mesh, mesh_chamfer
from stages.replaying.frames import ReplayingRenderer
from stages.replaying.steps import ReplayingTrainer
from stages.view_rendering import Rendering, ViewRenderer, make_renderer
from training import SceneTrainer
from utils.geometry.cameras import Cameras
from utils.results.evaluation import RenderedView, cloud_error, evaluate_views, summarise
from utils.results.metric_table import METRICS, finite
from utils.results.metrics import Chamfer, CloudDistance, psnr
from utils.results.pictures import (
    DISTANCE_BAR,
    distances_to_rgb,
    image_grid,
    on_white,
    source_grid,
    view_grid,
    view_pictures,
)
from utils.results.plots import camera_plot, sdf_slices
from utils.views.pose_refinement import moved_along

log = logging.getLogger(__name__)

MAX_GRID_VIEWS = 6                # views of an image grid
SLICE_RESOLUTION = 128
CURVE_MESH_RESOLUTION = 128       # of the meshes that are measured while a run trains
LATE_STEP = 10**9                 # after all that changes with the step
#: Image grids by name, with their captions.
IMAGE_GRIDS = {"views": "Rendered views against their photographs",
               "sources": "Source views, their masks and their weight in the first view above",
               "cloud": "Distance of the surface to the point cloud",
               "slices": "The SDF in three planes of object space, the length of its gradient and "
                         "its Laplacian",
               "cameras": "Cameras round the unit sphere"}


@dataclass(frozen=True)
class TrainedScene:
    """A model in front of its scene: all that scores, image grids and results are made from.

    Attributes:
        scene: has images, masks, cameras, view_names, surface_points_world.
        train, scored: indices of the training views, and of those that are scored.
        render: cameras (T) and the index of a view that must not feed itself, or None, to a
            rendering with images, hit_mask, normals_obj, depth, weights.
        sdf: points (N, 3) to (N,).
        visible: points (N, 3) to (K, N) bool, which training views see them.
        device: of sdf.
        cloud: distances to the scene's point cloud; None: it has none.
        given_cameras: V cameras before they were refined; None: they were not.
        dead_features: how many of E's features are 0 everywhere in all sources; None: there is no
            E.
    """

    scene: Any
    train: tuple[int, ...]
    scored: tuple[int, ...]
    render: Callable[[Cameras, int | None], Rendering]
    sdf: Callable[[Tensor], Tensor]
    visible: Callable[[Tensor], Tensor]
    device: torch.device
    cloud: CloudDistance | None = None
    given_cameras: Cameras | None = None
    dead_features: int | None = None
    _rendered: dict[int, RenderedView] = field(default_factory=dict, init=False, repr=False)
    _psnr: dict[int, float | None] = field(default_factory=dict, init=False, repr=False)

    def rendered(self, view: int) -> RenderedView:
        """Return one view of the scene, kept from feeding itself.

        It is rendered when it is first asked for, and kept on the CPU: 41 bytes a pixel. Blending
        weights are kept for the first scored view alone, whose sources are shown.
        """
        if view not in self._rendered:
            start = time.perf_counter()
            found = self.render(self.scene.cameras[view], view)
            image = found.images[0].detach().cpu().float()             # waits for a GPU
            seconds = time.perf_counter() - start
            weights = found.weights[:, 0].cpu() if view == self.scored[0] else None
            self._rendered[view] = RenderedView(
                image, found.hit_mask[0].detach().cpu(), found.normals_obj[0].detach().cpu(),
                found.depth[0].detach().cpu(), weights, found.points_obj[0].detach().cpu(), seconds)
        return self._rendered[view]

    def wider_means(self) -> dict[str, float | None]:
        """Return PSNR over all held-out views and over the training views, by name of metric.

        A training view is kept from feeding itself. None where there is no such view. Of views
        that are not scored the PSNR alone is kept.
        """
        held_out = sorted(set(range(len(self.scene))) - set(self.train))
        return {"psnr_all": self._mean_psnr(held_out), "psnr_train": self._mean_psnr(self.train)}

    def distance_of(self, mesh: Mesh) -> Chamfer | None:
        """Return the mesh's distance to the true surface points, world units; None without any."""
        points, normals = self.scene.surface_points_world, self.scene.surface_normals_world
        if points is None:
            return None
        return mesh_chamfer(mesh, points.numpy(), self.scene.cameras.model,
                            normals_world=None if normals is None else normals.numpy(),
                            visible=self.visible_on_cpu)

    def visible_on_cpu(self, points: Tensor) -> Tensor:
        """Return `visible` of points on the CPU."""
        return self.visible(points.to(self.device)).cpu()

    def _mean_psnr(self, views: Sequence[int]) -> float | None:
        """Return the mean PSNR of the views whose rendering is finite; None where there is none."""
        for view in views:
            if view not in self._psnr:
                image = self.rendered(view).image if view in self.scored else \
                    self.render(self.scene.cameras[view], view).images[0]
                self._psnr[view] = finite(psnr(image, self.scene.images[view],
                                               self.scene.masks[view]))
        known = [value for view in views if (value := self._psnr[view]) is not None]
        return sum(known) / len(known) if known else None


class SceneEvaluation:
    """Scores a scene's held-out views and draws its image grids; an `Evaluation` of `training`.

    Args:
        scene, split: `data_processing`'s.
        all_views: score every view, not the held-out ones alone.
        scores_all: scores also have the means over all held-out and over the training views.
        cloud: see `TrainedScene`.
    """

    def __init__(self, scene: Any, split: Any, *, all_views: bool = False,
                 scores_all: bool = False, cloud: CloudDistance | None = None) -> None:
        self.scene, self.views, self.cloud = scene, split, cloud
        self.all_views, self.scores_all = all_views, scores_all
        self.split = {"train": list(split.train), "test": list(split.test)}
        self._latest: tuple[int, TrainedScene] | None = None
        self._num_dead: int | None = 0

    def score(self, trainer: SceneTrainer, step: int) -> dict[str, float]:
        """Return mean metrics of the held-out views after `step` steps."""
        return mean_metrics(self.trained_scene(trainer, step), is_wide=self.scores_all)

    def pictures(self, trainer: SceneTrainer, step: int) -> dict[str, np.ndarray]:
        """Return image grids by name after `step` steps."""
        return image_grids(self.trained_scene(trainer, step))

    def trained_scene(self, trainer: SceneTrainer, step: int) -> TrainedScene:
        """Return the model as it is after `step` steps, in front of the scene.

        It is the same object, with the views that are rendered already, until `forget`.
        """
        if self._latest is None or self._latest[0] != step:
            self._latest = step, trained_scene_of(trainer, self.scene, self.views, step=step,
                                                  all_views=self.all_views, cloud=self.cloud)
            dead = self._latest[1].dead_features
            if dead not in (None, self._num_dead):
                log.info("after step %d: %d features of the encoder are 0 in all photographs", step,
                         dead)
            self._num_dead = dead
        return self._latest[1]

    def forget(self) -> None:
        """Let go of all renderings, as the weights are about to change; this frees their memory."""
        self._latest = None


def trained_scene_of(trainer: SceneTrainer, scene: Any, split: Any, *, step: int | None,
                     all_views: bool = False,
                     renderer: ViewRenderer | None = None,
                     cloud: CloudDistance | None = None) -> TrainedScene:
    """Return the model as it is after `step` steps, in front of its scene.

    Args:
        trainer: its training views are the scene's views `split.train`.
        scene, split: `data_processing`'s.
        step: tells the occlusion threshold, see `current_renderer`.
        all_views: score every view; else the held-out ones, or all training views if there are
            none.
        renderer: of the trainer's views; None: `current_renderer`.
        cloud: see `TrainedScene`.
    """
    renderer = current_renderer(trainer, step) if renderer is None else renderer
    scored = tuple(range(len(scene))) if all_views else split.test or split.train

    def render(cameras: Cameras, view: int | None) -> Rendering:
        return renderer(cameras, split.train.index(view) if view in split.train else None)

    return TrainedScene(scene_as_trained(trainer, scene, split), split.train, scored, render,
                        renderer.model.sdf, renderer.visible, trainer.device, cloud=cloud,
                        given_cameras=scene.cameras if trainer.is_refined else None,
                        dead_features=num_dead_features(renderer))


def num_dead_features(renderer: ViewRenderer) -> int | None:
    """Return how many of E's features are 0 everywhere in all sources; None without an E.

    E ends with a ReLU, through which such a feature gets no gradient either.
    """
    if renderer.model.settings.feature_type == "rgb":
        return None
    features = renderer.model.without_residuals(renderer.features)     # (K, C, H, W)
    return int((features.amax((0, 2, 3)) <= 0).sum())


def cloud_of(scene: Any, cloud: Any) -> CloudDistance | None:
    """Return the distances to a scene's point cloud, else to its true surface points, if any.

    Args:
        scene: `data_processing`'s.
        cloud: has points_obj (N, 3), object space; None: the folder has none.
    """
    model = scene.cameras.model.detach().cpu().double()
    if cloud is not None:
        points = cloud.points_obj.double() @ model[:3, :3].T + model[:3, 3]
        return CloudDistance(points.numpy(), model)
    if scene.surface_points_world is None:
        return None
    return CloudDistance(scene.surface_points_world.numpy(), model)


def current_renderer(trainer: SceneTrainer, step: int | None) -> ViewRenderer:
    """Return a renderer from all training views, with the weights of this moment.

    Args:
        trainer: has views and weights, the average ones where there is an average.
        step: tells the occlusion threshold, which is the one training ended with; None: not
            known, and the last one of all is taken.
    """
    last_step = LATE_STEP if step is None else max(step - 1, 0)
    found = make_renderer(trainer.average.averaged_model(), trainer.current_views(),
                          occ_threshold=trainer.plan(last_step).occ_threshold,
                          tracer=trainer.tracer)
    return ReplayingRenderer(found) if isinstance(trainer, ReplayingTrainer) else found


def scene_as_trained(trainer: SceneTrainer, scene: Any, split: Any) -> Any:
    """Return the scene with the trainer's cameras.

    Refined training cameras take the given ones' places. The others stay as they are given, but
    for the similarity by which the refined cameras as a whole differ (`moved_along`).
    """
    if not trainer.is_refined:
        return scene
    return _with_refined(scene, list(split.train), trainer.current_views().cameras.to("cpu"))


def mean_metrics(trained: TrainedScene, *, is_wide: bool = False) -> dict[str, float]:
    """Return mean metrics of the scored views, for curves; LPIPS and pictures are left out.

    Args:
        is_wide: also `TrainedScene.wider_means`, and where the scene has true surface points, the
            distances of a mesh to them.
    """
    found = evaluate_views(trained.rendered, trained.scene, trained.scored, cloud=trained.cloud)
    means = summarise(found, wider=trained.wider_means() if is_wide else None)["mean"]
    means = {name: value for name, value in means.items() if METRICS[name].shown != "never"}
    means |= {f"pcd_error_{name}": view.pcd_error for name, view in found.items()}
    if trained.dead_features is not None:
        means["dead_features"] = float(trained.dead_features)
    if is_wide:
        means |= _distances(trained)
    return {name: value for name, value in means.items() if value is not None}


def _distances(trained: TrainedScene) -> dict[str, float | None]:
    """Return the distances of a mesh to the true surface points by name; empty without any."""
    if trained.scene.surface_points_world is None:
        return {}
    found = trained.distance_of(extract_mesh(trained.sdf, resolution=CURVE_MESH_RESOLUTION,
                                             device=trained.device))
    return {} if found is None else {
        "chamfer": found.mean, "accuracy": found.accuracy, "completeness": found.completeness,
        "normal_degrees": found.normal_degrees}


def image_grids(trained: TrainedScene,
                names: Sequence[str] = tuple(IMAGE_GRIDS)) -> dict[str, np.ndarray]:
    """Return image grids by name, those of IMAGE_GRIDS that are asked for."""
    draw = {"views": _view_grid, "sources": _source_grid, "cloud": _cloud_grid,
            "slices": lambda trained: sdf_slices(trained.sdf, SLICE_RESOLUTION,
                                                 device=trained.device),
            "cameras": lambda trained: camera_plot(trained.scene.cameras, trained.train,
                                                   trained.scored, given=trained.given_cameras)}
    return {name: draw[name](trained) for name in names
            if name != "cloud" or trained.cloud is not None}


def _view_grid(trained: TrainedScene) -> np.ndarray:
    """Draw the first scored views beside their photographs."""
    scene, views, rows = trained.scene, trained.scored[:MAX_GRID_VIEWS], []
    for view in views:
        found = trained.rendered(view)
        rows.append(view_pictures(
            found.image.clamp(0, 1), scene.images[view], scene.masks[view],
            hit_mask=found.hit_mask, normals=found.normals_obj, depth=found.depth))
    return view_grid(rows, [f"view {scene.view_names[view]}" for view in views])


def _cloud_grid(trained: TrainedScene) -> np.ndarray:
    """Draw how far the first scored views' surface is from the point cloud."""
    assert trained.cloud is not None, "the grid is left out without one"
    views, rows, captions = trained.scored[:MAX_GRID_VIEWS], [], []
    for view in views:
        found = trained.rendered(view)
        assert found.points_obj is not None, "renderers give them"
        distances = trained.cloud(found.points_obj, found.hit_mask)
        error = METRICS["pcd_error"].text(cloud_error(distances, found.hit_mask))
        rows.append([on_white(found.image.clamp(0, 1), found.hit_mask),
                     distances_to_rgb(distances, found.hit_mask)])
        captions.append(("", f"mean {error}"))
    return image_grid(rows, [f"view {trained.scene.view_names[view]}" for view in views],
                      ["prediction", "distance to the cloud,\nworld units"], captions=captions,
                      bars={1: DISTANCE_BAR})


def _source_grid(trained: TrainedScene) -> np.ndarray:
    """Draw the source views with their weights in the first scored view."""
    scene, train, first = trained.scene, list(trained.train), trained.scored[0]
    weights = trained.rendered(first).weights                          # (K, H, W)
    assert weights is not None, "they are kept for the first scored view"
    return source_grid(scene.images[train], scene.masks[train], weights[:, None],
                       [scene.view_names[view] for view in train],
                       f"source views of {scene.view_names[first]}")


def _with_refined(scene: Any, train: list[int], refined: Cameras) -> Any:
    """Return the scene with refined training cameras (V,), the others in their frame."""
    view = moved_along(scene.cameras, scene.cameras[train], refined).view
    view[train] = refined.view
    return replace(scene, cameras=replace(scene.cameras, view=view))
