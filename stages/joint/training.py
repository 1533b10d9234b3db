"""Joint training of encoder, decoder and aggregation over a pool of scenes (`--num_meta_steps 0`).

What is to be good before the first step of a scene has to be trained for no step at all: a step
renders views of some scenes on the surfaces that their runs start from (`--init`), from their
training views, and moves the image networks along the mean gradient. Phi is not trained. Targets
are all views of a scene, those that are no sources included; a source never feeds itself.

Batch normalisation keeps its running statistics, as what is rendered before a first step has them.
Which scenes and views a step takes depends on the seed and the step alone.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from loss_functions import image_loss
from scheduler import StepPlan
from stages.joint.rendering import render, start_psnr
from stages.joint.surfaces import StartedScene
from training import AVERAGED
from utils.checkpoints.storage import load_state
from utils.config.sections import LossConfig
from utils.errors import ConfigError
from utils.optimization.finite import FiniteGuard
from utils.optimization.parameter_groups import keep_batch_statistics, load_adam
from utils.optimization.weight_average import WeightAverage
from utils.runs.distributed import (
    ONE_PROCESS,
    Ranks,
    average_gradients,
    average_tensors,
    broadcast_adam,
    broadcast_tensors,
    failing_together,
)
from utils.runs.ranked_training import RankedTrainer
from utils.runs.seeds import generator_of, item_in_turn

#: How often two sources fewer are given, where more than three are left then.
SPARSE_SHARE = 0.3
#: Colours of a scene, all its photographs alike: gain of all and of each channel, and exponent.
GAINS, CHANNEL_GAINS, EXPONENTS = (0.7, 1.15), (0.8, 1.2), (0.75, 1.35)


class Scenes(Protocol):
    """Scenes by number."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __getitem__(self, number: int, /) -> StartedScene:
        """Return one of them."""
        ...


