"""One seed for everything random, and random states that checkpoints can hold."""
from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch

NUM_NUMPY_SEEDS = 2**32  # numpy's global generator takes seeds below this


def seed_everything(seed: int) -> torch.Generator:
    """Seed the global generators of Python, numpy and torch.

    Args:
        seed: a whole number of at least 0.
    Returns:
        A CPU generator of the same seed, for samplers.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}, needed at least 0")
    random.seed(seed)
    np.random.seed(seed % NUM_NUMPY_SEEDS)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def generator_of(seed: int, *names: object) -> torch.Generator:
    """Return a random generator on the CPU that depends on a seed and on these names alone."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def item_in_turn(place: int, count: int, seed: int) -> int:
    """Return which of `count` items has a place in an endless row.

    All of them come once in random order, then all in another random order, and so on.

    Args:
        place: from 0.
        count: number of the items.
        seed: of the orders.
    """
    turn, place = divmod(place, count)
    return int(torch.randperm(count, generator=generator_of(seed, "order", turn))[place])


def random_state() -> dict[str, Any]:
    """Return the states of all global generators as tensors, lists, strings and numbers."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "generators": [],            # earlier versions look for this entry
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned.

    CUDA states of another number of devices are left out.
    """
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])
