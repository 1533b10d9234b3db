"""Checkpoint files: written whole or not at all, loaded without running code, kept and counted.

Loading admits tensors, numbers, strings, lists and dicts.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from utils.checkpoints.inspection import Altered, Error, check_checkpoint
from utils.checkpoints.manifest import check_shipped
from utils.errors import CheckpointError
from utils.files.atomic import write_atomic
from utils.files.pickles import Refused
from utils.paths import here_or_in_project

log = logging.getLogger(__name__)
STEP_NAME = re.compile(r"step_(\d+)\.pth$")
NUM_NAMED = 8  # tensors named of each kind when a state does not fit
#: Of what a training run stores; raise it when older versions would misread that.
CHECKPOINT_FORMAT = 1


def checkpoint_name(step: int) -> str:
    """Return the file name of the checkpoint after `step` steps."""
    return f"step_{step:06d}.pth"


class _Summing:
    """A stream to write to that sums what goes through it, so that no file is read for its sum."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest = stream, hashlib.sha256()
        self.name = stream.name

    def write(self, data: bytes) -> int:
        """Write all of the data, and return its number of bytes."""
        self.digest.update(data)
        return self.stream.write(data)

    def flush(self) -> None:
        """Pass on what is buffered."""
        self.stream.flush()


def save_checkpoint(path: str | os.PathLike, payload: dict[str, Any]) -> str:
    """Write a checkpoint in one go; return the SHA-256 sum of the file.

    Args:
        path: the file; its folder is made where absent.
        payload: tensors, numbers, strings, lists and dicts of them.

    Raises:
        WriteError: no permission, or no space; an earlier file of this name stays as it was.
    """
    sums: list[str] = []

    def write(stream: BinaryIO) -> None:
        summing = _Summing(stream)
        torch.save(payload, summing)
        sums.append(summing.digest.hexdigest())

    write_atomic(path, write)
    return sums[0]


