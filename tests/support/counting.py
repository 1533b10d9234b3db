"""A task that counts what a loop asks of it, and loops round it."""
from __future__ import annotations

from pathlib import Path

import torch

from support.tiny_runs import config_of
from utils.checkpoints.storage import checkpoints_in
from utils.runs.loop import Loop
from utils.runs.run import start_run
from utils.runs.task import LoopOptions


class Counter:
    """A task whose state is a sum of random numbers; remembers what it was asked for."""

    def __init__(self) -> None:
        self.total = torch.zeros(())
        self.scored, self.drawn, self.fails_at = [], [], {}
        self.rate_factor, self.trouble, self.tried = 1.0, {}, []

    def scale_rates(self, factor):
        self.rate_factor = factor

    def train_step(self, step):
        self.tried.append((step, self.rate_factor))
        if step in self.fails_at:
            raise self.fails_at[step]
        self.total = self.total + torch.rand(())
        return {"image": torch.tensor(float(step)), "total": self.total}

    def step_kind(self, step):
        return "shape" if step % 4 == 0 else "image"

    def score(self, step):
        self.scored.append(step)
        return {"psnr": 10.0 + step}

    def scalars(self, step):
        return {"rates/lr": 0.5 ** step}

    def warnings(self):
        return self.trouble

    def pictures(self, step):
        self.drawn.append(step)
        return {"views": torch.zeros(4, 4, 3, dtype=torch.uint8).numpy()}

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


class MakeLoop:
    """Makes loops round a task that counts; their runs are in a folder "run".

    Args:
        root: folder of the runs.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, options: LoopOptions, *flags: object,
                 task: Counter | None = None) -> tuple[Loop, Counter]:
        """Return a loop and its task; `flags` go last and win."""
        config = config_of("--logging_root", self.root, "--experiment_name", "run", *flags)
        task = task or Counter()
        return Loop(task, start_run(config), options), task


def steps_of(loop: Loop) -> list[int]:
    """Return the steps of the checkpoints that there are."""
    return [int(path.stem.split("_")[1]) for path in checkpoints_in(loop.folder.checkpoints)]


class Remote:
    """A loss on a GPU: counts how often it is read."""

    def __init__(self, value, reads):
        self.value, self.reads, self.device = value, reads, torch.device("cuda")

    def __float__(self):
        self.reads.append(self.value)
        return float(self.value)


class RemoteCounter(Counter):
    """A task whose losses are on a GPU; the total is NaN from step `bad` on."""

    def __init__(self, bad=10 ** 9):
        super().__init__()
        self.reads, self.bad = [], bad

    def train_step(self, step):
        super().train_step(step)
        value = step if step < self.bad else float("nan")
        return {"total": Remote(value, self.reads)}
