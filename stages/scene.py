"""One scene from its folder to its results: what the scripts that train a scene share.

It stands between the libraries and the scripts, as it joins the model (`modules_sdf`) with its
training (`training`), which know nothing of each other.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from data_processing.matching.surface_points import MatchSearch
from data_processing.scenes.opening import load_point_cloud, open_scene
from loss_functions import ShapeSupervision
from scheduler import StepPlan, plan_step
from sdf_rendering import make_tracer
from stages.evaluation import SceneEvaluation, cloud_of, trained_scene_of
from stages.mesh_rendering import renderer_of
from stages.models import model_of
from stages.replaying.steps import ReplayingTrainer
from stages.results.writing import write_results
from stages.surface_start import SurfaceStart
from training import Evaluation, SceneTrainer
from utils.checkpoints.checkpoint import Checkpoint, of_a_run
from utils.checkpoints.weights import (
    InitialWeights,
    checkpoint_to_evaluate,
    whole_checkpoint,
)
from utils.config.parser import Config
from utils.config.values import crop_size, losses_of
from utils.errors import ConfigError
from utils.fast.memory import check_encoder_memory
from utils.optimization.parameter_groups import trained_parts
from utils.runs.loop import Loop
from utils.runs.progress import Progress, run_facts, stored_progress
from utils.runs.run import Run, start_run
from utils.runs.task import loop_options, steps_per_epoch
from utils.views.pose_refinement import PoseTrainer
from utils.views.regions import view_regions
from utils.views.step_views import ViewsInTraining
from utils.views.target_crops import CropSampler
from utils.views.training_views import TrainingViews, ViewSampler, views_of


def train_scene(config: Config, initial: InitialWeights | None = None) -> str:
    """Data, model, training, results.

    Args:
        config: of a training script.
        initial: weights that are read already; None: those that the flags name.
    Returns:
        The table of figures, and where the results are.
    """
    scene, split = open_scene(config.data, config.run.seed)
    run = start_run(config)
    start = SurfaceStart(scene, split, config, resumed=run.start, device=run.device)
    model = model_of(config, run.device, initial)
    cloud = load_point_cloud(scene, config.data, is_for_training=False)
    evaluation = SceneEvaluation(scene, split, all_views=bool(config.test.benchmark_all_views),
                                 scores_all=config.test.eval_all == "always",
                                 cloud=cloud_of(scene, cloud))
    trainer = build_scene_trainer(model, views_of(scene, split.train, run.device), config,
                                  generator=run.generator, cloud=cloud,
                                  evaluation=evaluation, adjust=start.adjust)
    check_memory(trainer)
    epoch = steps_per_epoch(config.views, len(split.train))
    loop = Loop(trainer, run, loop_options(config.run, epoch), entries=start.entries)
    loop.progress.seconds = start.seconds
    progress = loop.run(partial(start.begin, trainer, run.folder.pictures))
    if config.test.renderer == "sdf":      # views that are rendered already are not rendered again
        trained = evaluation.trained_scene(trainer, progress.step)
    else:
        trained = trained_scene_of(
            trainer, scene, split, step=progress.step,
            all_views=bool(config.test.benchmark_all_views),
            renderer=renderer_of(trainer, progress.step, config.test), cloud=evaluation.cloud)
    return write_results(trained, run.folder, test=config.test, data=config.data,
                         curve=progress.curve, facts=run_facts(run, progress))


@dataclass(frozen=True)
class OpenedRun:
    """A finished run, its weights loaded into a trainer.

    Attributes:
        run: folder, device, seed.
        scene, split: `data_processing`'s.
        trainer: has the training views and all weights.
        progress: how far it is.
    """

    run: Run
    scene: Any
    split: Any
    trainer: SceneTrainer
    progress: Progress

    @property
    def step(self) -> int | None:
        """Return the steps that were taken; None where the file does not say."""
        return self.progress.step if self.progress.is_step_known else None


def open_run(config: Config) -> OpenedRun:
    """Open the checkpoint that the flags name, or the run's latest, on its scene."""
    scene, split = open_scene(config.data, config.run.seed)
    run = start_run(config, is_training=False)
    if run.device.type == "cpu":                # which would keep all that a frame computes
        config = replace(config, views=replace(config.views, cuda_graphs=0))
    checkpoint = checkpoint_to_evaluate(config, run.start)
    model = model_of(config, run.device, whole_checkpoint(checkpoint, config.run),
                     is_trained=False)
    trainer = build_scene_trainer(model, views_of(scene, split.train, run.device), config,
                                  generator=run.generator)
    progress = take_run(trainer, checkpoint, steps_per_epoch(config.views, len(split.train)))
    checkpoint.release()
    return OpenedRun(run, scene, split, trainer, progress)


def take_run(trainer: SceneTrainer, checkpoint: Checkpoint, epoch: int) -> Progress:
    """Give a trainer that has a checkpoint's weights its cameras and average; return its progress.

    Args:
        trainer: of the scene that the run was trained on.
        checkpoint: of the run, of networks alone, or of the released code.
        epoch: its steps.
    Raises:
        CheckpointError: it is of other views or cameras, or its entries are of another kind.
    """
    with of_a_run(checkpoint.path, "give a checkpoint that a training script wrote"):
        trainer.load_cameras(checkpoint.task)
        trainer.average.load_state_dict(checkpoint.task.get("average"))
    return stored_progress(checkpoint, epoch)


