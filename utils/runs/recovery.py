"""What a run does about steps that are not finite: skip them, go back with half the rates, give up.

On a CPU a step that is not finite changes nothing and is skipped; after MOST_IN_ROW of them in a
row the run goes back to its last good checkpoint with half the rates. On a GPU, where a look at
every step would make the host wait, all updates rest from the first such step until the next look,
and the run goes back at once. After MOST_TRIES returns from the same place it ends.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

MOST_IN_ROW = 3
MOST_TRIES = 3


class LostStepsError(FloatingPointError):
    """Steps since the last look were lost, not this one alone: the run must go back."""


@dataclass
class Setbacks:
    """What a run met so far; kept in its checkpoints.

    Attributes:
        skipped: steps that changed nothing.
        in_row: of these, the last ones without a good one between.
        returns: to a checkpoint.
        tries: returns since a checkpoint was written beyond `failed_at`.
        failed_at: step at which the last return became necessary.
    """

    skipped: int = 0
    in_row: int = 0
    returns: int = 0
    tries: int = 0
    failed_at: int = -1

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Setbacks:
        """Those of a checkpoint; what it lacks, or has otherwise than as whole numbers, is new."""
        found = stored.get("setbacks")
        found = found if isinstance(found, dict) else {}
        return cls(**{field.name: found[field.name] for field in fields(cls)
                      if isinstance(found.get(field.name), int)})

    @property
    def rate_factor(self) -> float:
        """What all rates are multiplied with: half for each return."""
        return 0.5 ** self.returns

    def skip(self) -> None:
        """A step was not finite."""
        self.skipped += 1
        self.in_row += 1

    def go_back(self, step: int) -> None:
        """A return from `step` to a checkpoint begins."""
        self.returns += 1
        self.tries += 1
        self.in_row, self.failed_at = 0, step

    def saved(self, step: int) -> None:
        """A checkpoint was written after `step` good steps: what failed before it is overcome."""
        if step > self.failed_at:
            self.tries = 0
