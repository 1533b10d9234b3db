"""One scene from its folder to its results: what the scripts that train a scene share.

It stands between the libraries and the scripts, as it joins the model (`modules_sdf`) with its
training (`training`), which know nothing of each other.
"""
from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from data_processing.scenes.opening import load_point_cloud, open_scene
from scheduler import plan_step
from sdf_rendering import make_tracer
from stages.evaluation import exhibit_of, watch
from stages.models import model_of
from stages.results import write_results
from stages.shape_fitting import SurfaceStart
from training import SceneTrainer
from utils.config.parser import Config
from utils.config.values import crop_size
from utils.errors import ConfigError
from utils.fast.image_networks.regions import view_windows
from utils.fast.memory import check_encoder_memory
from utils.optimization.parameter_groups import trained_parts
from utils.runs.loop import Loop, loop_options, run_facts, steps_per_epoch
from utils.runs.run import start_run
from utils.views.pose_refinement import PoseTrainer
from utils.views.target_crops import CropSampler
from utils.views.training_views import TrainingViews, ViewSampler, views_of


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


def check_memory(trainer: SceneTrainer) -> None:
    """Raise ConfigError where the machine is too small for a step; GPUs say so themselves.

    With crops of targets no source is encoded whole.
    """
    settings, views = trainer.model.settings, trainer.views
    is_whole = trainer.crops is None and settings.feature_type != "rgb"
    if is_whole and views.images.device.type == "cpu":
        check_encoder_memory(trainer.sampler.num_sources, views.cameras.resolution,
                             is_bf16=settings.precision == "bf16")


def build_scene_trainer(model: nn.Module, views: TrainingViews, config: Config,
                        *, generator: torch.Generator, cloud: Any = None) -> SceneTrainer:
    """A trainer by the flags; the surface is not traced yet.

    Args:
        model: on the views' device.
        views: training views.
        config: with the sections of a training script.
        generator: on the CPU.
        cloud: point cloud that may supervise the shape (use_pcd), or None.
    """
    trained_parts(model, config.parts)
    if config.views.source_views_per_target == 1:
        raise ConfigError("--source_views_per_target 1: a target never feeds itself, so it would "
                          "have no source; give 2 or more, or -1 for all")
    sampler = ViewSampler(views.cameras, config.views.source_views_per_target,
                          config.run.image_batch_size,
                          nearest=config.views.source_view_selection_mode == "nearest")
    plan = partial(plan_step, rates=config.rates, tracing=config.tracing,
                   dataset_name=config.data.dataset_name,
                   steps_per_epoch=steps_per_epoch(config.views, len(views)),
                   lr_cameras=config.views.lr_cameras)
    trainer = SceneTrainer(
        model, views, sampler, tracer=make_tracer(config.tracing, views.masks[0].numel(),
                                                   views.images.device),
        loss=config.loss, num_eikonal_points=config.run.batch_size, plan=plan,
        generator=generator, cloud=cloud if config.data.use_pcd else None,
        average_decay=config.rates.average_decay)
    trainer.loads_poses = bool(config.run.load_model_poses)
    if config.views.target_crop:
        trainer.crops = CropSampler(views.cameras.resolution, crop_size(config.views.target_crop))
    elif views.masks.device.type == "cpu":
        trainer.windows = view_windows(views.masks)
    if config.views.refine_cameras:
        trainer.refiner, trainer.is_refined = PoseTrainer(views.cameras), True
    return trainer
