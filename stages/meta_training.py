"""Meta-training: Reptile or first-order MAML over a pool of scenes, on one or several processes.

In an outer step the model is adapted to each scene of a batch: from the slow weights, by k inner
steps with an optimiser of its own. The slow weights then move along the mean of the scenes' updates
(docs/method.md, section 7; `meta_modules`). Phi has one outer learning rate, encoder, decoder and
aggregation another. Which scenes a step takes, and all that is random in it, depends on the seed,
the step and the position in the batch alone: not on the number of processes, nor on where a run
was stopped.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from data_processing.scenes.pool import PoolScene, ScenePool, open_pool
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
from stages.meta_pictures import (
    MAX_SHOWN_SCENES,
    adaptation_grid,
    inner_loss_plot,
    rendered_while_adapting,
)
from stages.models import model_of
from stages.scene import build_scene_trainer, check_memory
from training import SceneTrainer
from utils.checkpoints.networks import NETWORKS
from utils.checkpoints.storage import load_state, name_some
from utils.checkpoints.weights import InitialWeights, save_networks
from utils.command_names import typed
from utils.config.parser import Config
from utils.config.sections import RatesConfig, ViewsConfig
from utils.config.stage_sections import MetaConfig
from utils.errors import ConfigError
from utils.optimization.parameter_groups import load_adam
from utils.results.curve import write_curve
from utils.runs.distributed import (
    ONE_PROCESS,
    Ranks,
    broadcast_int,
    broadcast_tensors,
    failing_together,
    gather_in_turn,
)
from utils.runs.ranked_training import RankedTrainer, train_on_ranks
from utils.runs.run import start_run
from utils.runs.seeds import generator_of, item_in_turn
from utils.runs.task import loop_options, steps_per_epoch

log = logging.getLogger(__name__)

WEIGHTS_FILE = "meta_start.pth"
#: Losses of an outer step: means over its inner steps, and the image loss of the first and last.
MEANS = ("total", "image", "soft_mask")
LOSSES = (*MEANS, "image_first", "image_last")


class InnerTask(Protocol):
    """The training of one scene, such as `training.SceneTrainer`."""

    plan: Callable[[int], StepPlan]

    def train_step(self, step: int) -> dict[str, Tensor]:
        """Take one step of the model with this task's own optimiser."""
        ...

    def losses(self, plan: StepPlan) -> dict[str, Tensor]:
        """Return the losses of a batch drawn anew, "total" with its graph."""
        ...

    def score(self, step: int) -> dict[str, float]:
        """Return mean metrics of the held-out views after `step` steps."""
        ...

#: What a single scene's plan of a step becomes in an outer step; None: it stays.
Adjust = Callable[[StepPlan], StepPlan] | None


class MakeTask(Protocol):
    """Makes the training of one scene."""

    def __call__(self, model: nn.Module, scene: PoolScene, generator: torch.Generator, *,
                 adjust: Adjust = None) -> InnerTask:
        """Return the training of a model on a scene; `adjust` changes its plan of each step."""
        ...


