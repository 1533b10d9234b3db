"""Scenes at the limits of numbers: few and many views, odd sizes, cameras that nearly degenerate.

A case is written to disk, read back, trained on for a few steps and rendered; `run_case` says what
was not finite on the way. Run as a script it does one case in all its ways, and prints what
it found as JSON: python tests/support/number_cases.py CASE FOLDER
"""
from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (2, 1)]

import torch
from torch import Tensor, nn

from data_processing.scenes.opening import open_scene
from data_processing.scenes.scene import Scene
from data_processing.scenes.writing import write_scene
from data_processing.synthetic.camera_arrangements import camera_dirs
from stages.evaluation import mean_metrics, trained_scene_of
from stages.models import model_of
from stages.scene import build_scene_trainer, check_memory
from stages.surface_start import SurfaceStart
from support.tiny_runs import config_of, flags_of
from training import SceneTrainer
from utils.config.parser import Config
from utils.errors import UserError
from utils.fast.memory import machine_memory
from utils.geometry.cameras import Cameras, look_at, projection_from_intrinsics
from utils.geometry.rays import make_rays
from utils.views.training_views import views_of

#: Steps 0 and 1 train the shape, step 2 the image alone.
NUM_STEPS = 3


@dataclass(frozen=True)
class NumberCase:
    """A ball of one colour and cameras round it that look at the origin of object space.

    Attributes:
        name: what is unusual.
        num_views, size: V and (W, H).
        radius, place: of the ball, object space.
        distance: of the cameras from the origin, object units.
        scale, shift: world = scale * object + shift.
        focal: focal length in image widths; aspect: that in y over that in x.
        center: principal point from the middle of the image, in widths and heights.
        skew: in image widths.
        is_one_camera: all cameras are the same one.
        masks: `ball`; `block`, the middle of the image whatever the cameras see; `full`; `none`.
        flags: more of them.
        refused: words of our own error, where that is the right answer.
    """

    name: str
    num_views: int = 3
    size: tuple[int, int] = (24, 18)
    radius: float = 0.5
    place: tuple[float, float, float] = (0.0, 0.0, 0.0)
    distance: float = 3.0
    scale: float = 1.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    focal: float = 1.2
    aspect: float = 1.0
    center: tuple[float, float] = (0.0, 0.0)
    skew: float = 0.0
    is_one_camera: bool = False
    masks: str = "ball"
    flags: tuple[str, ...] = ()
    refused: str = ""


#: Cheap ones, of the usual tests.
CASES = (
    NumberCase("16x16", size=(16, 16)),
    NumberCase("odd sides", size=(23, 17)),
    NumberCase("one row", size=(40, 1), masks="block"),
    NumberCase("one column", size=(1, 40), masks="block"),
    NumberCase("one pixel", size=(1, 1), masks="block"),
    NumberCase("8 views", num_views=8),
    NumberCase("object far off centre", place=(0.7, -0.5, 0.4), radius=0.1, focal=0.7),
    NumberCase("object outside the sphere", place=(1.5, 0.0, 0.0), radius=0.2, focal=0.5),
    NumberCase("world shifted by 1e4 radii", shift=(1e4, -1e4, 1e4)),
    NumberCase("world shifted by 1e6 radii", shift=(1e6, -1e6, 1e6)),
    NumberCase("world unit 1e-6 radii", scale=1e6),
    NumberCase("world unit 1e6 radii", scale=1e-6),
    NumberCase("cameras inside the sphere", distance=0.8, radius=0.3, focal=0.6),
    NumberCase("cameras on the sphere", distance=1.0, focal=0.6),
    NumberCase("cameras inside the object", distance=0.3, masks="full"),
    NumberCase("cameras near the origin", distance=1e-3, masks="full"),
    NumberCase("cameras 1e5 radii away", distance=1e5, focal=4e4),
    NumberCase("one camera", is_one_camera=True),
    NumberCase("focal length of 1e-3 widths", focal=1e-3, masks="block"),
    NumberCase("focal length of 1e-6 widths", focal=1e-6, masks="block"),
    NumberCase("focal length of 1e4 widths", focal=1e4),
    NumberCase("focal length of 1e8 widths", focal=1e8, masks="block"),
    NumberCase("principal point outside", center=(3.0, -2.0), masks="block"),
    NumberCase("principal point 1e4 widths outside", center=(1e4, 0.0), masks="block"),
    NumberCase("pixels of 1 to 100", aspect=100.0, masks="block"),
    NumberCase("pixels of 1 to 1e-3", aspect=1e-3, masks="block"),
    NumberCase("skew of half a width", skew=0.5),
    NumberCase("skew of 100 widths", skew=100.0, masks="block"),
    NumberCase("no masks", masks="none"),
    NumberCase("full masks", masks="full"),
)
#: Large ones, of `make trust` alone: width 128, whole or by crops.
LARGE = (
    NumberCase("16 views", num_views=16, size=(64, 48)),
    NumberCase("50 views", num_views=50, size=(64, 48)),
    NumberCase("200 views", num_views=200, size=(64, 48)),
    NumberCase("320x240", size=(320, 240)),
    NumberCase("641x479, crops", size=(641, 479), flags=("--target_crop", "128")),
    NumberCase("1000x750, crops", size=(1000, 750), flags=("--target_crop", "128")),
    NumberCase("4000x3000", size=(4000, 3000),
               refused="2 source views of 4000x3000" if (machine_memory() or 1e12) < 36e9 else ""),
    NumberCase("4000x3000, crops", size=(4000, 3000), flags=("--target_crop", "256")),
)
#: What each cheap case is also run with.
WAYS = {
    "": (),
    "reference tracer, epipolar weights": (
        "--tracer", "reference", "--feature_aggregation_method", "lumigraph_epipolar"),
    "idr, crops, foreground": ("--target_crop", "16", "--image_loss_region", "foreground"),
    "refined cameras": ("--refine_cameras", "1"),
    "hull, correlation": ("--init", "hull", "--occlusion_method", "correlation"),
}