@dataclass(frozen=True)
class JointDraw:
    """How a step draws scenes and views.

    Attributes:
        num_scenes: of a step.
        num_sources: source views of a scene, at most; 0 and less: all.
        num_targets: target views of a scene.
        seed: of everything random.
    """

    num_scenes: int
    num_sources: int
    num_targets: int
    seed: int

    def views(self, scene: StartedScene, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the sources (K,) and targets (T,) of a scene, numbers of its views."""
        order = torch.randperm(len(scene.sources), generator=generator)
        count = len(order) if self.num_sources <= 0 else min(self.num_sources, len(order))
        is_sparse = float(torch.rand((), generator=generator)) < SPARSE_SHARE
        count -= 2 * (is_sparse and count > 5)
        sources = torch.tensor(scene.sources)[order[:count].sort().values]
        targets = torch.randperm(len(scene.views), generator=generator)[:self.num_targets]
        return sources, targets


def recoloured(generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Draw a change of colours: order of the channels, gains, and an exponent.

    Returns:
        Images (V, 3, H, W) in [0, 1] to images of the same range.
    """
    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    order = torch.randperm(3, generator=generator)
    gain = between(*GAINS, 1) * between(*CHANNEL_GAINS, 3)
    exponent = float(between(*EXPONENTS, 1))

    def change(images: Tensor) -> Tensor:
        shaped = images[:, order.to(images.device)].clamp(min=1e-4) ** exponent
        return (shaped * gain.to(images.device)[:, None, None]).clamp(0, 1)

    return change


class JointTrainer(RankedTrainer):
    """Trains the image networks on scenes whose surfaces are known; a `Task` of the loop.

    Args:
        model: trained in place; its Phi takes no part.
        scenes: those to train on.
        draw: what a step draws of them.
        plan: step number to its settings, of which learning rate, occlusion threshold and the
            decay of the averaged weights count.
        loss: the image loss.
        ranks: the processes; each makes a JointTrainer with the same weights.

    Attributes:
        trials: held-out scenes on which the averaged weights are scored.
    """

    def __init__(self, model: nn.Module, scenes: Scenes, draw: JointDraw, *,
                 plan: Callable[[int], StepPlan], loss: LossConfig,
                 ranks: Ranks = ONE_PROCESS) -> None:
        super().__init__(ranks)
        if draw.num_scenes % ranks.size:
            raise ConfigError(f"--meta_batch_size {draw.num_scenes} on {ranks.size} processes: "
                              "need as many scenes for each of them; give a multiple")
        self.model, self.scenes, self.draw, self.plan, self.loss = model, scenes, draw, plan, loss
        self.parameters = [parameter for name in AVERAGED
                           for parameter in getattr(model, name).parameters()
                           if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters)
        self.average = WeightAverage(model, AVERAGED, plan(0).average_decay)
        self.guard = FiniteGuard()
        self.trials: Scenes = ()

    def shared_step(self, step: int) -> dict[str, Tensor]:
        """Take one step on the scenes of all processes.

        Returns:
            "image" and "total", the mean image loss of a scene.
        Raises:
            FloatingPointError: on a CPU, a loss or gradient is not finite; nothing was updated.
            UserError: a scene cannot be read, or another process is gone.
        """
        plan = self.plan(step).scaled(self.rate_factor)
        share = self.ranks.share(self.draw.num_scenes)
        self.optimizer.zero_grad(set_to_none=True)
        with failing_together(self.ranks):
            total = torch.stack([self._backward(step, position, plan, len(share))
                                 for position in share]).mean()
        average_gradients(self.parameters, self.ranks)
        average_tensors([total], self.ranks)
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        total = self.guard.check_gradients(total, norm, self.parameters)
        self.optimizer.param_groups[0]["lr"] = plan.lr
        self.optimizer.step()
        self.average.update()
        return {"image": total, "total": total}

    def _backward(self, step: int, position: int, plan: StepPlan, count: int) -> Tensor:
        """Add a scene's part of the gradient; return its loss, detached."""
        draw = self.draw
        number = item_in_turn(step * draw.num_scenes + position, len(self.scenes), draw.seed)
        generator = generator_of(draw.seed, "joint", step, position)
        loss = self.scene_loss(self.scenes[number], generator, plan.occ_threshold)
        self.guard.check_losses(loss, {"image": loss})
        (loss / count).backward()
        return loss.detach()

    def scene_loss(self, scene: StartedScene, generator: torch.Generator,
                   occ_threshold: float) -> Tensor:
        """Return the image loss of views of a scene drawn now, with its graph."""
        sources, targets = self.draw.views(scene, generator)
        change = recoloured(generator)
        images, masks = change(scene.views.images[targets]), scene.views.masks[targets]
        regions = scene.regions and scene.regions.of(targets, sources)
        put_in_training(self.model)
        rendered = render(self.model, scene, sources, targets, change=change, regions=regions,
                          occ_threshold=occ_threshold)
        return image_loss(rendered, images, masks, self.loss.color_loss,
                          region=self.loss.image_loss_region)

    def score(self, step: int) -> dict[str, float]:
        """Return the mean PSNR of the held-out scenes' held-out views, with averaged weights.

        Returns:
            "psnr"; empty without held-out scenes.
        """
        if not len(self.trials):
            return {}
        model = self.average.averaged_model().eval()
        found = [start_psnr(model, self.trials[number], self.plan(0).occ_threshold)
                 for number in range(len(self.trials))]
        return {"psnr": sum(found) / len(found)}

    def share_state(self) -> None:
        """Give all processes the main one's networks and Adam's state."""
        broadcast_tensors(list(self.model.state_dict().values()), self.ranks)
        broadcast_adam(self.optimizer, self.ranks)

    def state_dict(self) -> dict[str, Any]:
        """Return networks, optimiser and average; what a step draws depends on its number."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        load_state(self.model, state["model"], "the run's checkpoint")
        load_adam(self.optimizer, state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.guard.forget()
        self.state_changed()


def put_in_training(model: nn.Module) -> None:
    """Put a model into training mode, but for the statistics of batch normalisation."""
    model.train()
    keep_batch_statistics(model)
