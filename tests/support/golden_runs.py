"""Golden runs: twelve steps of every training stage, and the weights that they must end with.

A change that should not change any number, such as moving or renaming code, must leave these
weights the same to the bit. After a change that is meant to change numbers, record them anew and
say in the commit why they differ:

    python tests/support/golden_runs.py --record

This replaces the values of the machine at hand in golden_runs.json, beside this file, and keeps
those of other machines. Without --record it prints the values next to the recorded ones; with
`--root FOLDER` it runs another checkout, for example one of an earlier revision. It takes about a
minute on one core.
"""
from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

RECORDED = Path(__file__).with_suffix(".json")
ROOT = Path(__file__).resolve().parents[2]
NUM_STEPS = 12

#: The demonstration's networks and losses; steps 0 to 3 train the shape, then every third does.
METHOD = ("--seed 0 --num_threads 1 --device cpu --num_steps 12 --steps_til_ckpt 12 "
          "--init_sphere 1 --model_hidden_dims_sdf 128 --model_hidden_layers_sdf 3 "
          "--rt_num_mask_steps 24 --color_loss l1 --opt_sdf_eikonal_w 3 --loss_eikonal_metric l2 "
          "--lr 5e-4 --lr_sdf 1e-4 --batch_size 2048 --source_views_per_target 4 "
          "--image_batch_size 2 --test_views 2 --shape_warmup_steps 4 --shape_interval 3").split()
#: No scores and no results: nothing but the training steps.
BARE = ("--steps_til_pictures 0 --test_rt 0 --test_plot 0 --test_cameras 0 --test_metrics 0 "
        "--test_spacetime_video 0 --mesh_formats none --mesh_resolution 8").split()
WITHOUT_CLOUD, WITH_CLOUD = ["--use_pcd", "0"], ["--use_pcd", "1"]
REFINED = [*WITH_CLOUD, "--refine_cameras", "1", "--target_crop", "24x16"]

SCENE, SCENES = "SCENE", "SCENES"
#: What make_scene.py is given; `SCENE` and `SCENES` stand for the folders of one and of all scenes.
MAKE_SCENES = ("--kind all --num_scenes 2 --num_views 6 --resolution 32x24 --seed 0 "
               "--supersampling 1 --output SCENES").split()
#: The commands of each stage, in order: a script and its flags. Their last checkpoint counts.
STAGES: dict[str, list[tuple[str, list[str]]]] = {
    "training, fast tracer": [
        ("train_sdf_ibr", [*METHOD, *BARE, *WITHOUT_CLOUD, "--dataset_path", SCENE])],
    "training, reference tracer": [
        ("train_sdf_ibr", [*METHOD, *BARE, *WITHOUT_CLOUD, "--dataset_path", SCENE,
                           "--tracer", "reference"])],
    "resumed training": [
        ("train_sdf_ibr", [*METHOD, *BARE, *REFINED, "--dataset_path", SCENE, "--num_steps", "7"]),
        ("train_sdf_ibr", [*METHOD, *BARE, *REFINED, "--dataset_path", SCENE])],
    "meta-training": [
        ("train_sdf_ibr_meta", [*METHOD, *BARE, *WITHOUT_CLOUD, "--dataset_path", SCENES,
                                "--num_meta_steps", "2", "--meta_lr", "1e-2"])],
    "pre-training": [
        ("pretrain_features", "--seed 0 --num_threads 1 --device cpu --num_steps 12 --lr 5e-4 "
                              "--crop_size 32x24 --batch_size 2 --steps_til_pictures 0".split())]}

#: Takes a script's name and its flags, and runs it.
Call = Callable[[str, list[str]], None]


def machine() -> dict[str, str]:
    """Return what the bits of a run depend on beside its flags, by name.

    Vector extensions, the processor and bf16 choose which kernels of torch, oneDNN and MKL run;
    numba compiles some of this project's own.
    """
    return {"torch": torch.__version__,
            "vectors": torch.backends.cpu.get_cpu_capability(),
            "bf16": "native" if torch.cpu._is_avx512_bf16_supported() else "not native",
            "processor": _processor(),
            "numba": version("numba") if importlib.util.find_spec("numba") else "not installed"}


