"""Meta-training: Reptile or first-order MAML over a pool of scenes, on one or several processes.

Per outer step some scenes each start from the slow weights, take k inner steps with an optimiser of
their own, and the slow weights move along the mean of what they ask for (METHOD 7,
`meta_modules`). Phi has one outer rate, encoder, decoder and aggregation another. Which scenes a
step takes, and all that is random in them, depends on the seed, the step and the position in the
batch alone: not on the number of processes, nor on where a run was stopped.
"""
from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from data_processing.scenes.pool import PoolScene, ScenePool
from meta_modules import (
    OuterAdam,
    Weights,
    adapt,
    all_finite,
    copy_weights,
    fomaml_update,
    mean_update,
    move_slow,
    put_weights,
    reptile_update,
)
from scheduler import OuterPlan, StepPlan, plan_outer_step
from stages.evaluation import SceneEvaluation
from stages.scene import build_scene_trainer, check_memory
from training import SceneTrainer
from utils.checkpoints.storage import load_state, name_some
from utils.config.parser import Config
from utils.config.sections import RatesConfig
from utils.config.stage_sections import MetaConfig
from utils.errors import ConfigError
from utils.runs.distributed import (
    Ranks,
    broadcast_int,
    broadcast_tensors,
    failing_together,
    sum_over_ranks,
)
from utils.runs.loop import Loop, LoopOptions, Progress
from utils.runs.run import Run

log = logging.getLogger(__name__)

STOP = -1                       # the step that tells the other ranks to end
#: Means over the inner steps that a curve shows; then the image loss of the first and last step.
MEANS = ("total", "image", "soft_mask")
FIGURES = (*MEANS, "image_first", "image_last")


class InnerTask(Protocol):
    """One scene's training, as `training.SceneTrainer` does it."""

    plan: Callable[[int], StepPlan]

    def train_step(self, step: int) -> dict[str, Tensor]:
        """One step of the model with this task's own optimiser."""

    def losses(self, plan: StepPlan) -> dict[str, Tensor]:
        """Losses of a fresh batch, "total" with its graph."""

    def score(self, step: int) -> dict[str, float]:
        """Mean metrics of the held-out views after `step` steps."""


#: What a single scene's plan of a step becomes; None: it stays.
Adjust = Callable[[StepPlan], StepPlan] | None
#: Model, scene, generator and adjustment of its plan to the training of that scene.
MakeTask = Callable[[nn.Module, PoolScene, torch.Generator, Adjust], InnerTask]


