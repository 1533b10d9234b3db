"""What a fuzzed reader is, and what several of them share."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from support.ball_scene import ball_scene

from data_processing.scenes.scene import Scene
from utils.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Reader:
    """What is fuzzed.

    Attributes:
        name: for the command line and the table.
        make: writes sound files into a new folder.
        read: reads the folder or, with `is_single`, the damaged file.
        files: pattern of the files that are damaged.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    files: str = "**/*"
    is_single: bool = False


class Unsound(Exception):
    """A reader gave back what should not be: numbers that are not finite."""


def check_finite(*tensors: torch.Tensor) -> None:
    """Raise Unsound where a number is NaN or infinite."""
    if not all(torch.isfinite(tensor).all() for tensor in tensors):
        raise Unsound("a tensor of the result is not finite")


def read_all(path: T, *reads: Callable[[T], object]) -> None:
    """Call every reader on a file or its content; a UserError is raised once all were called."""
    problem = None
    for read in reads:
        try:
            read(path)
        except UserError as error:
            problem = error
    if problem is not None:
        raise problem


def ball() -> Scene:
    """A ball seen by three cameras, of 16x12 pixels."""
    return ball_scene(0.6, num_views=3, resolution=(16, 12))
