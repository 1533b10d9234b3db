"""What a run does about steps that are not finite: skip them, return to a checkpoint, give up.

On a CPU a step that is not finite changes nothing and is skipped; after MAX_SKIPPED_IN_ROW of them
the run returns to its last good checkpoint, with half the learning rates. On a GPU, where reading
the losses of every step would make the host wait, no step after the first such one changes
anything until the losses are next read, and the run returns to a checkpoint at once. After
MAX_TRIES returns from the same place the run ends.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

MAX_SKIPPED_IN_ROW = 3
MAX_TRIES = 3
#: Name of a checkpoint's entry; earlier versions wrote and read it under this name too.
CHECKPOINT_ENTRY = "setbacks"


class LostStepsError(FloatingPointError):
    """Steps before this one may be lost as well, so that the run must return to a checkpoint."""


@dataclass
class RecoveryState:
    """What a run has done so far about steps that were not finite; kept in its checkpoints.

    Attributes:
        skipped: number of steps that changed nothing.
        in_row: how many of the last steps these were.
        returns: number of returns to a checkpoint.
        tries: returns since a checkpoint was written beyond `failed_at`.
        failed_at: the step from which the last return was made.
    """

    skipped: int = 0
    in_row: int = 0
    returns: int = 0
    tries: int = 0
    failed_at: int = -1

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> RecoveryState:
        """Return the state in a checkpoint; entries that are missing or no counts are as new."""
        found = stored.get(CHECKPOINT_ENTRY)
        found = found if isinstance(found, dict) else {}
        return cls(**{field.name: found[field.name] for field in fields(cls)
                      if isinstance(found.get(field.name), int)
                      and found[field.name] >= field.default})

    def as_entry(self) -> dict[str, Any]:
        """Return the state as an entry of a checkpoint, which `of` reads."""
        return {CHECKPOINT_ENTRY: asdict(self)}

    @property
    def rate_factor(self) -> float:
        """Factor of all learning rates: a half for each return."""
        return 0.5 ** self.returns

    def skip(self) -> None:
        """Note a step that was not finite."""
        self.skipped += 1
        self.in_row += 1

    def go_back(self, step: int) -> None:
        """Note the beginning of a return from `step` to a checkpoint."""
        self.returns += 1
        self.tries += 1
        self.in_row, self.failed_at = 0, step

    def saved(self, step: int) -> None:
        """Note that a checkpoint was written after `step` steps: earlier failures are overcome."""
        if step > self.failed_at:
            self.tries = 0
