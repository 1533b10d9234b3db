"""Trainers of tiny scenes, ready for their first step."""
from __future__ import annotations

import torch

from data_processing.scenes.opening import load_point_cloud, open_scene
from stages.models import build_model
from stages.scene import build_scene_trainer
from support.tiny_runs import config_of, flags_of
from utils.views.training_views import views_of

#: Steps 0, 1, 3 and 6 train the shape; checkpoints after 2, 4, 6 and 8.
STEPS = ["--num_steps", 8, "--steps_til_ckpt", 2, "--keep_checkpoints", 9]


def trainer_on(device, scene_folder, sphere, *flags):
    """A traced trainer in fp32 on a device, with the same weights and draws on each."""
    config = config_of(*flags_of("unused", scene_folder, "--precision", "fp32", *flags,
                                 sphere=sphere))
    scene, split = open_scene(config.data)
    torch.manual_seed(0)
    model = build_model(config.sdf, config.cnn, config.views, config.run).to(device)
    trainer = build_scene_trainer(model, views_of(scene, split.train, device), config,
                                  generator=torch.Generator().manual_seed(0))
    trainer.trace_all()
    return trainer


def trainer_of(scene_folder, sphere, *flags, cloud=False):
    """A trainer that is ready for its first step."""
    config = config_of(*flags_of("unused", scene_folder, *flags, sphere=sphere))
    scene, split = open_scene(config.data)
    torch.manual_seed(0)
    model = build_model(config.sdf, config.cnn, config.views, config.run,
                        is_fast=config.tracing.tracer == "fast")
    trainer = build_scene_trainer(model, views_of(scene, split.train, "cpu"), config,
                                  generator=torch.Generator().manual_seed(0),
                                  cloud=load_point_cloud(scene, config.data) if cloud else None)
    trainer.trace_all()
    return trainer
