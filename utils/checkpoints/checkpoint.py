"""A checkpoint as an object: read and checked once, then handed to all who need a part of it."""
from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.checkpoints.networks import StoredNetworks, networks_in
from utils.checkpoints.released_names import META_PREFIX, is_release_key
from utils.checkpoints.storage import CHECKPOINT_FORMAT, checkpoints_in, read_checkpoint
from utils.errors import CheckpointError, UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A file of weights, of a format that this version reads.

    Whoever gets one need not open the file again, and sees what was checked even if the file has
    been replaced since.

    Attributes:
        path: where it was read.
        content: all that it holds, tensors on the CPU: of a training run format, task, random,
            step, seconds, setbacks, curve and config; of other files networks by name.
        sha256: of the file, 64 hexadecimal digits; it stands in the results.
    """

    path: Path
    content: dict[str, Any] = field(repr=False)
    sha256: str = ""

    @property
    def task(self) -> dict[str, Any]:
        """The state of what a training run trained; empty where the file is of none."""
        task = self.content.get("task")
        return task if isinstance(task, dict) else {}

    @property
    def networks(self) -> StoredNetworks:
        """Its networks; CheckpointError where it holds none."""
        return networks_in(self.content, self.path)

    @property
    def is_released_scene(self) -> bool:
        """Whether the released code wrote it in training on a scene, not in meta-training."""
        return any(is_release_key(key) and not key.startswith(META_PREFIX) for key in self.content)

    def release(self) -> None:
        """Let go of the content once it is where it belongs; the path stays.

        A run holds the checkpoint that it resumed from to its end, and traced surfaces and
        optimiser states may be gigabytes.
        """
        self.content.clear()


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        CheckpointError: missing, damaged, holding code, not a checkpoint, or of a later version.
    """
    return _of_known_format(Checkpoint(Path(path), *read_checkpoint(path)))


@contextmanager
def of_a_run(path: Path, cure: str) -> Iterator[None]:
    """Say that a checkpoint is of something else where its entries do not serve in the block.

    Args:
        path: of the checkpoint.
        cure: what to do then.
    Raises:
        CheckpointError: an entry is missing, or of another kind, shape or length.
    """
    try:
        yield
    except (AttributeError, KeyError, IndexError, OverflowError, RuntimeError, TypeError,
            ValueError) as error:
        is_memory = isinstance(error, RuntimeError) and "memory" in str(error)
        if is_memory or isinstance(error, UserError):
            raise
        what = f"it lacks {error}" if isinstance(error, KeyError) else \
            (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{path} is of a run with other flags, or of another script "
                              f"({what}); {cure}") from error


def latest_checkpoint(folder: str | os.PathLike) -> Checkpoint | None:
    """Return the newest checkpoint that can be read; damaged ones are skipped with a warning.

    Args:
        folder: where they are; it need not exist.
    Raises:
        CheckpointError: it is of a later version. An older one is not taken instead, as the run
            would then go on beside what a newer version has reached.
    """
    for path in reversed(checkpoints_in(folder)):
        try:
            content, digest = read_checkpoint(path)
        except CheckpointError as error:
            log.warning("skipped: %s", error)
        else:
            return _of_known_format(Checkpoint(path, content, digest))
    return None


def _of_known_format(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint itself; CheckpointError for a training run's of a later version.

    Files without a number (networks alone, releases) are taken as they are.
    """
    found = checkpoint.content.get("format", CHECKPOINT_FORMAT)
    if not isinstance(found, int) or found > CHECKPOINT_FORMAT:
        raise CheckpointError(f"checkpoint {checkpoint.path}: of format {found}, this version "
                              f"reads formats up to {CHECKPOINT_FORMAT}; update to the version "
                              "that wrote it")
    return checkpoint
