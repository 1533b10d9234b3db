"""A run of joint training: scenes, model, training, weights."""
from __future__ import annotations

import logging
from collections import OrderedDict

import torch

from data_processing.scenes.pool import ScenePool, open_pool
from modules_sdf import LEARNED
from scheduler import StepPlan, plan_step
from stages.joint.surfaces import FillSurface, StartedScene, StartSurfaces, started_scene
from stages.joint.training import JointDraw, JointTrainer
from stages.models import model_of
from utils.checkpoints.weights import InitialWeights, save_networks
from utils.config.parser import Config
from utils.errors import ConfigError
from utils.optimization.parameter_groups import trained_parts
from utils.results.curve import write_curve
from utils.runs.distributed import Ranks
from utils.runs.ranked_training import train_on_ranks
from utils.runs.run import start_run
from utils.runs.task import loop_options

log = logging.getLogger(__name__)

WEIGHTS_FILE = "joint_start.pth"
#: Folder of the scenes' surfaces in the run's own.
SURFACES = "surfaces"
#: Memory of a view's pixel: image, mask, distance, hit, origin and direction of its ray.
BYTES_A_PIXEL = 12 + 1 + 4 + 1 + 24


class StartedScenes:
    """Scenes by number with their surfaces, as many in memory as a bound admits.

    Args:
        pool: keeps whole scenes.
        surfaces: fills the buffer of a scene.
        device: of the views.
        memory_bytes: bound; a scene that alone is larger is still kept.
    """

    def __init__(self, pool: ScenePool, surfaces: FillSurface, device: torch.device, *,
                 memory_bytes: int) -> None:
        self.pool, self.surfaces, self.device = pool, surfaces, device
        self.memory_bytes = memory_bytes
        self._kept: OrderedDict[int, StartedScene] = OrderedDict()

    def __len__(self) -> int:
        return len(self.pool)

    def __getitem__(self, number: int) -> StartedScene:
        """Return a scene; its surface is computed where it is not known."""
        if number not in self._kept:
            self._kept[number] = started_scene(self.pool[number], self.surfaces, self.device)
            while len(self._kept) > 1 and self._num_bytes() > self.memory_bytes:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]

    def _num_bytes(self) -> int:
        """Return the memory of what is kept."""
        return BYTES_A_PIXEL * sum(scene.views.masks.numel() for scene in self._kept.values())


def joint_train(config: Config, ranks: Ranks, initial: InitialWeights | None = None) -> str:
    """Train the image networks on the scenes of a folder, and write them.

    Args:
        config: of the meta-training script.
        ranks: the processes, each of which calls this.
        initial: weights that are read already; None: those that the flags name.
    Returns:
        Where the networks are, and what it took; empty on all processes but the main one.
    """
    run = start_run(config, is_main=ranks.is_main)
    model = model_of(config, run.device, initial)
    trained_parts(model, config.parts)
    surfaces = StartSurfaces(config, run.device, run.folder.path / SURFACES)

    def started(path: str = "", flag: str = "dataset_path") -> StartedScenes:
        pool = open_pool(config.data, config.meta, path=path, flag=flag, is_scored=True,
                         seed=config.run.seed)
        return StartedScenes(pool, surfaces, run.device,
                             memory_bytes=config.meta.scene_memory_mb * 2**20)

    scenes = started()
    draw = JointDraw(config.meta.meta_batch_size or ranks.size,
                     config.views.source_views_per_target, config.run.image_batch_size,
                     config.run.seed)
    epoch = -(-len(scenes) // draw.num_scenes)

    def plan(step: int) -> StepPlan:
        return plan_step(step, config.rates, config.tracing,
                         dataset_name=config.data.dataset_name, steps_per_epoch=epoch)

    trainer = JointTrainer(model, scenes, draw, plan=plan, loss=config.loss, ranks=ranks)
    if config.meta.meta_eval_path:
        trainer.trials = started(config.meta.meta_eval_path, "meta_eval_path")
    options = loop_options(config.run, epoch)
    log.info("%d scenes, %d steps of %d of them", len(scenes), options.num_steps, draw.num_scenes)
    progress = train_on_ranks(trainer, run, options)
    if progress is None:
        return ""
    path, model = run.folder.path / WEIGHTS_FILE, trainer.average.averaged_model()
    names = ("encoder", "decoder", *["aggregation"] * (model.settings.aggregation in LEARNED))
    save_networks(path, precision=config.meta.start_precision,
                  **{name: getattr(model, name) for name in names})
    write_curve(progress.curve, run.folder.path / "curve.csv")
    return f"{path}: {progress.step} steps, {progress.seconds:.0f} s"


def check_joint(config: Config) -> None:
    """Raise ConfigError for flags that joint training cannot follow."""
    for flag, is_right, reason in (
            ("init sphere", config.sdf.init != "sphere",
             "trains image networks on surfaces that are known, give --init auto, hull or stereo"),
            ("feature_type rgb", config.cnn.feature_type != "rgb",
             "leaves no image networks to train, give --feature_type learned"),
            ("refine_cameras 1", not config.views.refine_cameras,
             "takes cameras as they are given, leave it out"),
            ("cuda_graphs 1", not config.views.cuda_graphs,
             "replays nothing, give --cuda_graphs 0"),
            (f"occlusion_method {config.views.occlusion_method}",
             config.views.occlusion_method == "raytrace",
             "has traced surfaces, give --occlusion_method raytrace"),
            (f"target_crop {config.views.target_crop}", not config.views.target_crop,
             "renders whole targets, leave it out and give --max_image_side")):
        if not is_right:
            raise ConfigError(f"--num_meta_steps 0 with --{flag}: joint training {reason}")
