"""Small stacks of layers and folders of pairs for the tests of flow and pre-training."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_processing.flow.synthetic_layers import Motion, Shape, Texture
from data_processing.flow.synthetic_pairs import Layer, SyntheticPair, SyntheticPairs, write_pair

WIDTH, HEIGHT = 40, 32


def smooth_texture(phase: float = 0.0, *, side: int = 160) -> Texture:
    """Waves of 26 to 40 pixels: bilinear sampling of them is right to half a level."""
    y, x = np.mgrid[:side, :side]
    waves = [np.sin(2 * np.pi * (a * x + b * y) / 160 + phase + c)
             for a, b, c in ((4, 1, 0), (-2, 5, 1), (3, -4, 2))]
    texels = 128 + 60 * np.stack(waves, -1)
    return Texture(texels.astype(np.float32), np.eye(2), np.array([70.0, 70.0]))


def shifted(x: float, y: float) -> Motion:
    """A translation in pixels."""
    return Motion(np.eye(2), np.zeros(2), np.array([x, y], float))


def diamond(x: float, y: float, radius: float) -> Shape:
    """|dx| + |dy| < radius, as a polygon."""
    corners = np.array([[0.0, -1.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    return Shape(np.array([x, y], float), np.eye(2) / radius, corners, np.zeros((4, 2)))


def two_layers(ground: Motion, thing: Motion) -> list[Layer]:
    """A background and a diamond of radius 8.3 round (18, 15)."""
    return [Layer(ground, smooth_texture()), Layer(thing, smooth_texture(2.0),
                                                   diamond(18, 15, 8.3))]


def write_flyingchairs2(folder: Path, num_pairs: int = 3, size: tuple[int, int] = (40, 32),
                        seed: int = 5) -> list[SyntheticPair]:
    """A folder of synthetic pairs; gives what was written."""
    source = SyntheticPairs(size, seed)
    pairs = [source.exact_pair(index) for index in range(num_pairs)]
    for index, pair in enumerate(pairs):
        write_pair(pair, folder, f"{index:07d}")
    return pairs


def shared_flow(root: Path, name: str) -> Path:
    """A folder of real flow data; the test is skipped where it is absent."""
    folder = root.parent / "shared" / "data" / "flow" / name
    if not folder.is_dir():
        pytest.skip(f"no real pairs at {folder}")
    return folder