class MetaTrainer(RankedTrainer):
    """Learns the initial weights of a model; a `Task` of the loop whose steps are outer steps.

    Args:
        model: the learning starts from its weights; afterwards its weights are those of whatever
            scene was adapted to last.
        pool: the scenes.
        make_task: makes the training of one scene.
        meta: the flags of meta-training.
        rates: learning rates of the inner steps.
        seed: of everything random.
        ranks: the processes; each makes a MetaTrainer with the same weights.

    Attributes:
        trials: held-out scenes on which the slow weights are scored, or None.
        make_trial: makes the training of a held-out scene.
        reference_view: number of the view that pictures show, of each scene.
    """

    def __init__(self, model: nn.Module, pool: ScenePool, make_task: MakeTask,
                 *, meta: MetaConfig, rates: RatesConfig, seed: int,
                 ranks: Ranks = ONE_PROCESS) -> None:
        super().__init__(ranks)
        self.model, self.pool, self.make_task = model, pool, make_task
        self.meta, self.rates, self.seed = meta, rates, seed
        self.batch_size = meta.meta_batch_size or ranks.size
        self.first_state = {name: value.clone() for name, value in model.state_dict().items()}
        self.slow = copy_weights(model)
        names = [name for name, _ in model.named_parameters()]
        self.adam = OuterAdam(self.slow, names) if meta.meta_algorithm == "fomaml" else None
        self.trials: ScenePool | None = None
        self.make_trial = make_task
        self.reference_view = -1
        self._inner: tuple[str, list[dict[str, Tensor]]] = ("", [])

    def shared_step(self, step: int) -> dict[str, Tensor]:
        """Take one outer step: all processes adapt to scenes, the main one moves the slow weights.

        Returns:
            LOSSES as means over the batch.
        Raises:
            FloatingPointError: a loss or an update is not finite, here or on another rank; the
                slow weights are as before.
            RankError: another rank failed or is gone.
        """
        plan = plan_outer_step(step, self.meta)
        update, losses = self._update(step, plan)
        if self.ranks.is_main:
            self._move(update, plan)
        return dict(zip(LOSSES, losses, strict=True))

    def share_state(self) -> None:
        """Give all ranks the main one's batch size; weights are shared in each step."""
        self.batch_size = broadcast_int(self.batch_size, self.ranks)

    def _move(self, update: Weights, plan: OuterPlan) -> None:
        """Move the slow weights along an update."""
        rates = {"sdf": plan.meta_lr_sdf, "": plan.meta_lr}
        if self.adam is None:
            move_slow(self.slow, update, rates)
        else:
            k = self.meta.num_meta_steps
            self.adam.move(update, rates, {"sdf": k * self.rates.lr_sdf * plan.inner_factor_sdf,
                                           "": k * self.rates.lr * plan.inner_factor})

    def _update(self, step: int, plan: OuterPlan) -> tuple[Weights, Tensor]:
        """Return the batch's mean update and mean LOSSES; each rank computes its share of them.

        They are added in the order of the batch, so that they have the same bits for any number of
        ranks.
        """
        broadcast_tensors(list(self.slow.values()), self.ranks)
        share = self.ranks.share(self.batch_size)
        with failing_together(self.ranks):
            found = [self._adapt_to_scene(step, position, plan) for position in share]
            self._check_finite(found, [self.scene_of(step, position) for position in share])
        like = [*self.slow.values(), torch.zeros(len(LOSSES), device=self.ranks.device)]
        rows = gather_in_turn([[*(update[name] for name in self.slow), losses]
                               for update, losses in found], like, self.batch_size, self.ranks)
        updates = [dict(zip(self.slow, row[:-1], strict=True)) for row in rows]
        return mean_update(updates), torch.stack([row[-1] for row in rows]).mean(0)

    def _adapt_to_scene(self, step: int, position: int, plan: OuterPlan) -> tuple[Weights, Tensor]:
        """Take k inner steps on one scene of the batch; return its update and its LOSSES."""
        scene = self.pool[self.scene_of(step, position)]
        self._read_ahead(step, position)
        task = self.make_task(self.model, scene, self.generator("inner", step, position),
                              adjust=lambda single: plan.inner(single).scaled(self.rate_factor))
        k = self.meta.num_meta_steps
        losses: list[dict[str, Tensor]] = []
        try:
            adapt(self.model, self.slow, lambda number: losses.append(task.train_step(number)),
                  num_steps=k)
        except FloatingPointError as error:
            raise FloatingPointError(f"scene {scene.name}, inner step {len(losses)}: "
                                     f"{error}") from error
        if self.adam is None:
            update = reptile_update(self.model, self.slow)
        else:
            update = fomaml_update(self.model, self.slow,
                                   lambda: task.losses(task.plan(k))["total"])
        self._inner = scene.name, losses
        means = [sum(row[name] for row in losses) / k for name in MEANS]
        return update, torch.stack([*means, losses[0]["image"], losses[-1]["image"]])

    def _check_finite(self, found: Sequence[tuple[Weights, Tensor]],
                      scenes: Sequence[int]) -> None:
        """Raise FloatingPointError that names the scenes whose update or LOSSES are not finite.

        On a GPU an inner step that is not finite shows in the losses alone, which the host reads
        here, once in an outer step.
        """
        if not found:
            return
        is_finite = torch.stack([all_finite({**update, "losses": row}) for update, row in found])
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
        """Return the number of a scene of a batch.

        They come in turn, see `item_in_turn`.
        """
        return item_in_turn(step * self.batch_size + position, len(self.pool), self.seed)

    def generator(self, *names: object) -> torch.Generator:
        """Return a random generator that depends on the seed and on these names alone."""
        return generator_of(self.seed, *names)

    def score(self, step: int) -> dict[str, float]:
        """Return mean metrics on the held-out scenes, before and after a few steps on each.

        Returns:
            "start_psnr" of the slow weights, and after `meta_eval_steps` steps "psnr", "mask_iou"
            and the other metrics; empty without held-out scenes.
        """
        if self.trials is None:
            return {}
        rows = [self._score_on(self.trials[index], self.generator("trial", index))
                for index in range(len(self.trials))]
        names = set.intersection(*(set(row) for row in rows))
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]
                if name in names}

    def _score_on(self, scene: PoolScene, generator: torch.Generator) -> dict[str, float]:
        """Return metrics of one held-out scene, after some steps on it from the slow weights."""
        num_steps = self.meta.meta_eval_steps
        put_weights(self.model, self.slow)
        task = self.make_trial(self.model, scene, generator)
        before = task.score(0)
        for number in range(num_steps):
            task.train_step(number)
        start = {"start_psnr": before["psnr"]} if "psnr" in before else {}
        return start | task.score(num_steps)

    def scalars(self, step: int) -> dict[str, float]:
        """Return the outer learning rates and the factors of the inner ones, by tag."""
        plan = plan_outer_step(max(step - 1, 0), self.meta)
        return {"rates/meta_lr_sdf": plan.meta_lr_sdf, "rates/meta_lr": plan.meta_lr,
                "rates/inner_lr_sdf": self.rates.lr_sdf * plan.inner_factor_sdf * self.rate_factor,
                "rates/inner_lr": self.rates.lr * plan.inner_factor * self.rate_factor}

    def pictures(self, step: int) -> dict[str, np.ndarray]:
        """Return a view before and after adaptation, and the losses of the last inner steps.

        The scenes are held-out ones, where there are any. Nothing that is trained depends on it.
        """
        scenes, shown = self.trials or self.pool, []
        num_steps = self.meta.meta_eval_steps
        for index in range(min(len(scenes), MAX_SHOWN_SCENES)):
            put_weights(self.model, self.slow)
            scene = scenes[index]
            task = self.make_trial(self.model, scene, self.generator("picture", index))
            shown.append(rendered_while_adapting(task, scene, self.reference_view, num_steps))
        found = {"adaptation": adaptation_grid(shown, f"after {step} outer steps: {num_steps} "
                                                      "steps on a scene")}
        name, losses = self._inner
        if losses:
            found["inner_losses"] = inner_loss_plot(losses, f"outer step {step}: {name}")
        return found

    def learned_model(self) -> nn.Module:
        """Return the model with the slow weights."""
        self.model.load_state_dict(self.first_state | self.slow)
        return self.model

    def state_dict(self) -> dict[str, Any]:
        """Return the slow weights as a model's state, and all that the next step depends on."""
        state = {name: value.clone() for name, value in (self.first_state | self.slow).items()}
        return {"model": state, "batch_size": self.batch_size,
                "outer": self.adam.optimizer.state_dict() if self.adam else None,
                "scenes": [entry.outline.path.name for entry in self.pool.entries]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; without --meta_batch_size its batch size too."""
        if (state["outer"] is None) != (self.adam is None):
            raise ValueError("it was meta-trained with another --meta_algorithm")
        if type(state["batch_size"]) is not int or state["batch_size"] < 1:
            raise ValueError("its batch size is no number of scenes")
        load_state(self.model, state["model"], "the run's checkpoint")
        for name, value in copy_weights(self.model).items():
            self.slow[name].copy_(value)
        if self.adam is not None:
            load_adam(self.adam.optimizer, state["outer"])
        self.batch_size = self.meta.meta_batch_size or state["batch_size"]
        self.state_changed()
        names, before = [entry.outline.path.name for entry in self.pool.entries], state["scenes"]
        if names != before:
            differences = {"gone": [name for name in before if name not in names],
                           "new": [name for name in names if name not in before]}
            log.warning("resumes with %d scenes, not the %d that it began with: %s", len(names),
                        len(before), "; ".join(name_some(kind, scenes) for kind, scenes in
                                               differences.items() if scenes))


def meta_train(config: Config, ranks: Ranks, initial: InitialWeights | None = None) -> str:
    """Meta-train on the scenes of a folder, and write the learned start.

    Args:
        config: of the meta-training script.
        ranks: the processes, each of which calls this.
        initial: weights that are read already; None: those that the flags name.
    Returns:
        Where the learned start is, and what it took; empty on all processes but the main one.
    """
    run = start_run(config, is_main=ranks.is_main)
    pool = open_pool(config.data, config.meta, seed=config.run.seed)
    model = model_of(config, run.device, initial)
    trainer = MetaTrainer(model, pool, partial(task_on_scene, config=config), meta=config.meta,
                          rates=config.rates, seed=config.run.seed, ranks=ranks)
    if config.meta.meta_eval_path:
        trainer.trials = open_pool(config.data, config.meta, path=config.meta.meta_eval_path,
                                   flag="meta_eval_path", is_scored=True)
    trainer.reference_view = config.data.reference_view
    shown = trainer.trials or pool
    if not any(trainer.reference_view in (-1, *entry.split.train) for entry in shown.entries):
        log.warning("--reference_view %d: no scene trains on it; pictures show a middle view",
                    trainer.reference_view)
    options = loop_options(config.run, outer_steps_per_epoch(pool, config.views))
    log.info("%d scenes, %d outer steps of %d inner ones", len(pool), options.num_steps,
             config.meta.num_meta_steps)
    progress = train_on_ranks(trainer, run, options)
    if progress is None:
        return ""
    path, model = run.folder.path / WEIGHTS_FILE, trainer.learned_model()
    save_networks(path, precision=config.meta.start_precision,
                  **{name: getattr(model, name) for name in NETWORKS})
    write_curve(progress.curve, run.folder.path / "curve.csv")
    return f"{path}: {progress.step} outer steps, {progress.seconds:.0f} s"


def outer_steps_per_epoch(pool: ScenePool, views: ViewsConfig) -> int:
    """Return the outer steps of an epoch: as many as all scenes have training views.

    So it is in the released code. `total_number_source_views`, where it is given, counts for each
    scene instead.
    """
    return sum(steps_per_epoch(views, len(entry.split.train)) for entry in pool.entries)


def check_meta(config: Config) -> None:
    """Raise ConfigError for flags that only the training of a single scene can follow."""
    for flag, is_default in (("refine_cameras", config.views.refine_cameras == 0),
                             ("init", config.sdf.init == "sphere")):
        if not is_default:
            raise ConfigError(f"--{flag} is of one scene, meta-training learns a start for many; "
                              f"leave it out, and give it to {typed('specialize')}"
                              + "; --num_meta_steps 0 has it for each scene" * (flag == "init"))


def task_on_scene(model: nn.Module, scene: PoolScene, generator: torch.Generator, *,
                  config: Config, adjust: Adjust = None) -> SceneTrainer:
    """Return the training of a pool's scene; it is scored if the scene has held-out views.

    Nothing is traced yet: the surface in a view is traced when a step first needs it.
    """
    device = next(model.parameters()).device
    evaluation = None if scene.scene is None else SceneEvaluation(scene.scene, scene.split)
    trainer = build_scene_trainer(model, scene.views.to(device), config, generator=generator,
                                  cloud=scene.cloud, evaluation=evaluation, adjust=adjust)
    check_memory(trainer)
    return trainer