@dataclass(frozen=True)
class Outcome:
    """What came of a case: `refused` is our own error's text, `problems` is what was wrong."""

    name: str
    way: str
    num_views: int
    size: tuple[int, int]
    seconds: float
    peak_mib: float
    refused: str
    problems: tuple[str, ...]


def cameras_of(case: NumberCase) -> Cameras:
    """The cameras of a case, float32."""
    width, height = case.size
    dirs = camera_dirs("dtu", max(case.num_views, 2))[:case.num_views]
    if case.is_one_camera:
        dirs = dirs[:1].repeat(case.num_views, 1)
    shift = torch.tensor(case.shift, dtype=torch.float64)
    up = torch.tensor([0.1, 1.0, 0.05], dtype=torch.float64)
    view = look_at(shift + case.scale * case.distance * dirs, shift, up)
    focal = case.focal * width
    k = torch.tensor([[focal, case.skew * width, (width - 1) / 2 + case.center[0] * width],
                      [0, focal * case.aspect, (height - 1) / 2 + case.center[1] * height],
                      [0, 0, 1]], dtype=torch.float64)
    projection = projection_from_intrinsics(k.repeat(case.num_views, 1, 1), case.size)
    model = torch.eye(4, dtype=torch.float64)
    model[:3] *= case.scale
    model[:3, 3] = shift
    return Cameras(view, projection, model, case.size).to(torch.float32)


def scene_of(case: NumberCase) -> Scene:
    """The case's photographs: the ball is orange, what is behind it grey."""
    cameras, (width, height) = cameras_of(case), case.size
    masks = torch.zeros(len(cameras), 1, height, width, dtype=torch.bool)
    for view in range(len(cameras)):
        masks[view, 0] = _mask(case, cameras[view])
    colour = torch.tensor([0.9, 0.6, 0.2]).reshape(1, 3, 1, 1)
    images = torch.where(masks, colour, torch.full((), 0.3))
    return Scene("case", images, masks, cameras, has_masks=case.masks != "none",
                 view_names=tuple(f"{view:03d}" for view in range(len(cameras))))


