"""The release's recorded outputs: the full files where they lie, else the excerpt kept here.

The full files are in ../shared/golden. Where they are, `python tests/support/golden_files.py`
writes the excerpt anew from them: names and shapes of the release's checkpoints, the aggregation
and the SDF with some of their inputs and outputs (the SDF's hidden weights rounded to 16 bits;
encoder and decoder are too big).
"""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "golden"
EXCERPT = Path(__file__).resolve().parent / "golden_excerpt.npz"
LAYOUTS = ("sdfibrnet_dtu", "sdfibrnet_nlr", "reptile_dtu", "pretrain_standard",
           "pretrain_partial", "pretrain_meta")
NUM_ROWS = 64
#: Rounding to 16 bits: the largest weight becomes this.
INT16_MAX = 32767

needs_golden = pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/golden is not there")


def release_state() -> dict[str, Tensor]:
    """A whole checkpoint of the release, random weights."""
    return torch.load(FOLDER / "random_dtu_seed0.pth", weights_only=True)


def arrays(name: str) -> dict[str, Tensor]:
    """The recorded inputs and outputs of one network."""
    with np.load(FOLDER / f"{name}_random.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def excerpt() -> dict[str, Tensor]:
    """Weights, inputs and outputs of the excerpt; 16-bit weights come back as float32."""
    with np.load(EXCERPT) as file:
        tensors = {key: file[key] for key in file.files if not key.startswith("names.")}
    for key in [key for key in tensors if key.endswith(".scale")]:
        weight = key.removesuffix(".scale")
        tensors[weight] = tensors[weight].astype(np.float32) * tensors.pop(key)
    return {key: torch.from_numpy(value) for key, value in tensors.items()}


def layout(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one kind of release file."""
    with np.load(EXCERPT) as file:
        lines = str(file[f"names.{name}"]).splitlines()
    pairs = (line.split(" ") for line in lines)
    return {key: tuple(int(size) for size in shape.split("x") if size) for key, shape in pairs}


def full_layout(name: str) -> dict[str, tuple[int, ...]]:
    """What `layout` gives, from the full files."""
    content = json.loads((FOLDER / f"state_dict_{name}.json").read_text())
    return {entry["key"]: tuple(entry["shape"]) for entry in content["state_dict"]}


def write_excerpt() -> None:
    """Make the excerpt from the full files."""
    content: dict[str, np.ndarray] = {}
    for name in LAYOUTS:
        lines = [f"{key} {'x'.join(map(str, shape))}" for key, shape in full_layout(name).items()]
        content[f"names.{name}"] = np.array("\n".join(lines))
    for key, value in release_state().items():
        if not key.startswith(("agg_net", "decoder_sdf")):
            continue
        weight = value.numpy()
        if weight.size > 10_000:
            scale = np.float32(np.abs(weight).max() / INT16_MAX)
            content[f"{key}.scale"] = scale
            weight = np.rint(weight / scale).astype(np.int16)
        content[key] = weight
    rows, points = arrays("agg_net"), arrays("decoder_sdf")
    seen = torch.nonzero(rows["inp"][..., 0].flatten())[:NUM_ROWS, 0]
    content["inp"] = rows["inp"].flatten(0, -2)[seen].numpy()
    content["out"] = rows["out"].flatten()[seen].numpy()
    content["coords"] = points["coords"][0, :NUM_ROWS].numpy()
    content["sdf"] = points["sdf"][0, :NUM_ROWS, 0].numpy()
    content["grad"] = points["grad"][0, :NUM_ROWS].numpy()
    EXCERPT.parent.mkdir(exist_ok=True)
    np.savez_compressed(EXCERPT, **content)


if __name__ == "__main__":
    write_excerpt()