def evaluate_scene(config: Config) -> str:
    """Evaluate a checkpoint on the scene that it was trained on.

    Args:
        config: of a training script.
    Returns:
        The table of metrics, and where the results are.
    """
    opened = open_run(config)
    trained = trained_scene_of(opened.trainer, opened.scene, opened.split, step=opened.step,
                               all_views=bool(config.test.benchmark_all_views),
                               renderer=renderer_of(opened.trainer, opened.step, config.test),
                               cloud=cloud_of(opened.scene, load_point_cloud(
                                   opened.scene, config.data, is_for_training=False)))
    opened.run.begin()
    return write_results(trained, opened.run.folder, test=config.test, data=config.data,
                         curve=opened.progress.curve, facts=run_facts(opened.run, opened.progress))


def check_memory(trainer: SceneTrainer) -> None:
    """Raise ConfigError where the machine is too small for a step; GPUs say so themselves.

    With crops of targets no source is encoded whole.
    """
    model, views = trainer.model, trainer.views
    is_whole = trainer.sampled.crops is None and model.settings.feature_type != "rgb"
    if is_whole and views.images.device.type == "cpu":
        check_encoder_memory(trainer.sampled.sampler.num_sources, views.cameras.resolution,
                             is_bf16=model.execution.precision == "bf16")


def build_scene_trainer(model: nn.Module, views: TrainingViews, config: Config,
                        *, generator: torch.Generator, cloud: Any = None,
                        evaluation: Evaluation | None = None,
                        adjust: Callable[[StepPlan], StepPlan] | None = None) -> SceneTrainer:
    """Return a trainer by the flags; the surface is not traced yet.

    Args:
        model: on the views' device.
        views: training views.
        config: with the sections of a training script.
        generator: on the CPU.
        cloud: point cloud that may supervise the shape (use_pcd), or None.
        evaluation: scores and draws; None: neither.
        adjust: what the plan of each step becomes, in meta-training; None: it stays.
    """
    trained_parts(model, config.parts)

    def plan(step: int) -> StepPlan:
        """Return the settings of a step, adjusted where that is asked for."""
        found = plan_step(step, config.rates, config.tracing,
                          dataset_name=config.data.dataset_name,
                          steps_per_epoch=steps_per_epoch(config.views, len(views)),
                          lr_cameras=config.views.lr_cameras)
        return adjust(found) if adjust else found

    shape = ShapeSupervision(losses_of(config.loss, config.sdf), config.run.batch_size,
                             in_sphere_only=config.tracing.tracer != "reference",
                             cloud=cloud if config.data.use_pcd else None,
                             matches=MatchSearch(views) if config.loss.match_points_weight
                             else None)
    is_replayed = bool(config.views.cuda_graphs)
    # what is recorded has fixed shapes on a CPU too
    tracer = make_tracer(config.tracing, views.masks[0].numel(),
                         "cuda" if is_replayed else views.images.device)
    trainer = ReplayingTrainer if is_replayed else SceneTrainer
    return trainer(model, views_in_training(views, config), tracer=tracer, shape=shape,
                   plan=plan, generator=generator, evaluation=evaluation)


def views_in_training(views: TrainingViews, config: Config) -> ViewsInTraining:
    """Return the training views with what the flags say of how a step draws from them."""
    if config.views.source_views_per_target == 1:
        raise ConfigError("--source_views_per_target 1: a target never feeds itself, so it would "
                          "have no source; give 2 or more, or -1 for all")
    if config.views.occlusion_method == "correlation" and config.views.target_crop:
        raise ConfigError("--occlusion_method correlation compares whole targets with their "
                          "photographs, which --target_crop cuts; use agreement or raytrace")
    if config.views.occlusion_method == "correlation" and config.cnn.feature_type == "rgb":
        raise ConfigError("--occlusion_method correlation weights features that a decoder reads, "
                          "and would darken the photographs of --feature_type rgb; use agreement "
                          "or raytrace")
    if config.views.cuda_graphs:
        check_replayable(config)
    sampler = ViewSampler(views.cameras, config.views.source_views_per_target,
                          config.run.image_batch_size,
                          nearest=config.views.source_view_selection_mode == "nearest")
    crops = regions = None
    if config.views.target_crop:
        crops = CropSampler(views.cameras.resolution, crop_size(config.views.target_crop))
    elif views.masks.device.type == "cpu" and not config.views.cuda_graphs:
        regions = view_regions(views.masks)
    refiner = PoseTrainer(views.cameras) if config.views.refine_cameras else None
    return ViewsInTraining(views, sampler, crops, regions, refiner,
                           loads_poses=bool(config.run.load_model_poses))


def check_replayable(config: Config) -> None:
    """Raise ConfigError where `--cuda_graphs 1` is asked for with what cannot be recorded."""
    reasons = {"--target_crop": config.views.target_crop and
               "crops of sources have sizes that depend on values",
               "--refine_cameras": config.views.refine_cameras and
               "its image steps trace the surface anew",
               "--tracer reference": config.tracing.tracer == "reference" and
               "it asks how many rays hit"}
    for flag, reason in reasons.items():
        if reason:
            raise ConfigError(f"--cuda_graphs 1 cannot be used with {flag}: {reason}; give "
                              "--cuda_graphs 0")