def _mask(case: NumberCase, camera: Cameras) -> Tensor:
    """(H, W) bool, the object in one view."""
    width, height = case.size
    if case.masks == "ball":
        origins, dirs = camera.pixel_rays()
        offset = (origins - torch.tensor(case.place)).reshape(-1, 3) / case.radius
        return make_rays(offset, dirs.reshape(-1, 3)).sphere_mask.reshape(height, width)
    mask = torch.ones(height, width, dtype=torch.bool)
    if case.masks == "block" and min(width, height) > 4:
        mask[:height // 4], mask[:, :width // 4] = False, False
    return mask


def run_case(case: NumberCase, folder: Path, way: str = "", *,
             sphere: Path | None = None) -> Outcome:
    """Write, read, train, render and score a case.

    Args:
        folder: that the scene goes to, a new one.
        way: of WAYS.
        sphere: what the SDF starts as.
    """
    scene_format = "idr" if way.startswith("idr") else "processed"
    start, refused, problems = time.perf_counter(), "", []
    try:
        scene = write_scene(scene_of(case), folder, scene_format)
        config = config_of(*flags_of("unused", scene, "--test_views", case.num_views - 1,
                                     *case.flags, *WAYS[way], sphere=sphere))
        problems = list(dict.fromkeys(not_finite(config)))
    except UserError as error:
        refused = str(error).replace(f"{folder}", "SCENE")
    except FloatingPointError as error:
        problems = [str(error)]
    may_be_refused = way.startswith("hull") and "hull" in refused      # masks that no hull fits
    if not may_be_refused and (bool(refused) != bool(case.refused) or case.refused not in refused):
        problems.append(f"should be refused with: {case.refused}" if case.refused
                        else f"should not be refused with: {refused}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Outcome(case.name, way, case.num_views, case.size, time.perf_counter() - start, peak,
                   refused, tuple(problems))


def not_finite(config: Config) -> Iterator[str]:
    """Train and render by the flags; names what is not finite."""
    scene, split = open_scene(config.data)
    torch.manual_seed(0)
    start = SurfaceStart(scene, split, config)
    model = model_of(config, torch.device("cpu"))
    trainer = build_scene_trainer(model, views_of(scene, split.train, "cpu"), config,
                                  generator=torch.Generator().manual_seed(0))
    check_memory(trainer)
    start.begin(trainer)
    for step in range(NUM_STEPS):
        yield from _unsound(f"loss at step {step}", trainer.train_step(step))
        yield from _after_step(trainer, step)
    trained = trained_scene_of(trainer, scene, split, step=NUM_STEPS)
    view = split.test[0]
    yield from _unsound("rendered", vars(trained.render(scene.cameras[view], None)))
    if math.prod(scene.cameras.resolution) < 1e6:              # it renders the same view again
        yield from (f"metric {name}" for name, value in mean_metrics(trained).items()
                    if not math.isfinite(value))


def _after_step(trainer: SceneTrainer, step: int) -> Iterator[str]:
    """Gradients, weights, moments and traced surfaces after a step."""
    named: list[tuple[str, nn.Parameter]] = list(trainer.model.named_parameters())
    if trainer.refiner is not None:
        named += trainer.refiner.poses.named_parameters()
        yield from _unsound("refined view", {"": trainer.refiner.poses.refined().view.detach()})
    yield from _unsound(f"gradient at step {step}",
                        {name: p.grad for name, p in named if p.grad is not None})
    yield from _unsound("weight", trainer.model.state_dict() | {n: p.detach() for n, p in named})
    for state in trainer.optimizer.state_dict()["state"].values():
        yield from _unsound("moment", {k: v for k, v in state.items() if k != "step"})
    yield from _unsound("buffer", {"t": trainer.buffer.t, "dirs": trainer.buffer.dirs,
                                   "origins": trainer.buffer.origins})


def _unsound(what: str, tensors: dict[str, Tensor | None]) -> Iterator[str]:
    """Names of tensors that hold something not finite; those that are not known are left out."""
    return (f"{what}: {name}" for name, tensor in tensors.items()
            if tensor is not None and not torch.isfinite(tensor).all())


def main(name: str, folder: str) -> None:
    """One case in all its ways as a JSON list, with the network that users have."""
    torch.set_num_threads(1)
    case = next(case for case in (*CASES, *LARGE) if case.name == name)
    full = ("--model_hidden_dims_sdf", "128", "--model_hidden_layers_sdf", "3",
            "--init_sphere", "1")
    case = replace(case, flags=(*full, *case.flags))
    ways = WAYS if case.name in {cheap.name for cheap in CASES} else [""]
    outcomes = [run_case(case, Path(folder) / (way or "plain"), way) for way in ways]
    print(json.dumps([vars(outcome) for outcome in outcomes]))


if __name__ == "__main__":
    main(*sys.argv[1:])
