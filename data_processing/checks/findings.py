"""What a check reports: findings with their cures, and the measurements that they rest on."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from data_processing.scenes.scene import Scene
from utils.geometry.visual_hull import Hull

ERROR, WARNING, NOTE = "error", "warning", "note"
#: Of the views that a finding is about, how many are named.
MAX_NAMED_VIEWS = 8
#: Masks of less than this fraction of the image count as empty.
MIN_MASK = 0.002


@dataclass(frozen=True)
class Finding:
    """Something that prevents training (error), harms it (warning), or is worth knowing (note).

    Attributes:
        code: short name, the same for all scenes.
        severity: error, warning or note.
        found: what was measured, in words.
        cure: what to do.
    """

    code: str
    severity: str
    found: str
    cure: str

    def __str__(self) -> str:
        """Return the finding as one line of text."""
        return f"{self.severity}: {self.code}: {self.found}; {self.cure}"


@dataclass(frozen=True)
class CheckResult:
    """What the check measured.

    Attributes:
        findings: worst first.
        facts: lines of measured values.
        epipolar: (V,) median distance of each view's matches, working pixels, NaN without matches.
        agreement: (V,) agreement of mask and hull, NaN without masks.
        hull: carved in object space, or None without masks.
        outlines: (V, 1, h, w) bool, of the hull, or None.
    """

    findings: tuple[Finding, ...]
    facts: tuple[str, ...]
    epipolar: np.ndarray
    agreement: np.ndarray
    hull: Hull | None
    outlines: Tensor | None

    @property
    def has_errors(self) -> bool:
        """Return whether training on the scene cannot work."""
        return any(finding.severity == ERROR for finding in self.findings)


def names_of(scene: Scene, views: list[int]) -> str:
    """Return the names of views for a sentence."""
    named = ", ".join(scene.view_names[i] for i in views[:MAX_NAMED_VIEWS])
    more = f" and {len(views) - MAX_NAMED_VIEWS} more" if len(views) > MAX_NAMED_VIEWS else ""
    return f"view{'s' if len(views) > 1 else ''} {named}{more}"
