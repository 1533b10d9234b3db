"""All that is measured of a GPU, part after part, with what the environment is.

Figures are written after each part: `figures.json`, and `figures.md` with tables for
docs/benchmarks.md.
"""
from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from data_processing.scenes.scene import outline_scene
from data_processing.scenes.writing import write_scene
from data_processing.synthetic.scenes import make_scene
from stages.gpu_figures.correctness import measure_correctness
from stages.gpu_figures.frames import measure_frames
from stages.gpu_figures.meta_run import measure_meta
from stages.gpu_figures.options import measure_options
from stages.gpu_figures.profiling import measure_profile
from stages.gpu_figures.setup import MeasureSetup
from stages.gpu_figures.training_runs import measure_training
from utils.benchmarking.figures_page import figures_page
from utils.benchmarking.parts import Part, as_json, run_parts
from utils.config.tool_sections import GpuConfig
from utils.config.values import parse_resolution
from utils.devices import pick_device
from utils.errors import ConfigError
from utils.files.atomic import write_text_atomic
from utils.files.limits import read_json
from utils.runs.run import revision

log = logging.getLogger(__name__)

#: In order of worth; the shares are of what time is left when a part begins.
PARTS = (Part("tests", 0.16, measure_correctness), Part("quality", 0.40, measure_training),
         Part("render", 0.10, measure_frames), Part("speed", 0.16, measure_options),
         Part("profile", 0.06, measure_profile), Part("meta", 0.12, measure_meta))
SIZES = {"cuda": "800x600", "cpu": "32x24"}
PACKAGES = ("torch", "triton", "numpy", "numba", "opencv-python", "opencv-python-headless",
            "scikit-image", "trimesh", "pytest")
MIB = 2 ** 20
NOWHERE = {"device": "", "date": "", "command": ""}


def measure_gpu(config: GpuConfig) -> Path:
    """Measure what the flags ask for.

    Returns:
        The page of figures.
    Raises:
        ConfigError: no such device, no time, or the scene is smaller than what is measured.
    """
    begin, output = time.monotonic(), Path(config.output).resolve()
    device = pick_device(config.device)
    if config.minutes <= 0:
        raise ConfigError(f"--minutes is {config.minutes:g}, needed more than 0; give 9")
    size = parse_resolution(config.resolution or SIZES[device.type])
    facts = environment(device, config)
    for name, value in facts.items():
        log.info("%s: %s", name, value)
    with opened(config.scene, size) as scene:
        setup = setup_of(scene, size, output, device.type)
        facts["scene"] = Path(config.scene).name or "synthetic"
        facts["resolution"] = "x".join(map(str, size))

        def saved(figures: dict[str, Any]) -> None:
            """Write all figures so far."""
            found = as_json({"environment": facts, **earlier(output), **figures})
            write_text_atomic(output / "figures.json", json.dumps(found, indent=1))
            write_text_atomic(output / "figures.md", figures_page(found))

        saved({})
        parts = [part for part in PARTS if config.part in ("all", part.name)]
        run_parts(parts, setup, output, config.minutes * 60 - (time.monotonic() - begin),
                  saved=saved)
    return output / "figures.md"


def earlier(output: Path) -> dict[str, Any]:
    """Return the figures of parts that are in the folder already, by an earlier call.

    Raises:
        ConfigError: the file is not of this program, or damaged.
    """
    path = output / "figures.json"
    if not path.is_file():
        return {}
    stored = read_json(path, error=ConfigError)
    try:
        found = {part.name: stored[part.name] for part in PARTS if part.name in stored.keys()}
        figures_page({"environment": NOWHERE, **found})        # they can be shown
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} holds no figures of an earlier call ({error!r}); give another "
                          "--output, or delete it") from error
    return found


@contextmanager
def opened(scene: str, size: tuple[int, int]) -> Iterator[str]:
    """Yield the folder of the scene; without a name that of a synthetic one, deleted after."""
    if scene:
        yield scene
        return
    with tempfile.TemporaryDirectory() as folder:
        made = make_scene("blobs", 0, resolution=size, supersampling=1, num_points=100)
        yield str(write_scene(made, Path(folder) / "scene", "processed"))


def setup_of(scene: str, size: tuple[int, int], output: Path, device: str) -> MeasureSetup:
    """Return what the parts are told; ConfigError where the scene is smaller than `size`."""
    outline = outline_scene(scene)
    width = outline.resolution[0]
    if width < size[0]:
        raise ConfigError(f"{scene}: its images are {width} wide, --resolution asks for {size[0]}; "
                          "give one that is not larger")
    return MeasureSetup(output, str(Path(scene).resolve()), outline.num_views, size[0] / width,
                        device)


def environment(device: torch.device, config: GpuConfig) -> dict[str, Any]:
    """Return what the figures were measured on and with."""
    found: dict[str, Any] = {
        "command": "measure_gpu.py " + " ".join(
            f"--{name} {value}" for name, value in asdict(config).items()
            if value not in ("", "auto") and name not in ("output", "scene")),
        "date": time.strftime("%Y-%m-%d"), "revision": revision(),
        "python": platform.python_version(), "device": str(device)}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        major, minor = torch.cuda.get_device_capability()
        found |= {"device": torch.cuda.get_device_name(), "capability": f"{major}.{minor}",
                  "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
                  "driver": driver(), "memory_free_mib": free // MIB,
                  "memory_mib": total // MIB}
    else:
        found["device"] = f"CPU, {torch.get_num_threads()} threads"
    return found


def driver() -> str:
    """Return the version of the GPU's driver, or "unknown"."""
    try:
        told = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
                              capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return told.stdout.strip() or "unknown"
