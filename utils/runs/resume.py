"""Which flags may change when a run resumes: some changes are refused, others are logged."""
from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from utils.errors import CheckpointError

log = logging.getLogger(__name__)

#: Flags that give stored tensors their meaning: with other values the tensors might still fit.
MEANING = {
    "sdf": ("model_activation_sdf", "model_hidden_layers_sdf", "model_hidden_dims_sdf",
            "model_skips_sdf", "posenc_sdf", "posenc_sdf_bands", "posenc_sdf_sigma",
            "posenc_sdf_expbands"),
    "cnn": ("model_image_encoder_depth", "model_image_encoder_features", "feature_type",
            "image_encoder"),
    "views": ("feature_aggregation_method",)}
#: Of these sections, the only flags that change what a step does.
STEP_FLAGS = {"run": ("seed", "batch_size", "image_batch_size"), "test": ()}
BY_THE_WEIGHTS = "auto"        # a value of image_encoder: the stored tensors decide

Sections = dict[str, dict[str, Any]]


def check_changes(before: Sections, now: Sections, path: Path) -> None:
    """Compare the flags that a checkpoint was written with to those of the run that resumes.

    Args:
        before, now: flags by section (`config_to_dict`); those that the checkpoint lacks, because
            they are newer than it, count as unchanged.
        path: of the checkpoint, for messages.
    Raises:
        CheckpointError: flags of the architecture differ. Others are named in a warning.
    """
    changed = _changed(before, now)
    refused = [text for (section, flag), text in changed.items()
               if flag in MEANING.get(section, ()) and BY_THE_WEIGHTS not in text.split()]
    if refused:
        raise CheckpointError(f"{path}: the run has another architecture, now the flags are "
                              f"{'; '.join(refused)}; give the same as before, or --restart 1 to "
                              "delete that run")
    if changed:
        log.warning("resumes with other flags than it began with: %s",
                    "; ".join(changed.values()))


def _changed(before: Sections, now: Sections) -> dict[tuple[str, str], str]:
    """Return "flag old -> new" by (section, flag), for changed flags that matter to training."""
    found = {}
    for section, flags in now.items():
        stored = before.get(section, {})
        for flag in STEP_FLAGS.get(section, flags):
            old, new = stored.get(flag, flags[flag]), flags[flag]
            if old != new:
                found[section, flag] = f"{flag} {old} -> {new}"
    return found
