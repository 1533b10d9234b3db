"""The fuzzed readers of checkpoints by a run that resumes from them, or is evaluated."""
from __future__ import annotations

import copy
import json
import tempfile
from functools import cache
from pathlib import Path

import torch
from support.tiny_runs import SMALL, config_of
from trust.reading import Reader, ball, read_all

from stages.models import build_model
from stages.scene import build_scene_trainer, take_run
from training import SceneTrainer
from utils.checkpoints.checkpoint import Checkpoint, open_checkpoint
from utils.config.sections import DataConfig
from utils.runs.loop import Loop
from utils.runs.progress import run_facts
from utils.runs.run import Run, start_run
from utils.runs.task import LoopOptions
from utils.views.surface_buffer import SurfaceBuffer, fill_buffer
from utils.views.training_views import views_of

#: Colours in place of features, as encoder and decoder are megabytes.
FLAGS = (*SMALL, "--feature_type", "rgb", "--experiment_name", "fuzzed", "--precision", "fp32")


@cache
def _run() -> tuple[Loop, Run, Checkpoint]:
    """A loop round the trainer of a tiny scene, its run, and a sound checkpoint after a step."""
    config = config_of(*FLAGS, "--logging_root", tempfile.gettempdir())
    scene = ball()
    torch.manual_seed(0)
    model = build_model(config.sdf, config.cnn, config.views, config.run)
    trainer = build_scene_trainer(model, views_of(scene, range(3), "cpu"), config,
                                  generator=torch.Generator().manual_seed(0))
    trainer.trace_all()
    run = start_run(config)
    loop = Loop(trainer, run, LoopOptions(num_steps=9))
    trainer.train_step(0)
    loop.progress.step = 1
    with tempfile.TemporaryDirectory() as folder:
        loop.folder.checkpoints = Path(folder)
        sound = open_checkpoint(loop.save())
    del sound.content["random"]                            # long lists, and nothing depends on it
    return loop, run, sound


def _make_run(folder: Path) -> None:
    loop, _, sound = _run()
    _resume(loop, sound)
    loop.folder.checkpoints = folder
    loop.save()


def _resume(loop: Loop, start: Checkpoint) -> None:
    """Resume from a copy, as what is trained would change the content."""
    loop.resume(Checkpoint(start.path, copy.deepcopy(start.content), start.sha256))


def _read_run(path: Path) -> None:
    """Evaluate and go on, from the same state whatever was read before."""
    loop, _, sound = _run()
    _resume(loop, sound)
    read_all(open_checkpoint(path), _evaluate, _go_on)


def _go_on(start: Checkpoint) -> None:
    """Resume and take a step."""
    loop, _, _ = _run()
    loop.resume(start)
    try:
        loop.task.train_step(loop.progress.step)
    except FloatingPointError:                             # numbers that are not finite are skipped
        pass


def _evaluate(checkpoint: Checkpoint) -> None:
    loop, run, _ = _run()
    assert isinstance(loop.task, SceneTrainer)
    json.dumps(run_facts(run, take_run(loop.task, checkpoint, 3)))


def _read_buffer(folder: Path) -> None:
    """Read the traced surface of a folder; where there is none, write it."""
    trainer, cameras = _run()[0].task, ball().cameras
    assert isinstance(trainer, SceneTrainer)
    data = DataConfig(precomputed_3D_point_buffers=str(folder), load_3D_point_buffers=1,
                      save_3D_point_buffers=1)
    buffer = SurfaceBuffer(cameras)
    fill_buffer(buffer, trainer.model.sdf, cameras, lambda: None, data=data)
    assert buffer.hit_mask.dtype == torch.bool


RESUME_READERS = (
    Reader("run", _make_run, _read_run, "*.pth", is_single=True),
    Reader("buffer", _read_buffer, _read_buffer))
