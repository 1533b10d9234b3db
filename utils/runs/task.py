"""What a loop is given: the task that it trains, and when it stops, saves, scores and draws."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from utils.config.sections import RunConfig, ViewsConfig


class Task(Protocol):
    """What a loop trains; warnings, scores and pictures are empty unless a subclass gives them."""

    def scale_rates(self, factor: float) -> None:
        """Multiply the learning rates of all following steps by a factor, instead of the last."""
        raise NotImplementedError

    def train_step(self, step: int) -> dict[str, Tensor]:
        """Take one step; return losses as detached scalars by name, "total" among them.

        Raises:
            FloatingPointError: it was not finite, and nothing was changed.
        """
        raise NotImplementedError

    def step_kind(self, step: int) -> str:
        """Return a word for what a step trains; steps of one kind take alike long."""
        return "step"

    def warnings(self) -> dict[str, str]:
        """Return what is wrong though every number is finite: a short name and a sentence each."""
        return {}

    def score(self, step: int) -> dict[str, float]:
        """Return metrics on held-out data after `step` steps; empty if there is none."""
        return {}

    def scalars(self, step: int) -> dict[str, float]:
        """Return what TensorBoard shows beside losses and scores after `step` steps, by tag."""
        return {}

    def pictures(self, step: int) -> dict[str, np.ndarray]:
        """Return image grids (H, W, 3) uint8 by name, after `step` steps."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore everything that `state_dict` returned."""
        raise NotImplementedError


@dataclass(frozen=True)
class LoopOptions:
    """When a loop stops, saves, scores and draws; intervals are in steps, 0 means never.

    Attributes:
        num_steps: steps in all, those before a resume included.
        time_limit: seconds of training in all; 0: no limit.
        save_interval: between checkpoints.
        keep: number of checkpoints that are kept, the latest ones.
        scalar_interval, picture_interval: between entries of TensorBoard.
        score_steps, score_interval: held-out data is scored after these steps, and regularly.
        may_pause: whether a file in the run's folder lets it wait, see `stopping`.
    """

    num_steps: int
    time_limit: float = 0.0
    save_interval: int = 0
    keep: int = 2
    scalar_interval: int = 1
    picture_interval: int = 0
    score_steps: tuple[int, ...] = ()
    score_interval: int = 0
    may_pause: bool = True


def steps_per_epoch(views: ViewsConfig, num_views: int) -> int:
    """Return the steps of an epoch: total_number_source_views, or one a view where that is -1."""
    return views.total_number_source_views if views.total_number_source_views > 0 else num_views


def loop_options(run: RunConfig, epoch: int) -> LoopOptions:
    """Return the flags of a run as options of its loop; `epoch` is the number of its steps."""
    return LoopOptions(
        num_steps=run.num_steps if run.num_steps >= 0 else run.num_epochs * epoch,
        time_limit=run.time_limit, keep=run.keep_checkpoints,
        save_interval=run.steps_til_ckpt if run.steps_til_ckpt > 0 else run.epochs_til_ckpt * epoch,
        scalar_interval=run.steps_til_summary, picture_interval=run.steps_til_pictures,
        score_steps=run.eval_steps, score_interval=run.eval_interval)


def is_due(step: int, interval: int) -> bool:
    """Whether something that happens every `interval` steps (0: never) happens after this one."""
    return interval > 0 and step > 0 and step % interval == 0
