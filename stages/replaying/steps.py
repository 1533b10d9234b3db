"""Image steps that are replayed, from the drawn views to the gradients."""
from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from scheduler import StepPlan
from training import SceneTrainer
from utils.fast.replays import Outputs, Replayed
from utils.views.step_views import StepViews
from utils.views.target_crops import WholeTargets
from utils.views.training_views import Batch


class ReplayingTrainer(SceneTrainer):
    """A trainer whose image steps are replayed, from the drawn views to the gradients.

    Steps that train the shape are taken as ever. Targets are whole and cameras as given
    (`stages.scene` refuses the rest); Adam's step follows outside, as its rates change.
    """

    _replayed: tuple[float, Replayed] | None = None

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """The weights that image steps train: those of E, G and D that are not frozen."""
        shape = {id(parameter) for parameter in self.model.sdf.parameters()}
        return [parameter for parameter in self.model.parameters()
                if parameter.requires_grad and id(parameter) not in shape]

    def take(self, plan: StepPlan) -> dict[str, Tensor]:
        """See `SceneTrainer.take`."""
        trained = self.trained
        if plan.train_shape or not trained:
            return super().take(plan)
        views = self.sampled.draw(self.generator, self.buffer)
        self.trace(self.buffer.untraced(views.drawn.sources))
        if self._replayed is None or self._replayed[0] != plan.occ_threshold:
            self._replayed = plan.occ_threshold, Replayed(
                partial(self.image_gradients, plan, trained), self.device)
        loss, *gradients = self._replayed[1](views.batch.sources, views.batch.targets)
        assert loss is not None, "the work returns it"
        losses = {"image": loss.clone(), "total": loss.clone()}
        self.guard.check_losses(losses["total"], losses)
        self.optimizer.zero_grad(set_to_none=True)
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient
        losses["total"] = self.update(losses["total"], plan)
        return losses

    def image_gradients(self, plan: StepPlan, trained: list[torch.nn.Parameter], sources: Tensor,
                        targets: Tensor) -> Outputs:
        """Return the image loss and the gradients of the trained weights; None where one has none.

        Args:
            plan: its occlusion threshold is read.
            trained: weights.
            sources, targets: (K,) and (T,) views, on the device.
        """
        batch, pixels = Batch(sources, targets), WholeTargets(self.buffer, targets)
        views = StepViews(batch, batch, self.buffer.cameras[sources], pixels,
                          self.buffer.dirs[targets])
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.image_loss(views, pixels.surface(), plan)
        loss.backward()
        return [loss.detach(), *(parameter.grad for parameter in trained)]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `SceneTrainer.load_state_dict`; cameras and buffer may be others afterwards."""
        super().load_state_dict(state)
        self._replayed = None
