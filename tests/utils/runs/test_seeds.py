"""One seed for everything random, and random states in checkpoints."""
from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from utils.checkpoints.storage import load_checkpoint, save_checkpoint
from utils.runs.seeds import random_state, seed_everything, set_random_state


def draw():
    """Numbers of all global generators."""
    return (random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(),
            torch.rand(()).item())


def test_random_states_pass_through_a_checkpoint(tmp_path):
    """In the midst of a pair of normal numbers, of which numpy and Python keep the second."""
    seed_everything(3)
    draw()
    save_checkpoint(tmp_path / "r.pth", {"random": random_state()})
    first = draw()
    set_random_state(load_checkpoint(tmp_path / "r.pth")["random"])
    assert draw() == first


def test_one_seed_gives_the_same_draws_and_another_other_ones():
    def drawn(seed):
        generator = seed_everything(seed)
        return *draw(), torch.rand((), generator=generator).item()

    first, again, other = drawn(5), drawn(5), drawn(6)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_seeds_below_zero_are_refused():
    with pytest.raises(ValueError, match="at least 0"):
        seed_everything(-1)