class MetaTrainer:
    """Learns the first weights of a model; a `Task` of the loop whose steps are outer steps.

    Args:
        model: it starts from its weights; afterwards it is only a place to work in.
        pool: the scenes.
        make_task: makes one scene's training.
        meta: the flags.
        rates: of the inner steps.
        seed: of everything random.
        ranks: the processes; all of them make a MetaTrainer.
    """

    def __init__(self, model: nn.Module, pool: ScenePool, make_task: MakeTask,
                 *, meta: MetaConfig, rates: RatesConfig, seed: int,
                 ranks: Ranks = Ranks()) -> None:
        self.model, self.pool, self.make_task = model, pool, make_task
        self.meta, self.rates, self.seed, self.ranks = meta, rates, seed, ranks
        self.batch_size, self.rate_factor = meta.meta_batch_size or ranks.size, 1.0
        self.first_state = {name: value.clone() for name, value in model.state_dict().items()}
        self.slow = copy_weights(model)
        names = [name for name, _ in model.named_parameters()]
        self.adam = OuterAdam(self.slow, names) if meta.meta_algorithm == "fomaml" else None
        self.trials: ScenePool | None = None
        self.make_trial = make_task

    def train_step(self, step: int) -> dict[str, Tensor]:
        """One outer step, of which the other ranks do their share (`follow`).

        Returns:
            Means over the batch; "total", "image" and "soft_mask" are means over the inner steps.
        Raises:
            FloatingPointError: a loss or an update is not finite, here or on another rank; the
                slow weights are as before.
            RankError: another rank failed or is gone.
        """
        broadcast_int(step, self.ranks)
        plan = plan_outer_step(step, self.meta)
        update, figures = self._update(step, plan)
        rates = {"sdf": plan.meta_lr_sdf, "": plan.meta_lr}
        if self.adam is None:
            move_slow(self.slow, update, rates)
        else:
            k = self.meta.num_meta_steps
            self.adam.move(update, rates, {"sdf": k * self.rates.lr_sdf * plan.inner_factor_sdf,
                                           "": k * self.rates.lr * plan.inner_factor})
        return dict(zip(FIGURES, figures, strict=True))

    def follow(self) -> None:
        """What all ranks but the main one do: their share of its steps, until it ends."""
        while (step := broadcast_int(STOP, self.ranks)) != STOP:
            with suppress(FloatingPointError):             # the main rank skips the step too
                self._update(step, plan_outer_step(step, self.meta))

    def finish(self) -> None:
        """Tell the other ranks that the run is over."""
        broadcast_int(STOP, self.ranks)

    def _update(self, step: int, plan: OuterPlan) -> tuple[Weights, Tensor]:
        """The batch's mean update, and its mean FIGURES; each rank computes its share."""
        self.batch_size = broadcast_int(self.batch_size, self.ranks)
        factor = torch.tensor(self.rate_factor, device=self.ranks.device)
        broadcast_tensors([*self.slow.values(), factor], self.ranks)
        self.rate_factor = float(factor)
        share = self.ranks.share(self.batch_size)
        with failing_together(self.ranks):
            found = [self._adapt_to_scene(step, position, plan) for position in share]
            self._check_finite(found, [self.scene_of(step, position) for position in share])
        zeros = {name: torch.zeros_like(value) for name, value in self.slow.items()}
        mean = mean_update([update for update, _ in found]) if found else zeros
        figures = torch.stack([row for _, row in found]).mean(0) if found else \
            torch.zeros(len(FIGURES), device=self.ranks.device)
        if self.ranks.size == 1:
            return mean, figures
        flat = torch.cat([value.reshape(-1) for value in (*mean.values(), figures)])
        flat = sum_over_ranks(flat * (len(share) / self.batch_size), self.ranks)
        *values, figures = flat.split([*(value.numel() for value in mean.values()), len(figures)])
        return {name: value.view_as(mean[name])
                for name, value in zip(mean, values, strict=True)}, figures

    def _adapt_to_scene(self, step: int, position: int, plan: OuterPlan) -> tuple[Weights, Tensor]:
        """k inner steps on one scene of the batch: its update and its FIGURES."""
        scene = self.pool[self.scene_of(step, position)]
        self._read_ahead(step, position)
        task = self.make_task(self.model, scene, self.generator("inner", step, position),
                              lambda single: plan.inner(single).scaled(self.rate_factor))
        k = self.meta.num_meta_steps
        losses: list[dict[str, Tensor]] = []
        try:
            adapt(self.model, self.slow, lambda number: losses.append(task.train_step(number)), k)
        except FloatingPointError as error:
            raise FloatingPointError(f"scene {scene.name}, inner step {len(losses)}: "
                                     f"{error}") from error
        if self.adam is None:
            update = reptile_update(self.model, self.slow)
        else:
            update = fomaml_update(self.model, self.slow,
                                   lambda: task.losses(task.plan(k))["total"])
        figures = [sum(row[name] for row in losses) / k for name in MEANS]
        return update, torch.stack([*figures, losses[0]["image"], losses[-1]["image"]])

    def _check_finite(self, found: Sequence[tuple[Weights, Tensor]],
                      scenes: Sequence[int]) -> None:
        """Raise FloatingPointError that names the scenes whose update or FIGURES are not finite.

        On a GPU an inner step that is not finite shows in the figures alone. The host reads once
        an outer step.
        """
        if not found:
            return
        is_finite = torch.stack([all_finite({**update, "figures": row}) for update, row in found])
        bad = [self.pool.entries[scene].outline.path.name
               for scene, good in zip(scenes, is_finite.tolist(), strict=True) if not good]
        if bad:
            raise FloatingPointError(f"scene {', '.join(bad)}: a loss, a gradient or the update of "
                                     "the slow weights is not finite")

    def _read_ahead(self, step: int, position: int) -> None:
        """Begin to read the scene that this rank needs next."""
        following = position + self.ranks.size
        if following < self.batch_size:
            self.pool.read_ahead(self.scene_of(step, following))
        else:
            self.pool.read_ahead(self.scene_of(step + 1, self.ranks.rank))

    def scene_of(self, step: int, position: int) -> int:
        """Number of a scene: all of them in random order, then all in another order, and so on."""
        turn, place = divmod(step * self.batch_size + position, len(self.pool))
        order = torch.randperm(len(self.pool), generator=self.generator("order", turn))
        return int(order[place])

    def generator(self, *names: object) -> torch.Generator:
        """A generator of its own for each purpose, step and position."""
        digest = hashlib.sha256(repr((self.seed, *names)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def score(self, step: int) -> dict[str, float]:
        """Mean figures on the withheld scenes: before and after a few steps on each.

        Returns:
            "start_psnr", and after `meta_eval_steps` steps "psnr", "mask_iou" and the others.
        """
        if self.trials is None:
            return {}
        rows = [self._try_on(index) for index in range(len(self.trials))]
        names = set.intersection(*(set(row) for row in rows))
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]
                if name in names}

    def _try_on(self, index: int) -> dict[str, float]:
        scene, num_steps = self.trials[index], self.meta.meta_eval_steps
        put_weights(self.model, self.slow)
        task = self.make_trial(self.model, scene, self.generator("trial", index), None)
        before = task.score(0)
        for number in range(num_steps):
            task.train_step(number)
        start = {"start_psnr": before["psnr"]} if "psnr" in before else {}
        return start | task.score(num_steps)

    def scale_rates(self, factor: float) -> None:
        """Multiply the learning rates of all following steps by a factor, instead of the last."""
        self.rate_factor = factor

    def notices(self) -> dict[str, str]:
        """None: the slow weights are of no scene."""
        return {}

    def pictures(self, step: int) -> dict[str, np.ndarray]:
        """None: the slow weights are of no scene."""
        return {}

    def learned_model(self) -> nn.Module:
        """The model with the slow weights."""
        self.model.load_state_dict(self.first_state | self.slow)
        return self.model

    def state_dict(self) -> dict[str, Any]:
        """The slow weights as a model's, and what the next outer step depends on."""
        state = {name: value.clone() for name, value in (self.first_state | self.slow).items()}
        return {"model": state, "batch_size": self.batch_size,
                "outer": self.adam.optimizer.state_dict() if self.adam else None,
                "scenes": [entry.outline.path.name for entry in self.pool.entries]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; a batch size that no flag gives is the run's so far."""
        if (state["outer"] is None) != (self.adam is None):
            raise ValueError("it was meta-trained with another --meta_algorithm")
        load_state(self.model, state["model"], "the run's checkpoint")
        for name, value in copy_weights(self.model).items():
            self.slow[name].copy_(value)
        if self.adam is not None:
            self.adam.optimizer.load_state_dict(state["outer"])
        self.batch_size = self.meta.meta_batch_size or state["batch_size"]
        names, before = [entry.outline.path.name for entry in self.pool.entries], state["scenes"]
        if names != before:
            differences = {"gone": [name for name in before if name not in names],
                           "new": [name for name in names if name not in before]}
            log.warning("goes on with %d scenes, not the %d that it began with: %s", len(names),
                        len(before), "; ".join(name_some(kind, scenes) for kind, scenes in
                                               differences.items() if scenes))


def meta_train(trainer: MetaTrainer, run: Run, options: LoopOptions) -> Progress | None:
    """Run the loop in the main rank, and the others' shares in the others.

    Returns:
        How far it came; None on ranks that only follow.
    """
    if not trainer.ranks.is_main:
        trainer.follow()
        return None
    progress = Loop(trainer, run, options).run()
    trainer.finish()
    return progress


def check_meta(config: Config) -> None:
    """Raise ConfigError for flags that meta-training has no use for: they are of one scene."""
    for flag, plain in (("refine_cameras", config.views.refine_cameras == 0),
                        ("init", config.sdf.init == "sphere")):
        if not plain:
            raise ConfigError(f"--{flag} is of one scene, meta-training learns a start for many; "
                              "leave it out, and give it to test_sdf_ibr_meta.py")


def task_on_scene(model: nn.Module, scene: PoolScene, generator: torch.Generator,
                  adjust: Adjust = None, *, config: Config) -> SceneTrainer:
    """Return the training of a pool's scene, scored where the scene has held-out views.

    Nothing is traced yet: a view is when it first serves.
    """
    device = next(model.parameters()).device
    evaluation = None if scene.scene is None else SceneEvaluation(scene.scene, scene.split)
    trainer = build_scene_trainer(model, scene.views.to(device), config, generator=generator,
                                  cloud=scene.cloud, evaluation=evaluation, adjust=adjust)
    check_memory(trainer)
    return trainer
