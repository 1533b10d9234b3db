"""What the web page's shaders read: sizes, cameras and weights in the layout of uniform blocks.

Channels lie in blocks of four, as `realtime/page/shaders.js` explains: block i holds the features
of feature image i in its first three places, and in its last one what else a network takes. A layer
is a grid of 4x4 matrices, columns first (std140), for each tap of a convolution; then its bias.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from realtime.students import PRIORS

#: Blocks of a network's input that have a free last place: D takes four numbers beside features.
LEAST_BLOCKS = 4


def page_sizes(description: Mapping[str, Any]) -> dict[str, int]:
    """Return the numbers that capitals in the shaders stand for; blocks come in pairs."""
    images = -(-description["features"]["channels"] // 3)
    hidden = [description[name]["layers"][0]["shape"][0] for name in ("aggregation", "decoder")]
    return {"K": len(description["views"]), "IMAGES": images,
            "IN": _even(max(images, LEAST_BLOCKS)), "G_HIDDEN": -(-hidden[0] // 4),
            "D_HIDDEN": _even(-(-hidden[1] // 4)),
            "PRIOR": PRIORS.index(description["aggregation"]["prior"])}


def _even(count: int) -> int:
    return count + count % 2


def uniform_blocks(description: Mapping[str, Any], weights: bytes) -> dict[str, np.ndarray]:
    """Return the numbers of each uniform block by its name, float32.

    Args:
        description: content of scene.json.
        weights: content of its file of weights.
    """
    sizes, numbers = page_sizes(description), np.frombuffer(weights, "<f4")
    channels = description["features"]["channels"]
    places = np.array([input_place(i, channels) for i in range(channels + 4)])
    span = np.zeros((2, 4 * sizes["IMAGES"]))
    low, high = (np.asarray(description["features"][key]) for key in ("low", "high"))
    span[0, places[:channels]], span[1, places[:channels]] = low, high - low
    g1, g2 = (_layer(layer, numbers) for layer in description["aggregation"]["layers"])
    d1, d2 = (_layer(layer, numbers) for layer in description["decoder"]["layers"])
    out = np.zeros(4 * sizes["G_HIDDEN"] + 4)
    out[:g2[0].size], out[4 * sizes["G_HIDDEN"]] = g2[0].ravel(), g2[1][0]
    inputs, hidden = sizes["IN"], sizes["D_HIDDEN"]
    blocks = {
        "Sources": _sources(description["views"]), "Range": span,
        "Aggregation": np.concatenate([
            matrices(*g1, places, rows=sizes["G_HIDDEN"], columns=inputs), out]),
        "Decoder1": matrices(*d1, places, rows=hidden, columns=inputs),
        "Decoder2": matrices(*d2, np.arange(4 * hidden), rows=1, columns=hidden)}
    return {name: block.astype("<f4").ravel() for name, block in blocks.items()}


def input_place(number: int, channels: int) -> int:
    """Return where input `number` of a network lies: features in threes, all else behind them."""
    if number < channels:
        return 4 * (number // 3) + number % 3
    return 4 * (number - channels) + 3


def _layer(layer: Mapping[str, Any], numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a layer's weights (out, in, taps) and bias (out,)."""
    num_out, num_in, *kernel = layer["shape"]
    size = num_out * num_in * int(np.prod(kernel, dtype=int))
    weight = numbers[layer["weight"]:layer["weight"] + size].reshape(num_out, num_in, -1)
    return weight, numbers[layer["bias"]:layer["bias"] + num_out]


def matrices(weight: np.ndarray, bias: np.ndarray, places: np.ndarray, *, rows: int,
             columns: int) -> np.ndarray:
    """Return a layer as 4x4 matrices, tap by tap, row by row; then its bias, padded.

    Args:
        weight: (out, in, taps).
        bias: (out,).
        places: (in or more,) where the inputs lie.
        rows, columns: blocks of four that the layer gives and takes.
    """
    num_out, num_in, num_taps = weight.shape
    padded = np.zeros((num_taps, 4 * rows, 4 * columns))
    padded[:, :num_out, places[:num_in]] = weight.transpose(2, 0, 1)
    grid = padded.reshape(num_taps, rows, 4, columns, 4).transpose(0, 1, 3, 4, 2)
    return np.concatenate([grid.ravel(), np.pad(bias, (0, 4 * rows - num_out))])


def _sources(views: list[Mapping[str, Any]]) -> np.ndarray:
    """Return of each view the matrix to (u z, v z, -, z); then centres; then depth ranges."""
    to_pixels, centers, ranges = [], [], []
    for view in views:
        told, pose = view["intrinsics"], np.asarray(view["object_to_camera"])
        x, y, z = pose[0], -pose[1], -pose[2]              # OpenCV axes
        rows = [told["fx"] * x + told["skew"] * y + told["cx"] * z,
                told["fy"] * y + told["cy"] * z, np.zeros(4), z]
        to_pixels.append(np.stack(rows).T.ravel())
        centers.append([*(-pose[:3, :3].T @ pose[:3, 3]), 0])
        ranges.append([*view["depth_range"], 0, 0])
    return np.concatenate([np.ravel(numbers) for numbers in (to_pixels, centers, ranges)])
