"""One seed for everything random, and random states in checkpoints."""
from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from utils.checkpoints.storage import load_checkpoint, save_checkpoint
from utils.runs.seeds import (
    generator_of,
    item_in_turn,
    random_state,
    seed_everything,
    set_random_state,
)


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


def test_items_come_by_turns():
    drawn = [item_in_turn(place, 5, seed=3) for place in range(20)]
    turns = [tuple(drawn[start:start + 5]) for start in range(0, 20, 5)]
    assert all(sorted(turn) == list(range(5)) for turn in turns) and len(set(turns)) > 1
    assert drawn != [item_in_turn(place, 5, seed=4) for place in range(20)]


def test_generators_depend_on_seed_and_names_alone():
    def drawn(*names):
        return torch.rand(3, generator=generator_of(*names)).tolist()

    assert drawn(0, "inner", 1) == drawn(0, "inner", 1)
    assert len({tuple(drawn(*names)) for names in ((0, "a", 1), (0, "a", 2), (1, "a", 1),
                                                   (0, "b", 1))}) == 4
