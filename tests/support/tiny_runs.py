"""Scripts as modules, and the flags of runs that take a second."""
from __future__ import annotations

import importlib.util
import logging
import os
import socket
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import torch

from utils.checkpoints.storage import checkpoints_in, load_checkpoint
from utils.config.parser import META_SECTIONS, TRAIN_SECTIONS, Config, parse_config
from utils.config.stage_sections import META_DEFAULTS
from utils.runs.folder import RunLog
from utils.runs.script import run_script

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "experiment_scripts"
NUM_VIEWS, WIDTH, HEIGHT = 6, 32, 24
#: Few views, rays and points; steps 0 and 1 train the shape, then every third.
SMALL = ("--source_views_per_target 3 --image_batch_size 2 --batch_size 64 --rt_num_mask_steps 8 "
         "--shape_warmup_steps 2 --shape_interval 3 --model_hidden_dims_sdf 16 "
         "--model_hidden_layers_sdf 1 --use_pcd 0 --num_threads 1 --test_views 2").split()
#: No pictures, no video, no mesh.
BARE = ("--steps_til_pictures 0 --test_rt 0 --test_plot 0 --test_cameras 0 --test_metrics 0 "
        "--test_spacetime_video 0 --mesh_formats none --mesh_resolution 8").split()
#: All results, in little.
FULL = "--mesh_resolution 24 --video_num_frames 3 --video_fps 10".split()


@cache
def script(name: str) -> ModuleType:
    """A script as a module; its `main` takes the arguments."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(name: str, *flags: object) -> None:
    """Run a script's `main` in this process, which then holds no run's log and lock any more.

    The report's curves are drawn only with the other plots: they take longer than a tiny run.
    """
    words = [str(flag) for flag in flags]
    try:
        with _blank_curves() if _last_value(words, "--test_plot") == "0" else nullcontext():
            script(name).main(words)
    finally:
        root = logging.getLogger()
        for handler in [handler for handler in root.handlers if isinstance(handler, RunLog)]:
            root.removeHandler(handler)
            handler.close()


def _blank_curves() -> AbstractContextManager:
    """Let reports show a white picture in place of their curves."""
    blank = np.full((8, 8, 3), 255, np.uint8)
    return mock.patch("utils.results.report.curve_plot", lambda rows: blank)


def _last_value(words: list[str], flag: str) -> str:
    """Return the value that counts of a flag, or an empty text."""
    return next((value for name, value in zip(words[-2::-1], words[:0:-1], strict=True)
                 if name == flag), "")


def call_as_user(name: str, *flags: object) -> None:
    """The same as from a shell: errors of the user's become an exit code and a line."""
    run_script(lambda: call(name, *flags))


def start(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    """Run python in a process of its own."""
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, text=True,
                          capture_output=True, timeout=120, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})


def start_as_ranks(*arguments: object, cwd: Path, size: int = 2) -> list[tuple[int, str]]:
    """Run python in `size` processes as torchrun starts them; (exit code, output) of each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = os.environ | {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
                           "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen([sys.executable, *map(str, arguments)], cwd=cwd, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
               for rank in range(size)]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    return [(process.returncode, output)
            for process, output in zip(started, outputs, strict=True)]


def flags_of(root: Path, scene: Path, *more: object, name: str = "run",
             sphere: Path | None = None) -> list[str]:
    """The flags of a tiny run without results; `more` goes last and wins."""
    first = ["--checkpoint_sdf", sphere] if sphere else []
    return [str(flag) for flag in ("--logging_root", root, "--experiment_name", name,
                                   "--dataset_path", scene, *first, *SMALL, *BARE, *more)]


def config_of(*flags: object) -> Config:
    """Flags as a configuration."""
    return parse_config(TRAIN_SECTIONS, [str(flag) for flag in flags])


def meta_config_of(*flags: object) -> Config:
    """Flags as the configuration of meta-training."""
    return parse_config(META_SECTIONS, [str(flag) for flag in flags], defaults=META_DEFAULTS)


def final_state(folder: Path) -> dict:
    """The run's latest checkpoint."""
    return load_checkpoint(checkpoints_in(folder / "checkpoints")[-1])


def differing(one: object, other: object, name: str = "") -> list[str]:
    """Names of all entries of two nested states that are not the same to the bit."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [name]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{name}: keys"]
        return [x for key in one for x in differing(one[key], other[key], f"{name}.{key}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [f"{name}: length"]
        pairs = enumerate(zip(one, other, strict=True))
        return [x for i, pair in pairs for x in differing(*pair, f"{name}[{i}]")]
    return [] if one == other else [name]
