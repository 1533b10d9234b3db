"""After how many steps a checkpoint of the released code was written.

Its files hold tensors alone. The step is in the optimiser's file beside it (`optim_*.pth` for
`model_*.pth`), or in its name.
"""
from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from utils.checkpoints.checkpoint import open_checkpoint
from utils.errors import CheckpointError

log = logging.getLogger(__name__)

#: Names under which an optimiser's file may keep the number of steps, most telling first.
STEP_NAMES = ("total_steps", "global_step", "step", "iteration", "iter")
IN_NAME = re.compile(r"(?:iter|iteration|steps?)_?(\d{1,12})(?!\d)", re.IGNORECASE)
EPOCH_IN_NAME = re.compile(r"epoch_?(\d{1,9})(?!\d)", re.IGNORECASE)
MAX_DEPTH = 6             # of dictionaries and lists that are searched


def released_step(path: Path, steps_per_epoch: int) -> tuple[int, str] | None:
    """Return after how many steps a released checkpoint was written, and what tells it.

    Args:
        path: of the checkpoint.
        steps_per_epoch: where only the epoch is known.
    Returns:
        None where nothing tells it.
    """
    for optimizer_path in _optimizer_paths(path):
        try:
            content = open_checkpoint(optimizer_path).content
        except CheckpointError as error:
            log.warning("skipped: %s", error)
            continue
        step = _stored_step(content, steps_per_epoch)
        if step is not None:
            return step, str(optimizer_path)
    if found := IN_NAME.search(path.stem):
        return int(found[1]), f"the name {path.name}"
    if found := EPOCH_IN_NAME.search(path.stem):
        return int(found[1]) * steps_per_epoch, f"the epoch in the name {path.name}"
    return None


def _optimizer_paths(path: Path) -> list[Path]:
    """Return the files beside a checkpoint that may be its optimiser's."""
    rest = re.sub(r"^model_?", "", path.name)
    names = [f"optim_{rest}", f"optim_{path.name}"]
    return [path.with_name(name) for name in dict.fromkeys(names)
            if name != path.name and path.with_name(name).is_file()]


def _stored_step(content: dict[str, Any], steps_per_epoch: int) -> int | None:
    """Return the step that an optimiser's file tells: as a number, by Adam's count, or an epoch."""
    numbers: dict[str, int] = {}
    for name, value in _numbers(content):
        numbers[name] = max(value, numbers.get(name, 0))
    for name in STEP_NAMES:
        if name in numbers:
            return numbers[name]
    return numbers["epoch"] * steps_per_epoch if "epoch" in numbers else None


def _numbers(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, int]]:
    """Yield the whole numbers of a nested structure, each with the name that it stands under."""
    if isinstance(value, Tensor):                        # Adam's count may be a tensor
        if value.numel() == 1 and name == "step":
            yield from _numbers(value.item(), name, depth)
    elif isinstance(value, dict) and depth < MAX_DEPTH:
        for key, inner in value.items():
            yield from _numbers(inner, str(key), depth + 1)
    elif isinstance(value, (list, tuple)) and depth < MAX_DEPTH:
        for inner in value:
            yield from _numbers(inner, name, depth + 1)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) \
            and 0 <= value < 2**53 and value == int(value):
        yield name, int(value)
