"""What all parts of a GPU's measurement share: scene, sizes, trainers, clocks."""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import torch

from data_processing.scenes.opening import open_scene
from data_processing.scenes.scene import Scene
from data_processing.scenes.splits import NAMED_SPLITS, Split
from stages.evaluation import SceneEvaluation
from stages.models import model_of
from stages.scene import build_scene_trainer
from training import SceneTrainer
from utils.checkpoints.weights import with_meta_start
from utils.config.parser import META_SECTIONS, Config, parse_config
from utils.config.sections import DataConfig
from utils.config.stage_sections import SPECIALISE_DEFAULTS
from utils.paths import PROJECT_ROOT
from utils.runs.seeds import seed_everything
from utils.views.training_views import views_of

SHIPPED_START = PROJECT_ROOT / "checkpoints" / "meta_made.pth"
SHIPPED, SCRATCH = "shipped start", "from scratch"
START_CONFIGS = {SHIPPED: "configs/nlrpp_dtu_metaspec.txt", SCRATCH: "configs/nlrpp_dtu.txt"}
#: Steps of the DTU schedule that train the shape, and that do not.
SHAPE_STEP, IMAGE_STEP = 3, 53
FEW_POINTS = 2048         # of the eikonal term on a CPU, which only tries what a GPU will do
WARM_UP = 2               # runs before those that are timed
MOST_RUNS = 30            # that are timed


@dataclass(frozen=True)
class MeasureSetup:
    """What the process of a part is told.

    Attributes:
        output: folder of the results.
        scene: folder of the scene.
        num_views: how many views it has.
        im_scale: factor on the size of its images.
        device: cpu or cuda.
    """

    output: Path
    scene: str
    num_views: int
    im_scale: float
    device: str

    @property
    def is_cuda(self) -> bool:
        """Whether a GPU is measured."""
        return self.device == "cuda"

    def weights_of(self, start: str) -> Path:
        """Return where the weights go that are trained from a start."""
        return self.output / f"weights_{start.replace(' ', '_')}.pth"

    def config(self, start: str, *flags: object) -> Config:
        """Return the flags of a run on the scene, those of the paper for DTU; `flags` win."""
        views = _view_flags(self.num_views)
        common = ["--config_filepath", START_CONFIGS[start], "--experiment_name", "measured",
                  "--dataset_path", self.scene, "--device", self.device,
                  "--load_im_scale", str(self.im_scale), "--im_scale", "1",
                  "--precomputed_3D_point_buffers", "", "--load_3D_point_buffers", "0",
                  "--save_3D_point_buffers", "0", "--load_model_poses", "0", *views]
        if not self.is_cuda:
            common += ["--batch_size", str(FEW_POINTS)]
        if start == SHIPPED:
            common += ["--meta_initialization", str(SHIPPED_START)]
        return parse_config(META_SECTIONS, [*common, *map(str, flags)],
                            defaults=SPECIALISE_DEFAULTS)

    def subject(self, start: str = SHIPPED, *flags: object, device: str = "") -> Subject:
        """Return a new trainer on the scene, ready for its first step but for the first trace.

        Args:
            start: of the weights.
            flags: of the run, beside the paper's.
            device: another one than that which is measured.
        """
        setup = replace(self, device=device) if device else self
        return Subject(setup.config(start, *flags))


def _view_flags(num_views: int) -> list[str]:
    """Return the flags that split the views.

    49 have the DTU split. Ten are taken for those of the DTU split alone, in their order; of other
    scenes every 8th is held out.
    """
    dtu = NAMED_SPLITS["dtu"]
    if num_views == dtu.num_views or dtu.train is None:
        return ["--dataset_name", "dtu"]
    both = sorted((*dtu.train, *dtu.test))
    if num_views != len(both):
        return ["--dataset_name", ""]
    places = ",".join(str(both.index(view)) for view in dtu.test)
    return ["--dataset_name", "", "--test_views", places]


class Subject:
    """A trainer with its scene, made by the flags.

    Args:
        config: of a run that starts from a meta-learned start, or from scratch.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device = torch.device(config.run.device)
        generator = seed_everything(config.run.seed)
        initial = None
        if config.meta.meta_initialization:
            self.config, initial = with_meta_start(config)
        self.scene, self.split = scene_of(config.data, config.run.seed)
        self.model: Any = model_of(self.config, self.device, initial)
        self.evaluation = SceneEvaluation(self.scene, self.split)
        self.trainer: SceneTrainer = build_scene_trainer(
            self.model, views_of(self.scene, self.split.train, self.device), self.config,
            generator=generator, evaluation=self.evaluation)

    @cached_property
    def num_sources(self) -> int:
        """How many source views a step has."""
        return self.trainer.sampled.sampler.num_sources


@lru_cache(maxsize=2)
def scene_of(data: DataConfig, seed: int) -> tuple[Scene, Split]:
    """Return the scene of the flags and its split; it is read once for all subjects of a part."""
    return open_scene(data, seed)


def wait_for(device: torch.device | str) -> None:
    """Let the host wait until the device has done all that it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def timed_ms(work: Callable[[], Any], device: torch.device | str, seconds: float, *,
             most: int = MOST_RUNS) -> float:
    """Return the median time of a piece of work, ms, the device idle before and after.

    Args:
        work: is done WARM_UP times before, and then until the time is over, once at least.
        device: that does it.
        seconds: for all of it.
        most: runs that are timed.
    """
    end = time.perf_counter() + seconds
    runs: list[float] = []
    for number in range(WARM_UP + most):
        if runs and time.perf_counter() > end:
            break
        wait_for(device)
        start = time.perf_counter()
        work()
        wait_for(device)
        if number >= WARM_UP or time.perf_counter() > end:
            runs.append((time.perf_counter() - start) * 1e3)
    return median(runs)
