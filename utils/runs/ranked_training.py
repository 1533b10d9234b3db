"""Training that several processes share: the main one runs the loop, the others follow its steps.

`torchrun` starts the same script in every process, and each makes the same trainer. Only the main
process reads checkpoints, decides when to stop, and writes files. Before each step it sends the
others the step's number, and what has changed by a resume or a return to a checkpoint.
"""
from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from utils.runs.distributed import Ranks, broadcast_tensors
from utils.runs.loop import Loop
from utils.runs.progress import Progress
from utils.runs.run import Run
from utils.runs.stopping import RunStopped, stop_requests
from utils.runs.task import LoopOptions, Task

STOP = -1                 # in place of a step's number: the run is over


class RankedTrainer(Task):
    """A `Task` whose steps all processes do together.

    Subclasses give `shared_step` and `share_state`, and call `state_changed` where they restore a
    state. With one process the step is all that is done.

    Args:
        ranks: the processes of the run.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.rate_factor = ranks, 1.0
        self.state_changed()

    def shared_step(self, step: int) -> dict[str, Tensor]:
        """Do this process's part of a step, which all processes have entered.

        Returns:
            Losses of the whole step; only those of the main process are used.
        Raises:
            FloatingPointError: on all processes: something was not finite, nothing was changed.
            RankError: another process failed, or is gone.
        """
        raise NotImplementedError

    def share_state(self) -> None:
        """Give all processes the main one's state as far as `shared_step` depends on it."""
        raise NotImplementedError

    def scale_rates(self, factor: float) -> None:
        """Multiply the learning rates of all following steps by a factor, instead of the last."""
        self.rate_factor = factor

    def state_changed(self) -> None:
        """Note that the main process's state is to be shared before the next step."""
        self._is_shared = self.ranks.size == 1

    def train_step(self, step: int) -> dict[str, Tensor]:
        """Do a step together with the other processes; called by the main process's loop."""
        self._announced(step)
        return self.shared_step(step)

    def follow(self) -> None:
        """Take part in the main process's steps until it is finished; called by the others."""
        while (step := self._announced(STOP)) != STOP:
            with suppress(FloatingPointError):             # the main process skips the step too
                self.shared_step(step)

    def finish(self) -> None:
        """Tell the other processes that there are no more steps."""
        self._announced(STOP)

    def _announced(self, step: int) -> int:
        """Return the main process's step; its rate factor, and a new state, are shared as well."""
        if self.ranks.size == 1:
            return step
        order = torch.tensor([step, self.rate_factor, self._is_shared], dtype=torch.float64,
                             device=self.ranks.device)
        broadcast_tensors([order], self.ranks)
        number, self.rate_factor, is_shared = order.tolist()
        if not is_shared and number != STOP:
            self.share_state()
            self._is_shared = True
        return int(number)


def train_on_ranks(trainer: RankedTrainer, run: Run, options: LoopOptions) -> Progress | None:
    """Run the loop in the main process, and follow it in the others.

    A signal that is sent to all processes, as torchrun does, is heeded by the main one's loop.

    Returns:
        How far the training came; None on processes that followed.
    Raises:
        RunStopped: a signal asked for it; the main process has saved the last step.
    """
    if not trainer.ranks.is_main:
        with stop_requests() as stop:
            trainer.follow()
        if stop.number is not None:
            raise RunStopped(stop.number, "the main process says what is saved")
        return None
    try:
        # Other processes would wait for a paused one until their connection times out.
        options = replace(options, may_pause=trainer.ranks.size == 1)
        progress = Loop(trainer, run, options).run()
    except RunStopped:
        trainer.finish()
        raise
    trainer.finish()
    return progress
