"""Uniform blocks of the web page: layers come out of them as plain products say."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from realtime.page_blocks import input_place, matrices
from realtime.web_page import SCRIPTS, SOURCES


def product(block: np.ndarray, x: np.ndarray, rows: int) -> np.ndarray:
    """What a shader computes of one tap: 4x4 matrices, columns first, times blocks of four."""
    grid, bias = block[:-4 * rows].reshape(rows, -1, 4, 4), block[-4 * rows:].reshape(rows, 4)
    blocks = x.reshape(-1, 4)
    return np.stack([bias[o] + sum(grid[o, i].T @ blocks[i] for i in range(len(blocks)))
                     for o in range(rows)]).ravel()


@pytest.mark.parametrize("channels, num_out", [(16, 16), (9, 5), (1, 1)])
def test_a_layer_times_its_input_is_the_plain_product(channels, num_out):
    generator = np.random.default_rng(0)
    weight, bias = generator.normal(size=(num_out, channels + 4, 1)), generator.normal(size=num_out)
    inputs = generator.normal(size=channels + 4)
    places = np.array([input_place(i, channels) for i in range(channels + 4)])
    assert len(set(places)) == len(places)                 # no two share a place
    rows, columns = -(-num_out // 4), max(-(-channels // 3), 4)
    x = np.zeros(4 * columns)
    x[places] = inputs
    found = product(matrices(weight, bias, places, rows=rows, columns=columns), x, rows)
    np.testing.assert_allclose(found[:num_out], weight[..., 0] @ inputs + bias, atol=1e-12)
    assert (found[num_out:] == 0).all()


def test_taps_follow_each_other():
    weight = np.arange(9.0).reshape(1, 1, 9)
    found = matrices(weight, np.zeros(1), np.zeros(1, int), rows=1, columns=2)
    assert found[:-4].reshape(9, 2, 4, 4)[:, 0, 0, 0].tolist() == list(range(9))
    assert np.count_nonzero(found) == 8


def code_lines(path: Path) -> int:
    """Lines that are neither empty nor only a comment."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return sum(bool(line) and not line.startswith(("//", "/**", "*")) for line in lines)


def test_the_page_stays_a_script_that_one_can_read():
    """Without the shaders, which are read on their own."""
    paths = [SOURCES / name for name in SCRIPTS]
    assert sum(code_lines(path) for path in paths if path.name != "shaders.js") <= 600
    assert all(len(line) <= 100 for path in paths
               for line in path.read_text(encoding="utf-8").splitlines())
