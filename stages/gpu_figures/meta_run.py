"""Weights meta-trained on the GPU, on synthetic scenes that are made beside it."""
from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from data_processing.scenes.writing import write_scene
from data_processing.synthetic.scenes import make_scene, scene_plan
from stages.gpu_figures.setup import MeasureSetup
from stages.meta_training import WEIGHTS_FILE, meta_train
from utils.benchmarking.parts import CONTEXT, Recorder
from utils.checkpoints.weights import with_meta_start
from utils.config.parser import META_SECTIONS, parse_config
from utils.config.stage_sections import META_DEFAULTS
from utils.devices import pick_device
from utils.paths import PROJECT_ROOT
from utils.runs.distributed import Ranks

SIZE, SMALL_SIZE = (400, 300), (32, 24)      # of the scenes, on CUDA and on a CPU
NUM_SCENES, NUM_SMALL = 28, 2
MAKING_SECONDS = 0.3                         # of the time, for the scenes
NUM_VIEWS = 49
INNER_STEPS, FEW_INNER_STEPS = 64, 4
SEED = 100                                   # of the first scene; the demonstration's is 0
FLAGS: tuple[str, ...] = ()                  # further ones of the run
LEAST_SECONDS = 30.0                         # on CUDA: one outer step takes seconds


def measure_meta(setup: MeasureSetup, recorder: Recorder) -> None:
    """Make scenes, meta-train on them for what time is left, and keep the weights."""
    if setup.is_cuda and recorder.left() < LEAST_SECONDS:
        recorder.note("meta-training", f"left out: it needs {LEAST_SECONDS:.0f} s")
        return
    with tempfile.TemporaryDirectory() as folder:
        scenes = Path(folder) / "scenes"
        start = time.monotonic()
        recorder.attempt("scenes", lambda: make_scenes(
            scenes, setup.is_cuda, recorder.left() * MAKING_SECONDS))
        recorder.note("seconds_making", round(time.monotonic() - start, 1))
        recorder.attempt("meta-training", lambda: meta_training(setup, scenes, recorder))


def make_scenes(folder: Path, is_cuda: bool, seconds: float) -> int:
    """Write synthetic scenes, each in a process of its own, until the time is over.

    Returns:
        How many there are; the first is always waited for.
    """
    size, count = (SIZE, NUM_SCENES) if is_cuda else (SMALL_SIZE, NUM_SMALL)
    folder.mkdir(parents=True)
    plan = [(kind, seed, size, folder) for kind, seed in scene_plan("all", SEED, count)]
    end, made = time.monotonic() + seconds, 0
    with CONTEXT.Pool(min(count, os.cpu_count() or 1)) as pool:
        for _ in pool.imap_unordered(write_one, plan):
            made += 1
            if time.monotonic() > end:
                break
    return made


def write_one(item: tuple[str, int, tuple[int, int], Path]) -> None:
    """Write one scene; a folder of that name is whole or not there."""
    import torch
    torch.set_num_threads(1)
    kind, seed, size, folder = item
    scene = make_scene(kind, seed, num_views=NUM_VIEWS, resolution=size, supersampling=1,
                       num_points=100)
    write_scene(scene, folder / f"{kind}_{seed}", "processed")


def meta_training(setup: MeasureSetup, scenes: Path, recorder: Recorder) -> dict[str, Any]:
    """Meta-train from the shipped start on a folder of scenes; copy the weights to the results."""
    logs = scenes.parent / "logs"
    time_limit = max(recorder.left() * 0.8, 0.1)
    config = parse_config(META_SECTIONS, [
        "--config_filepath", "configs/demo_meta.txt", "--experiment_name", "meta",
        "--logging_root", str(logs), "--dataset_path", str(scenes), "--device", setup.device,
        "--max_image_side", str(SIZE[0]), "--num_steps", "100000", "--steps_til_ckpt", "100000",
        "--steps_til_pictures", "0", "--time_limit", str(time_limit), "--num_meta_steps",
        str(INNER_STEPS if setup.is_cuda else FEW_INNER_STEPS),
        "--meta_initialization", str(PROJECT_ROOT / "checkpoints" / "meta_made.pth"), *FLAGS],
        defaults=META_DEFAULTS)
    begin = time.monotonic()
    text = meta_train(*with_ranks(with_meta_start(config), setup))
    path = setup.output / "weights_meta.pth"
    shutil.copyfile(logs / "meta" / WEIGHTS_FILE, path)
    return {"result": text.removeprefix(f"{logs}{os.sep}"), "seconds": time.monotonic() - begin,
            "weights": path.name}


def with_ranks(found: tuple[Any, Any], setup: MeasureSetup) -> tuple[Any, Ranks, Any]:
    """Return what `meta_train` takes, for this process alone."""
    config, initial = found
    return config, Ranks(device=pick_device(setup.device)), initial
