"""How far a run is, in memory and in its checkpoints, and what metrics.json says of it."""
from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from utils.checkpoints.checkpoint import Checkpoint
from utils.checkpoints.released_steps import released_step
from utils.errors import CheckpointError
from utils.files.limits import short
from utils.runs.recovery import RecoveryState
from utils.runs.run import Run

log = logging.getLogger(__name__)

#: Steps and seconds of a run are fewer.
MAX_COUNT = 2**53


@dataclass
class Progress:
    """How far a loop is.

    Attributes:
        step: steps done.
        seconds: spent on them.
        curve: rows of curve.csv so far.
        seed: that of a run that is over; None while a run is going on.
        recovery: what was done about steps that were not finite.
        warnings: what is wrong now, by short names.
        checkpoint_sha256: of the file that holds these weights; "" before it is written.
        is_step_known: False for a file that does not say after how many steps it was written.
    """

    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    seed: int | None = None
    recovery: RecoveryState = field(default_factory=RecoveryState)
    warnings: dict[str, str] = field(default_factory=dict)
    checkpoint_sha256: str = ""
    is_step_known: bool = True


def run_facts(run: Run, progress: Progress) -> dict[str, Any]:
    """Return what metrics.json says of a run beside its metrics."""
    device = str(run.device) if run.device.type == "cpu" else torch.cuda.get_device_name(run.device)
    return {"steps": progress.step, "train_seconds": round(progress.seconds, 3),
            "seed": run.config.run.seed if progress.seed is None else progress.seed,
            "device": device, "threads": torch.get_num_threads(),
            "skipped_steps": progress.recovery.skipped,
            "notices": list(progress.warnings.values()),
            "checkpoint_sha256": progress.checkpoint_sha256}


def entry_of(stored: Mapping[str, Any], name: str, kind: Any, default: Any = None) -> Any:
    """Return an entry of a checkpoint that tells how far a run is.

    Args:
        stored: content of the checkpoint.
        name: step, seconds or curve.
        kind: int, float or list.
        default: where it is absent; None: it must be there.
    Raises:
        KeyError: it is absent.
        ValueError: it is of another kind, or no such number.
    """
    value: Any = stored[name] if default is None else stored.get(name, default)
    if kind is list:
        is_good = isinstance(value, list) and all(isinstance(row, dict) for row in value)
    else:
        is_good = isinstance(value, (int, kind)) and not isinstance(value, bool) \
            and 0 <= value < MAX_COUNT
    if not is_good:
        raise ValueError(f"{name} is {short(value)}")
    return kind(cast(Any, value))


def stored_progress(checkpoint: Checkpoint, steps_per_epoch: int = 0) -> Progress:
    """Return how far the run was that wrote a checkpoint; step 0 for files that do not say.

    Args:
        checkpoint: of a training run, of the released code, or networks alone.
        steps_per_epoch: of the released code's run, whose step is looked for where it may be;
            0: it is not.
    Raises:
        CheckpointError: its entries are of another kind.
    """
    stored = checkpoint.content
    try:
        seed = stored.get("config", {}).get("run", {}).get("seed")
        found = Progress(entry_of(stored, "step", int, 0), entry_of(stored, "seconds", float, 0.0),
                         entry_of(stored, "curve", list, []),
                         seed if isinstance(seed, int) else None,
                         RecoveryState.of(stored), checkpoint_sha256=checkpoint.sha256)
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.path}: its step, seconds, curve or config is of "
                              f"another kind ({error}); give one that a training script "
                              "wrote") from error
    if steps_per_epoch and "step" not in stored and checkpoint.is_released_scene:
        told = released_step(checkpoint.path, steps_per_epoch)
        found.is_step_known = told is not None
        if told is None:
            log.info("%s does not say after how many steps it was written: the last occ_threshold "
                     "is taken", checkpoint.path)
        else:
            found.step = told[0]
            log.info("%s: written after %d steps, by %s", checkpoint.path, *told)
    return found