def load_checkpoint(path: str | os.PathLike,
                    map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint, as `read_checkpoint` does; return what was saved."""
    return read_checkpoint(path, map_location)[0]


def read_checkpoint(path: str | os.PathLike,
                    map_location: str | torch.device = "cpu") -> tuple[dict[str, Any], str]:
    """Read a checkpoint; nothing in it is executed, and a file whose bits have changed is refused.

    The file is opened once: what was checked is what is loaded, even if the file is replaced
    meanwhile. Who needs a checkpoint in several places passes a `Checkpoint` on.

    Args:
        path: the file; one that is not here is looked for in the project.
        map_location: the device that tensors are put on.

    Returns:
        What was saved, and the SHA-256 sum of the file in 64 hexadecimal digits.

    Raises:
        CheckpointError: missing, damaged, holding code, not a checkpoint, or another file than the
            one that ships with the project.
    """
    path = here_or_in_project(path)
    if not os.path.isfile(path):      # False, not an error, for names that are too long
        found = "a folder" if os.path.isdir(path) else "nothing"
        raise CheckpointError(f"checkpoint {path}: found {found} there, needed a file; check the "
                              f"path")
    try:
        with path.open("rb") as stream:
            check_checkpoint(stream)
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            check_shipped(path, digest)
            stream.seek(0)
            payload = torch.load(stream, map_location=map_location, weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"checkpoint {path}: no permission to read it; change its mode or "
                              f"owner") from error
    except Refused as error:
        raise CheckpointError(f"checkpoint {path}: it holds code or objects ({error}), needed "
                              "tensors, numbers and strings only; it was not loaded, save its "
                              "tensors alone with torch.save") from error
    except Error as error:
        raise CheckpointError(f"checkpoint {path}: {_why_not_loaded(path, error)}") from error
    if not isinstance(payload, dict):
        raise CheckpointError(f"checkpoint {path}: holds a {type(payload).__name__}, needed a "
                              f"dict of tensors; give a file that a training script wrote")
    return payload, digest


def load_state(module: nn.Module, state: dict[str, Tensor], what: str, *,
               strict: bool = True) -> None:
    """Put stored tensors into a module, all of them or, unless strict, those that fit.

    Args:
        module: the network.
        state: tensors by name.
        what: the network and the file, for messages.
        strict: False: load what fits and log the rest.

    Raises:
        CheckpointError: names or shapes differ (strict), or nothing at all fits.
    """
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in state]
    foreign = [name for name in state if name not in wanted]
    misfits = [f"{name} {_shape(state[name])} for {_shape(wanted[name])}" for name in wanted
               if name in state and _shape(state[name]) != _shape(wanted[name])]
    fitting = {name: value for name, value in state.items()
               if name in wanted and _shape(value) == _shape(wanted[name])}
    if missing or foreign or misfits:
        differences = "; ".join(name_some(kind, names) for kind, names in (
            ("missing", missing), ("unexpected", foreign), ("of another shape", misfits)) if names)
        if strict or (wanted and not fitting):
            raise CheckpointError(f"{what}: {len(fitting)} of {len(wanted)} tensors fit; "
                                  f"{differences}; give a checkpoint of this architecture, or "
                                  f"the architecture's flags that it was trained with")
        log.warning("%s: loaded %d of %d tensors; %s", what, len(fitting), len(wanted),
                    differences)
    module.load_state_dict(fitting, strict=False)


def checkpoints_in(folder: str | os.PathLike) -> list[Path]:
    """Return the files `step_NUMBER.pth` of a folder, oldest step first."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    found = [(int(match.group(1)), path) for path in folder.iterdir()
             if (match := STEP_NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def keep_latest(folder: str | os.PathLike, num_kept: int) -> None:
    """Delete all but the latest checkpoints of a folder.

    Args:
        folder: where they are.
        num_kept: how many stay, at least 1.
    """
    if num_kept < 1:
        raise ValueError(f"num_kept is {num_kept}, needed at least 1")
    for path in checkpoints_in(folder)[:-num_kept]:
        path.unlink(missing_ok=True)


def set_aside_later(folder: str | os.PathLike, start: Path | None) -> None:
    """Rename checkpoints of later steps than `start` to NAME.damaged: a run resumes before them.

    They could not be read, or `start` would be one of them; left as they are, `keep_latest` would
    take them for the newest.
    """
    found = checkpoints_in(folder)
    for path in found[found.index(start) + 1:] if start in found else []:
        path.replace(path.with_name(f"{path.name}.damaged"))


def _why_not_loaded(path: Path, error: Exception) -> str:
    """Return what is wrong with a file that torch would not read."""
    if path.stat().st_size == 0:
        return "the file is empty; give another, or delete it so that an earlier one is used"
    if isinstance(error, Altered):
        return (f"its bits have changed since it was written ({error}); copy it again, or delete "
                "it so that an earlier one is used")
    with path.open("rb") as stream:
        looks_zipped = stream.read(2) == b"PK"
    if looks_zipped and not _has_zip_end(path):
        return ("the file is truncated or damaged; give another, or delete it so that an earlier "
                "one is used")
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return f"not a checkpoint, or damaged ({first_line[:200]}); give a file that torch.save wrote"


def _has_zip_end(path: Path) -> bool:
    """Return whether a zip archive has an end that can be understood."""
    try:
        return zipfile.is_zipfile(path)
    except (zipfile.BadZipFile, ValueError):       # an end of many disks, or of no sense
        return False


def _shape(value: Any) -> list[int] | str:
    """Return the shape of a tensor, or the kind of what is not one."""
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__


def name_some(kind: str, names: Sequence[object]) -> str:
    """Return the first names of a kind, and how many more there are; all of them go to the log."""
    names = [str(name) for name in names]
    if len(names) > NUM_NAMED:
        log.warning("%s, all %d: %s", kind, len(names), ", ".join(names))
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return f"{kind}: {', '.join(names[:NUM_NAMED])}{more}"
