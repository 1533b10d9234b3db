"""One scene from its folder to its results: what the scripts that train a scene share.

It stands between the libraries and the scripts, as it joins the model (`modules_sdf`) with its
training (`training`), which know nothing of each other.
"""
from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from data_processing.scenes.opening import load_point_cloud, open_scene
from data_processing.scenes.pool import PoolScene
from data_processing.scenes.scene import Scene
from data_processing.scenes.splits import Split
from modules_sdf import ImageBasedModel, build_model
from sdf_meshing import Exhibit, mean_figures, picture_sheets, write_results
from stages.shape_fitting import carve_start, fit_hull
from training import SceneTrainer, build_scene_trainer
from utils.geometry.cameras import Cameras
from utils.config.parser import Config
from utils.errors import ConfigError, SceneError
from utils.runs.loop import Loop, loop_options, run_facts, steps_per_epoch
from utils.fast.memory import check_encoder_memory
from utils.views.pose_refinement import moved_along
from utils.runs.run import start_run
from utils.views.training_views import views_of


def train_scene(config: Config) -> str:
    """Data, model, training, results.

    Args:
        config: of a training script.
    Returns:
        The table of figures, and where the results are.
    """
    scene, split = open_scene(config.data, config.run.seed)
    run = start_run(config)
    start = SurfaceStart(scene, split, config, is_new=run.start is None)
    model = model_of(config, run.device)
    trainer = build_scene_trainer(model, views_of(scene, split.train, run.device), config,
                                  generator=run.generator,
                                  cloud=load_point_cloud(scene, config.data))
    check_memory(trainer)
    all_views = bool(config.test.benchmark_all_views)
    watch(trainer, scene, split, all_views=all_views)
    epoch = steps_per_epoch(config.views, len(split.train))
    loop = Loop(trainer, run, loop_options(config.run, epoch))
    loop.progress.seconds = start.seconds
    progress = loop.run(partial(start.begin, trainer))
    exhibit = exhibit_of(trainer, scene, split, step=progress.step, all_views=all_views)
    return write_results(exhibit, run.folder, test=config.test, data=config.data,
                         curve=progress.curve, facts=run_facts(run, progress))


class SurfaceStart:
    """What a scene's surface starts as, before its first step (`--init`).

    The hull is carved when this is made, so that masks which do not serve are told before anything
    is written; a run that goes on has its surface already.

    Args:
        scene, split: the hull is that of the training views.
        config: of a training script.
        is_new: the run does not go on from a checkpoint.
    Raises:
        SceneError: a hull is asked for, and the scene has no masks, or none that agree.
    """

    def __init__(self, scene: Scene, split: Split, config: Config, *, is_new: bool) -> None:
        begin, self.config, self.hull = time.perf_counter(), config, None
        if config.sdf.init == "hull":
            where = scene.path or scene.name
            if not scene.has_masks:
                raise SceneError(f"{where}: --init hull: the scene has no masks, need them to "
                                 "carve a hull; add them (experiment_scripts/import_scene.py "
                                 "makes them of a plain background), or give --init sphere")
            if is_new:
                train = list(split.train)
                self.hull = carve_start(scene.cameras[train], scene.masks[train], where)
        self.seconds = time.perf_counter() - begin     # part of the training's time

    def begin(self, trainer: SceneTrainer) -> None:
        """Fit the surface where it does not start as it is, and trace it."""
        if self.hull is not None:
            fit_hull(trainer.model.sdf, self.hull, trainer.generator)
        trainer.trace_first(self.config.data)


def check_meta(config: Config) -> None:
    """Raise ConfigError for flags that meta-training has no use for: they are of one scene."""
    for flag, plain in (("refine_cameras", config.views.refine_cameras == 0),
                        ("init", config.sdf.init == "sphere")):
        if not plain:
            raise ConfigError(f"--{flag} is of one scene, meta-training learns a start for many; "
                              "leave it out, and give it to test_sdf_ibr_meta.py")


def model_of(config: Config, device: torch.device) -> ImageBasedModel:
    """The model of the flags, with its first weights."""
    return build_model(config.sdf, config.cnn, config.views, config.run,
                       is_fast=config.tracing.tracer == "fast").to(device)


def check_memory(trainer: SceneTrainer) -> None:
    """Raise ConfigError where the machine is too small for a step; GPUs say so themselves.

    With crops of targets no source is encoded whole.
    """
    settings, views = trainer.model.settings, trainer.views
    is_whole = trainer.crops is None and settings.feature_type != "rgb"
    if is_whole and views.images.device.type == "cpu":
        check_encoder_memory(trainer.sampler.num_sources, views.cameras.resolution,
                             is_bf16=settings.precision == "bf16")


def task_on_scene(model: nn.Module, scene: PoolScene, generator: torch.Generator, *,
                  config: Config) -> SceneTrainer:
    """Training of a pool's scene that can be scored where the scene has withheld views.

    Nothing is traced yet: a view is when it first serves.
    """
    device = next(model.parameters()).device
    trainer = build_scene_trainer(model, scene.views.to(device), config, generator=generator,
                                  cloud=scene.cloud)
    check_memory(trainer)
    if scene.scene is not None:
        watch(trainer, scene.scene, scene.split)
    return trainer


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
    renderer = model.renderer(views, occ_threshold=occ_threshold, tracer=trainer.tracer)
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


def watch(trainer: SceneTrainer, scene: Any, split: Any, *, all_views: bool = False) -> None:
    """Let the loop score the scene's withheld views and draw its picture sheets."""

    def exhibit(step: int) -> Exhibit:
        return exhibit_of(trainer, scene, split, step=step, all_views=all_views)

    trainer.split = {"train": list(split.train), "test": list(split.test)}
    trainer.score = lambda step: mean_figures(exhibit(step))
    trainer.pictures = lambda step: picture_sheets(exhibit(step))