def _processor() -> str:
    """Return vendor, family and model of the processor, or the architecture where unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    facts = dict(reversed([[part.strip() for part in line.split(":", 1)]
                           for line in lines if ":" in line]))
    names = ("vendor_id", "cpu family", "model")
    return " ".join(facts[name] for name in names if name in facts) or platform.machine()


def recorded() -> list[dict[str, dict[str, str]]]:
    """Return what was recorded: for each machine its facts and the values of its runs."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def values_here() -> dict[str, str]:
    """Return the values that were recorded for this machine; empty where there are none."""
    here = machine()
    return next((entry["weights"] for entry in recorded() if entry["machine"] == here), {})


def difference() -> str:
    """Return how this machine differs from those recorded: of the closest, each fact and its."""
    here = machine()
    lists = [[f"{name} is {here[name]}, recorded {entry['machine'].get(name, 'none')}"
              for name in here if here[name] != entry["machine"].get(name)]
             for entry in recorded()]
    return "; ".join(min(lists, key=len, default=["nothing is recorded"]))


def make_scenes(folder: Path, call: Call) -> Path:
    """Write the golden runs' scenes into a folder, and return it."""
    call("make_scene", [str(folder) if flag == SCENES else flag for flag in MAKE_SCENES])
    return folder


def run_stage(stage: str, scenes: Path, folder: Path, call: Call) -> dict[str, Tensor]:
    """Train one stage, and return all weights that its last checkpoint holds, by name.

    Args:
        stage: a key of `STAGES`.
        scenes: what `make_scenes` wrote.
        folder: for the run, empty at first.
        call: runs a script.
    """
    first = sorted(path for path in scenes.iterdir() if path.is_dir())[0]
    for script, flags in STAGES[stage]:
        places = {SCENE: str(first), SCENES: str(scenes)}
        call(script, ["--logging_root", str(folder), "--experiment_name", "run",
                      *(places.get(flag, flag) for flag in flags)])
    path = folder / "run" / "checkpoints" / f"step_{NUM_STEPS:06d}.pth"
    task = torch.load(path, weights_only=True)["task"]
    return dict(_tensors({name: task[name] for name in ("model", "poses") if name in task}))


def _tensors(state: dict, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of a nested state."""
    for name, value in state.items():
        if isinstance(value, dict):
            yield from _tensors(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor):
            yield f"{prefix}{name}", value


def digest(weights: dict[str, Tensor]) -> str:
    """Return the sha256 of names, types, shapes and bytes, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def caller_of(root: Path) -> Call:
    """Return what runs the scripts of a checkout, each in a process of its own."""
    def call(script: str, flags: list[str]) -> None:
        command = [sys.executable, str(root / "experiment_scripts" / f"{script}.py"), *flags]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return call


def all_values(root: Path) -> dict[str, str]:
    """Run all stages of a checkout, and return the digest of each one's weights."""
    call = caller_of(root)
    with tempfile.TemporaryDirectory() as folder:
        scenes = make_scenes(Path(folder) / "scenes", call)
        return {stage: digest(run_stage(stage, scenes, Path(folder) / f"run_{i}", call))
                for i, stage in enumerate(STAGES)}


def main() -> None:
    """Print the values of a checkout, or record them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="keep the values found")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout that is run")
    options = parser.parse_args()
    found = all_values(options.root.resolve())
    if options.record:
        others = [entry for entry in recorded() if entry["machine"] != machine()] \
            if RECORDED.exists() else []
        content = json.dumps([*others, {"machine": machine(), "weights": found}], indent=1)
        RECORDED.write_text(content + "\n", encoding="utf-8")
    before = values_here() if RECORDED.exists() else {}
    for stage, value in found.items():
        print(f"{stage}: {value} ({'as' if before.get(stage) == value else 'not as'} recorded)")


if __name__ == "__main__":
    main()
