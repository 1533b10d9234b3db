"""Sines in machine code against those of float64, and where there are none to be right about."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from utils.fast.siren import evaluator as siren_chunks
from utils.fast.siren.evaluator import sine_and_cosine_layer, sine_layer

sine_loops = pytest.importorskip("utils.fast.kernels.sines", reason="compiled loops need numba",
                                 exc_type=ImportError)


def sines_of(x):
    """Of x (N, M): sine, and sine and cosine together; x is left alone."""
    alone, cosines, sines = x.copy(), x.copy(), np.empty_like(x)
    zero = np.zeros(x.shape[1], np.float32)
    sine_loops.add_and_sine(alone, zero)
    sine_loops.add_and_sine_and_cosine(cosines, zero, sines)
    return alone, sines, cosines


@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 30.0, 300.0, 1e4])
def test_sines_are_right_to_their_last_digits(scale):
    """Between 0.5 and 1 two float32 are 6e-8 apart."""
    x = (scale * np.random.default_rng(0).standard_normal((2000, 7))).astype(np.float32)
    exact = x.astype(np.float64)
    alone, sines, cosines = sines_of(x)
    for found, expected in ((alone, np.sin(exact)), (sines, np.sin(exact)),
                            (cosines, np.cos(exact))):
        assert np.abs(found - expected).max() < 1.5e-7


def test_sines_at_and_next_to_multiples_of_a_quarter_turn():
    x = np.float32(math.pi / 2) * np.arange(-4000, 4000, dtype=np.float32)
    x = np.stack([np.nextafter(x, np.float32(-9e9)), x, np.nextafter(x, np.float32(9e9))], 1)
    alone, sines, cosines = sines_of(x)
    exact = x.astype(np.float64)
    assert max(np.abs(found - np.sin(exact)).max() for found in (alone, sines)) < 1.5e-7
    assert np.abs(cosines - np.cos(exact)).max() < 1.5e-7


@pytest.mark.parametrize("scale", [1e5, 1e6, 1e7])
def test_sines_of_large_phases_are_as_right_as_the_phase_is(scale):
    x = (scale * np.random.default_rng(0).uniform(0.5, 1, (2000, 3))).astype(np.float32)
    exact, neighbour = x.astype(np.float64), np.spacing(x).max()
    for found, expected in zip(sines_of(x), (np.sin(exact), np.sin(exact), np.cos(exact)),
                               strict=True):
        assert np.abs(found - expected).max() < neighbour


def test_sines_of_huge_phases_are_bounded_and_of_no_numbers_are_none():
    alone, sines, cosines = sines_of(np.float32([[1e8, -3e12, 1e20, -3e38]]))
    assert max(np.abs(found).max() for found in (alone, sines, cosines)) < 1.001
    for found in sines_of(np.float32([[math.nan, math.inf, -math.inf]])):
        assert np.isnan(found).all()


@pytest.mark.parametrize("is_plain", [False, True])
def test_layers_are_those_of_the_network(is_plain, monkeypatch):
    """Compiled or by numpy, against float64: phases of order 30 carry 4e-6. The input's buffer may
    take the result."""
    if is_plain:
        monkeypatch.setattr(siren_chunks, "loops_for", lambda *_: None)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.rand(shape, generator=generator) for shape in ((500, 16), (16, 16)))
    weight, bias = 10 * weight - 5, torch.rand(16, generator=generator)
    phase = hidden.double() @ weight.double() + bias
    found = sine_layer(hidden, weight, bias, out=torch.empty(500, 16))
    torch.testing.assert_close(found.double(), phase.sin(), atol=1e-5, rtol=0)
    cosines = torch.empty(500, 16)
    found = sine_and_cosine_layer(hidden, weight, bias, sines=hidden, cosines=cosines)
    assert found is hidden
    torch.testing.assert_close(found.double(), phase.sin(), atol=1e-5, rtol=0)
    torch.testing.assert_close(cosines.double(), phase.cos(), atol=1e-5, rtol=0)
