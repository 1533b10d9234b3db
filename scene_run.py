"""One scene from its folder to its results: what the scripts that train a scene share.

It stands between the libraries and the scripts, as it joins the model (`modules_sdf`) with its
training (`training`), which know nothing of each other.
"""
from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from data_processing.open_scene import load_point_cloud, open_scene
from data_processing.scene_pool import PoolScene
from modules_sdf import ImageBasedModel, build_model
from sdf_meshing import write_results
from training import SceneTrainer, build_scene_trainer, exhibit_of, watch
from utils.config import Config
from utils.errors import ConfigError
from utils.loop import Loop, loop_options, run_facts, steps_per_epoch
from utils.run import start_run
from utils.views import views_of
from utils.weights import read_networks


def train_scene(config: Config) -> str:
    """Data, model, training, results.

    Args:
        config: of a training script.
    Returns:
        The table of figures, and where the results are.
    """
    scene, split = open_scene(config.data, config.run.seed)
    run = start_run(config)
    model = model_of(config, run.device)
    trainer = build_scene_trainer(model, views_of(scene, split.train, run.device), config,
                                  generator=run.generator,
                                  cloud=load_point_cloud(scene, config.data))
    all_views = bool(config.test.benchmark_all_views)
    watch(trainer, scene, split, all_views=all_views)
    epoch = steps_per_epoch(config.views, len(split.train))
    progress = Loop(trainer, run, loop_options(config.run, epoch)).run(
        partial(trainer.trace_first, config.data))
    exhibit = exhibit_of(trainer, scene, split, step=progress.step, all_views=all_views)
    return write_results(exhibit, run.folder, test=config.test, data=config.data,
                         curve=progress.curve, facts=run_facts(run, progress))


def model_of(config: Config, device: torch.device) -> ImageBasedModel:
    """The model of the flags, with its first weights."""
    return build_model(config.sdf, config.cnn, config.views, config.run,
                       is_fast=config.tracing.tracer == "fast").to(device)


def with_meta_start(config: Config) -> Config:
    """The same configuration, starting from what `--meta_initialization` names.

    The flags of single networks, where given, win.

    Raises:
        ConfigError: it is not given.
        CheckpointError: the file cannot be read, or holds no network.
    """
    path = config.meta.meta_initialization
    if not path:
        raise ConfigError("--meta_initialization is missing: give the meta-learned start, such as "
                          "the meta_start.pth that train_sdf_ibr_meta.py writes")
    read_networks(path)
    return replace(config, run=replace(config.run, checkpoint_path=path))


def task_on_scene(model: nn.Module, scene: PoolScene, generator: torch.Generator, *,
                  config: Config) -> SceneTrainer:
    """Training of a pool's scene that can be scored where the scene has withheld views.

    Nothing is traced yet: a view is when it first serves.
    """
    device = next(model.parameters()).device
    trainer = build_scene_trainer(model, scene.views.to(device), config, generator=generator,
                                  cloud=scene.cloud)
    if scene.scene is not None:
        watch(trainer, scene.scene, scene.split)
    return trainer
